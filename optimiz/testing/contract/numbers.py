"""Promises about numbers: extreme gradients, NaN, and minimizing a loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import Subject
from optimiz.testing.trees import DTYPES, params, train


def _harmless(subject: Subject, value: float) -> None:
    """After a first gradient with this value in every entry, that step and the next ones are finite."""
    for dtype in DTYPES:
        given = min(value, float(jnp.finfo(dtype).max))
        p = params(dtype)
        g = jax.tree.map(lambda x, given=given: jnp.full_like(x, given), p)
        updates, state = subject.update(g, subject.init(p), p)
        with expect.at(step=0, parameters=dtype, gradients=given):
            expect.finite(updates, "updates")
            expect.finite(state, "state")
        for i, updates, _, after in train(subject.update, p, state, range(3 * subject.period)):
            with expect.at(step=i + 1, parameters=dtype, gradients_before=given):
                expect.finite(updates, "updates")
                expect.finite(after, "state")


@promise("a gradient of zero is harmless")
def zero_gradient(subject: Subject) -> None:
    """Unused rows of an embedding and dead units have zero gradients, and a root or a norm of zero divides."""
    _harmless(subject, 0.0)


@promise("a tiny gradient is harmless")
def tiny_gradient(subject: Subject) -> None:
    """Its square is zero in float32, so an optimizer that divides by a root of it must allow for zero."""
    _harmless(subject, 1e-30)


@promise("a huge gradient does no lasting harm")
def huge_gradient(subject: Subject) -> None:
    """Its square overflows, and an infinite second moment never recovers: its parameters no longer move."""
    _harmless(subject, 1e30)


@promise("a gradient that is not finite is seen in the update")
def not_finite_is_seen(subject: Subject) -> None:
    """An optimizer that hides a NaN continues with a broken model, and nobody notices."""
    tx, p = subject.make(), {"w": jnp.ones(3)}
    for value in (jnp.nan, jnp.inf):
        state, entries = tx.init(p), []
        for i in range(subject.period):
            g = {"w": jnp.array([1.0, value if i == 0 else 1.0, 1.0])}
            updates, state = tx.update(g, state, p)
            entries.append(float(updates["w"][1]))
        # A sign is finite even for an infinite gradient; it must be the right sign.
        seen = any(not np.isfinite(x) or (np.isinf(value) and x < 0) for x in entries)
        assert seen, f"a gradient of {value} at step 0 becomes an update of {entries[-1]}"


@promise("it minimizes a quadratic")
def minimizes(subject: Subject) -> None:
    """The least to expect: 200 steps at a rate that decays to zero reduce the loss by a factor of 20."""
    steps = 200 * subject.period
    tx = subject.make(optax.linear_schedule(subject.rate, 0.0, 200), **subject.no_decay)

    def loss(p: Any) -> jax.Array:
        return jnp.asarray(sum(jnp.sum((x - 0.3) ** 2) for x in jax.tree.leaves(p)))

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(loss)(p), state, p)
        return (optax.apply_updates(p, updates), state), None

    (p, _), _ = jax.lax.scan(step, (params(), tx.init(params())), length=steps)
    before, after = float(loss(params())), float(loss(p))
    assert after < 0.05 * before, f"the loss is {after:.3g} after {steps} steps, it was {before:.3g}"
