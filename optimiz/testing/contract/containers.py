"""Promises about the pytrees that hold parameters."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import Subject
from optimiz.testing.trees import CONTAINERS, gradients, params


def _come_back(subject: Subject, trees: Mapping[str, Callable[[], Any]]) -> None:
    """Updates have the tree, shapes and dtypes of the parameters, and the state keeps its own."""
    start = {name: make() for name, make in trees.items()}

    def first_update(p):
        state = subject.tx.init(p)
        updates, after = subject.tx.update(jax.tree.map(lambda x: 0.5 * x, p), state, p)
        return updates, state, after

    for name, p in start.items():
        with expect.at(parameters=name):
            updates, state, after = jax.eval_shape(first_update, p)
            expect.same_dtypes(updates, p, "updates")
            expect.same_dtypes(after, state, "state")
    computed = jax.jit(lambda: {name: first_update(p) for name, p in start.items()})()  # one program
    for name, (updates, _, _) in computed.items():
        with expect.at(parameters=name):
            expect.finite(updates, "updates")


@promise("lists, tuples, NamedTuples and dataclasses come back as they are")
def containers(subject: Subject) -> None:
    """Every model library has its own containers, and jax.tree.map needs trees of the same structure."""
    _come_back(subject, CONTAINERS["containers"])


@promise("a bare array and a scalar are trees")
def bare_arrays(subject: Subject) -> None:
    """The first thing that anyone tries an optimizer on."""
    _come_back(subject, CONTAINERS["bare"])


@promise("an empty tree is a tree")
def empty_trees(subject: Subject) -> None:
    """A group of optax.partition may have no parameters; sums and maxima over it need an initial value."""
    _come_back(subject, CONTAINERS["empty"])


@promise("None and MaskedNode stay where they are")
def holes(subject: Subject) -> None:
    """A layer without a bias has None for it, and optax.masked puts MaskedNode in place of parameters."""
    _come_back(subject, CONTAINERS["holes"])


@promise("an array without entries is harmless")
def arrays_without_entries(subject: Subject) -> None:
    """The mean over no entries is 0 / 0."""
    _come_back(subject, CONTAINERS["size zero"])


@promise("names of parameters may be anything")
def names(subject: Subject) -> None:
    """Names with separators, empty names and integers are dict keys like any other."""
    _come_back(subject, CONTAINERS["names"])


@promise(
    "the given trees come back as they are",
    applies_to=lambda subject: None if subject.trees else "no tree is given",
)
def given_trees(subject: Subject) -> None:
    """They are the parameters of a model that the optimizer is meant for."""
    _come_back(subject, subject.trees)


@promise("a gradient that does not fit is refused with its path", convention=True)
def misfits_are_refused(subject: Subject) -> None:
    """A gradient of shape (1,) is silently broadcast, and trains something else."""
    p = params()
    state, g = subject.tx.init(p), gradients(0, p)
    broadcast = g | {"layer": g["layer"] | {"bias": jnp.ones(1)}}
    for misfit, pattern in (
        (broadcast, r"\['layer'\]\['bias'\] has shape \(1,\)"),
        ({"layer": g["layer"]}, "kernel"),
    ):
        try:
            jax.eval_shape(subject.tx.update, misfit, state, p)
        except ValueError as error:
            assert re.search(pattern, str(error)), f"the message names no leaf {pattern!r}: {error}"
        else:
            raise AssertionError(
                f"{jax.tree.map(jnp.shape, misfit)} for parameters {jax.tree.map(jnp.shape, p)} passes"
            )
