"""Promises about dtypes and precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import RATE, Subject
from optimiz.testing.trees import DTYPES, gradients, params, trained

_RATES = {
    "a Python number": RATE,
    "np.float32": np.float32(RATE),
    "np.float64": np.float64(RATE),
    "a JAX array": jnp.float32(RATE),
    "a schedule": optax.constant_schedule(RATE),
}


def _updates_have_the_dtype_of(like: Any, subject: Subject, g: Any, dtype: Any) -> None:
    p = params(dtype)
    for kind, rate in _RATES.items():
        with expect.at(parameters=dtype, learning_rate=kind):
            tx = subject.make(rate)
            updates = jax.eval_shape(lambda g, p, tx=tx: tx.update(g, tx.init(p), p)[0], g, p)
            expect.same_dtypes(updates, like, "updates")

    def at(rate):
        tx = subject.make(rate)
        return tx.update(g, tx.init(p), p)[0]

    with expect.at(parameters=dtype, learning_rate="traced"):
        expect.same_dtypes(jax.eval_shape(at, RATE), like, "updates")


@promise("updates have the dtype of the parameters whatever the learning rate is")
def updates_have_the_dtype_of_parameters(subject: Subject) -> None:
    """Updates of another dtype cost memory, and parameters to which they are added by hand change dtype."""
    for dtype in DTYPES:
        p = params(dtype)
        _updates_have_the_dtype_of(p, subject, gradients(0, p), dtype)


@promise("updates have the dtype of the parameters for gradients of another dtype too", convention=True)
def updates_have_the_dtype_of_parameters_for_other_gradients(subject: Subject) -> None:
    """Gradients are often float32 while parameters are bfloat16. Optax leaves the cast to apply_updates."""
    for dtype in DTYPES:
        _updates_have_the_dtype_of(params(dtype), subject, gradients(0, params()), dtype)


@promise("float64, bfloat16 and float32 parameters work in one tree")
def mixed_dtypes(subject: Subject) -> None:
    """Norms and embeddings often have a different precision from the rest of a model."""
    with jax.enable_x64(True):
        p = {"a": jnp.ones(3, jnp.float64), "b": jnp.ones(3, jnp.bfloat16), "c": jnp.ones(3, jnp.float32)}
        tx = subject.make(RATE)
        state = jax.eval_shape(tx.init, p)
        updates, after = jax.eval_shape(tx.update, gradients(0, p), state, p)
        expect.same_dtypes(updates, p, "updates")
        expect.same_types(after, state, "state")


@promise("x64 mode changes nothing for float32 parameters")
def x64_changes_nothing(subject: Subject) -> None:
    """A program that needs float64 elsewhere should train the same model, with a state of the same size."""
    narrow = trained(subject.tx, subject.update, params(), 3)
    with jax.enable_x64(True):
        tx = subject.make(RATE)
        p = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), params())
        wide = trained(tx, jax.jit(tx.update), p, 3)
    expect.same_dtypes(wide, narrow, "parameters and state")
    expect.close(wide, narrow, "parameters and state", rtol=1e-5, atol=1e-6)


@promise("statistics of low-precision parameters are accurate")
def statistics_are_accurate(subject: Subject) -> None:
    """In bfloat16 a slow moving average stops moving, and in float16 squares of small gradients are 0.

    After ten large gradients and 990 small ones, the update must be within 10 % of that of float32 parameters.
    """
    scales = jnp.where(jnp.arange(1000) < 10, 1e-2, 5e-4)

    @jax.jit
    def last_updates(g, p):
        def step(carry, scale):
            scaled = jax.tree.map(lambda x: (x * scale).astype(x.dtype), g)
            updates, state = subject.tx.update(scaled, carry[1], p)
            return (jax.tree.map(lambda u, like: u.astype(like.dtype), updates, p), state), None

        start = jax.tree.map(jnp.zeros_like, p), subject.tx.init(p)
        return jax.lax.scan(step, start, scales)[0][0]

    for dtype in (jnp.bfloat16, jnp.float16):
        p = params(dtype)
        g = gradients(0, p)
        updates = last_updates(g, p)
        wide = last_updates(*(jax.tree.map(lambda x: x.astype(jnp.float32), tree) for tree in (g, p)))
        with expect.at(step=1000, parameters=dtype):
            expect.finite(updates, "updates")
            paths = jax.tree_util.tree_leaves_with_path(wide)
            for u, (path, w) in zip(jax.tree.leaves(updates), paths, strict=True):
                error = np.linalg.norm(np.asarray(u, np.float32) - w) / np.linalg.norm(w)
                assert error < 0.1, (
                    f"updates{jax.tree_util.keystr(path)} differs from that of float32 by {error:.0%}"
                )
