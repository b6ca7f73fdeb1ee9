"""The study on width: what is trained, and what is said of a rate that is carried over."""

import dataclasses
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from examples.studies.width import report
from examples.studies.width.arms import GRIDS, MUP, STANDARD, arm
from optimiz import compare, groups
from tests.compare.records import record, run
from tests.conftest import ROOT

RATES = (0.01, 0.1, 1.0)
LOSSES = {  # (parametrization, width) → loss by rate
    (STANDARD, 32): (3.0, 2.0, 2.5),
    (STANDARD, 64): (1.5, 1.8, None),
    (MUP, 64): (2.0, 1.4, 1.6),
}


def study():
    """The best rate falls with the width, but for μP."""
    runs = [
        run("adamw", None, rate=rate, extra={"width": width, "parametrization": how, "validation": loss})
        for (how, width), losses in LOSSES.items()
        for rate, loss in zip(RATES, losses, strict=True)
    ]
    settings = {"base": 32, "steps": 100, "batch_size": 8, "length": 64}
    return dataclasses.replace(record(*runs), settings=settings)


def test_the_base_is_alike_and_its_rate_loses_what_it_is_worse_by_elsewhere():
    results = report.Results(study())
    assert results.losses("adamw", MUP, 32) == results.losses("adamw", STANDARD, 32)
    assert results.losses("adamw", STANDARD, 64)[1.0] == math.inf
    assert [results.best("adamw", how, 64) for how in (STANDARD, MUP)] == [0.01, 0.1]
    assert [results.carried("adamw", how, 64) for how in (STANDARD, MUP)] == [pytest.approx(0.3), 0.0]
    assert results.edges() == ["adamw at width 64 (standard)"]
    text = report.summary(study())
    assert "| adamw | standard | 0.1 | 2.000 | 0.000 | 0.01 | 1.500 | 0.300 |" in text
    assert "| adamw | μP | 0.1 | 2.000 | 0.000 | 0.1 | 1.400 | 0.000 |" in text


@pytest.mark.parametrize("name", GRIDS)
def test_steps_of_a_wider_model_are_shorter_with_mup_alone(name):
    narrow, wide = ({"up": jnp.eye(n, 4 * n), "head": jnp.zeros((n, 9))} for n in (2, 8))
    mup = groups.mup(narrow)

    def head(mup):
        tx = arm(name, 0.1, 10, 8, mup).optimizer()
        state, grads = tx.init(wide), jax.tree.map(jnp.ones_like, wide)
        for _ in range(3):
            updates, state = tx.update(grads, state, wide)
        return updates["head"][0, 0]

    assert head(mup) == pytest.approx(head(None) / 4)
    assert arm(name, 0.1, 10, 8, mup).make is arm(name, 0.2, 10, 8, mup).make


@pytest.mark.long
def test_the_study_as_a_person_runs_it(tmp_path):
    flags = {"widths": "32,64", "steps": 10, "seeds": 1, "extensions": 0, "output": tmp_path / "out"}
    program = [sys.executable, "-m", "examples.studies.width.study", *(f"--{k}={v}" for k, v in flags.items())]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = compare.Record.read(tmp_path / "out/record.json")
    assert len(found.runs) == 3 * 2 * 3  # widths and parametrizations, optimizers, rates
    begins = {(one.extra["width"], one.extra["parametrization"]): one.fingerprint for one in found.runs}
    assert len({*begins.values()}) == 3
    assert (tmp_path / "out/report.md").read_text() == report.render(found)
