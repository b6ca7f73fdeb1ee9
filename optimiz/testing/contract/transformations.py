"""Promises about JAX's transformations: jit, scan, vmap, cond and grad."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import Subject
from optimiz.testing.trees import gradients, params, train, trained

_STEPS = 50


@promise("jit equals eager")
def jit_equals_eager(subject: Subject) -> None:
    """What is debugged without jit should be what is trained with jit."""
    eager = trained(subject.tx, subject.tx.update, params())
    jitted = trained(subject.tx, subject.update, params())
    with expect.at(step=5):
        expect.same_dtypes(jitted, eager, "parameters and state")
        expect.close(jitted, eager, "parameters and state", rtol=1e-5, atol=1e-6)


@promise("repeats bit for bit")
def repeats(subject: Subject) -> None:
    """A run that cannot be repeated cannot be debugged; hidden state and randomness are lost at a restart."""
    tx = subject.make()
    first, second = trained(subject.tx, subject.update, params()), trained(tx, jax.jit(tx.update), params())
    expect.equal(second, first, "parameters and state of the second run")


@functools.lru_cache(maxsize=1)
def _looped(subject: Subject) -> tuple[Any, Any, int]:
    """A run of 50 steps with a schedule: the optimizer, the parameters and state, and the number of traces."""
    tx = subject.make(optax.linear_schedule(0.1, 0.0, _STEPS))
    traces = []

    @jax.jit
    def update(g, state, p):
        traces.append(1)
        return tx.update(g, state, p)

    return tx, trained(tx, update, params(), _STEPS), len(traces)


@promise("scan equals a loop")
def scan_equals_a_loop(subject: Subject) -> None:
    """Whole epochs are compiled with lax.scan, which needs a state that keeps its types."""
    tx, looped, _ = _looped(subject)
    steps = [gradients(i, params()) for i in range(_STEPS)]

    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p)
        return (optax.apply_updates(p, updates), state), None

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
    scanned, _ = jax.lax.scan(step, (params(), tx.init(params())), stacked)
    with expect.at(step=_STEPS):
        expect.close(scanned, looped, "parameters and state", rtol=1e-4, atol=1e-5)


@promise("the update is traced once")
def traced_once(subject: Subject) -> None:
    """Compiling a large model takes seconds to minutes; if the state changes type, it is compiled again."""
    traces = _looped(subject)[2]
    assert traces == 1, f"{_STEPS} steps with a schedule were traced {traces} times"


@promise("vmap over learning rates equals each alone")
def vmap_equals_each_alone(subject: Subject) -> None:
    """A sweep over learning rates can run as one program, in which the learning rate is an array."""

    def run(rate, steps):
        tx = subject.make(rate)
        p, state = params(), None
        state = tx.init(p)
        for g in steps:
            updates, state = tx.update(g, state, p)
            p = optax.apply_updates(p, updates)
        return p

    steps = [gradients(i, params()) for i in range(3)]
    rates = jnp.array([0.01, 0.1])
    together = jax.jit(jax.vmap(run, in_axes=(0, None)))(rates, steps)
    alone = jax.jit(run)
    for i in range(2):
        with expect.at(learning_rate=rates[i], step=3):
            mapped = jax.tree.map(lambda x, i=i: x[i], together)
            expect.close(mapped, alone(rates[i], steps), "parameters", rtol=1e-5, atol=1e-6)


@promise("cond takes the update")
def cond_takes_the_update(subject: Subject) -> None:
    """Skipping a step under jit takes a lax.cond, whose two branches must return the same types."""
    p = params()
    state = subject.tx.init(p)
    idle = jax.tree.map(jnp.zeros_like, p)

    def either(go, g):
        return jax.lax.cond(go, lambda: subject.tx.update(g, state, p), lambda: (idle, state))

    jax.eval_shape(either, True, gradients(0, p))


@promise("the compiled update calls no host")
def calls_no_host(subject: Subject) -> None:
    """A callback stalls the accelerator at every step, and does not work on several hosts."""
    p = params()
    text = subject.update.lower(gradients(0, p), subject.tx.init(p), p).as_text()
    assert "callback" not in text, "the compiled update calls back to Python"


@promise("the state may be donated")
def state_may_be_donated(subject: Subject) -> None:
    """Without donation the state is in memory twice. No array may be in it twice, or be a parameter too."""
    start = jax.tree.map(jnp.copy, params())
    update = jax.jit(lambda g, state, p: subject.tx.update(g, state, p), donate_argnums=(1,))
    for i, _, p, _ in train(update, start, subject.tx.init(start), range(3)):
        with expect.at(step=i):
            expect.finite(p, "parameters")


@promise("the update can be differentiated")
def can_be_differentiated(subject: Subject) -> None:
    """Learned hyperparameters and meta-learning differentiate through updates; one NaN spoils everything."""
    steps = [gradients(i, params()) for i in range(2)]

    def end(start, scale):
        p, state = start, subject.tx.init(start)
        for g in steps:
            scaled = jax.tree.map(lambda x: x * scale, g)
            updates, state = subject.tx.update(scaled, state, p)
            p = optax.apply_updates(p, updates)
        return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(p))

    by_start, by_scale = jax.jit(jax.grad(end, argnums=(0, 1)))(params(), 1.1)
    with expect.at(step=2):
        expect.finite(by_start, "the derivative by the parameters")
        expect.finite(by_scale, "the derivative by the size of the gradients")
