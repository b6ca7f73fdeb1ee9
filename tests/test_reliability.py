"""The table of what can go wrong names tests that exist; and what no other page tests."""

import ast
import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.conftest import ROOT
from tests.contract.test_contract import TABLE

PAGE = (ROOT / "tests/records/reliability.md").read_text(encoding="utf-8")
FAILURES = 85


def rows():
    """Number → what stands beside it: the failure, what happens, and the tests, of a row of the table."""
    return {int(row[1]): row[2] for row in re.finditer(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)}


@functools.cache
def names_in(path):
    """The names of the tests of a page, which is read and not run."""
    module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        node.name for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_failure_has_its_row():
    assert list(rows()) == list(range(1, FAILURES + 1))
    assert len(re.findall(r"^\| \d", PAGE, re.MULTILINE)) == FAILURES


def test_a_row_names_tests_that_exist_or_says_why_it_does_not_apply():
    for number, text in rows().items():
        failure, happens, named = text.split(" | ")
        assert failure and happens, number
        nodes = named.split("<br>") if named else []
        assert bool(nodes) != happens.startswith("not applicable: "), number
        for node in nodes:
            path, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", node).groups()
            assert name in names_in(path), f"row {number}: there is no {node}"


@pytest.mark.parametrize("name", ["adafactor", "adamw", "lamb", "lion", "salsa", "sgd_sai"])
def test_complex_parameters_descend(name):
    tx = TABLE[name].make(0.05)
    params = jnp.array([1 + 1j, 2 - 1j, 0.5j])

    @jax.jit
    def step(params, state):  # of |w|² / 2, whose gradient of steepest ascent is w
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    after, state = params, tx.init(params)
    for _ in range(5):
        after, state = step(after, state)
    assert after.dtype == params.dtype
    assert jnp.linalg.norm(after) < 0.99 * jnp.linalg.norm(params)
