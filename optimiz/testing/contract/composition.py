"""Promises about Optax's combinators."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import RATE, Subject
from optimiz.testing.trees import gradients, params, train

_MASK = {"kernel": True, "layer": {"bias": False, "scale": False}}


@promise("chain takes it")
def chain_takes_it(subject: Subject) -> None:
    """Clipping before an optimizer and a multiplier after it are added with optax.chain."""
    clip = optax.clip_by_global_norm(1.0)
    chained = optax.chain(clip, subject.make(), optax.scale(0.5))
    start = params()
    alone = subject.tx.init(start)
    for i, updates, p, _ in train(
        jax.jit(chained.update), start, chained.init(start), range(2 * subject.period)
    ):
        clipped, _ = clip.update(gradients(i, start), clip.init(start))
        by_hand, alone = subject.update(clipped, alone, start)
        with expect.at(step=i):
            expect.finite(updates, "updates")
            halved = jax.tree.map(lambda u: 0.5 * u, by_hand)
            expect.close(updates, halved, "updates in a chain", rtol=1e-4, atol=1e-6)
        start = p


@promise("masked leaves other parameters alone")
def masked_takes_it(subject: Subject) -> None:
    """Inside optax.masked an optimizer sees MaskedNode in place of some arrays, and must leave them alone."""
    p = params()
    tx: Any = optax.masked(subject.make(), _MASK)
    g = gradients(0, p)
    updates, _ = tx.update(g, tx.init(p), p)
    expect.equal(updates["layer"], g["layer"], "updates['layer']")


@promise("partition equals it alone")
def partition_takes_it(subject: Subject) -> None:
    """If each group of parameters has its own optimizer, each optimizer must see only its own group."""
    p = params()
    labels = {"kernel": "a", "layer": {"bias": "b", "scale": "b"}}
    tx: Any = optax.partition({"a": subject.make(), "b": optax.set_to_zero()}, labels)
    alone = subject.make()
    part = {"kernel": p["kernel"]}
    state, its_state = tx.init(p), alone.init(part)
    for i in range(subject.period):
        g = gradients(i, p)
        updates, state = tx.update(g, state, p)
        wanted, its_state = alone.update({"kernel": g["kernel"]}, its_state, part)
        with expect.at(step=i):
            expect.close(updates["kernel"], wanted["kernel"], "updates['kernel']", rtol=1e-6)


@promise("inject_hyperparams reads and sets the learning rate")
def inject_hyperparams_sets_the_rate(subject: Subject) -> None:
    """Sweeps, external schedules and logs read or set the learning rate in the state, under jit."""
    p = params()
    tx: Any = optax.inject_hyperparams(lambda learning_rate: subject.make(learning_rate))(learning_rate=RATE)
    changed = subject.make(2 * RATE)
    update, state, its_state = jax.jit(tx.update), tx.init(p), changed.init(p)
    update(gradients(0, p), state, p)
    state.hyperparams["learning_rate"] = jnp.float32(2 * RATE)
    for i in range(subject.period):
        updates, state = update(gradients(i, p), state, p)
        wanted, its_state = changed.update(gradients(i, p), its_state, p)
        with expect.at(step=i):
            expect.close(updates, wanted, "updates", rtol=1e-5, atol=1e-7)
            rate = float(state.hyperparams["learning_rate"])
            assert abs(rate - 2 * RATE) < 1e-6, f"the learning rate is {rate}, it was set to {2 * RATE}"


@promise("the first update is proportional to the learning rate", convention=True)
def proportional_to_the_rate(subject: Subject) -> None:
    """Schedules and sweeps assume that the learning rate scales the step and does nothing else."""
    p = params()
    once, twice = subject.tx, subject.make(2 * RATE)
    state, other = once.init(p), twice.init(p)
    for i in range(subject.period):
        first, state = once.update(gradients(i, p), state, p)
        second, other = twice.update(gradients(i, p), other, p)
        with expect.at(step=i):
            doubled = jax.tree.map(lambda u: 2 * u, first)
            expect.close(second, doubled, "updates at twice the rate", rtol=1e-5, atol=1e-7)


@promise("a schedule that is constant equals the constant")
def constant_schedule(subject: Subject) -> None:
    """A schedule should determine the learning rate and nothing else, such as the count for bias correction."""
    scheduled = subject.make(optax.constant_schedule(RATE))
    steps = range(10)
    constant = train(subject.update, params(), subject.tx.init(params()), steps)
    other = train(jax.jit(scheduled.update), params(), scheduled.init(params()), steps)
    for (i, _, p, _), (_, _, q, _) in zip(constant, other, strict=True):
        with expect.at(step=i):
            expect.close(q, p, "parameters", rtol=1e-6)


@promise("MultiSteps emits exact zeros in between")
def multi_steps(subject: Subject) -> None:
    """Accumulation over four micro-batches must change the parameters once, at the fourth."""
    tx = optax.MultiSteps(subject.make(), every_k_schedule=4)
    p = params()
    update, state, updates = jax.jit(tx.update), tx.init(p), None
    for i in range(4 * subject.period):
        updates, state = update(gradients(i, p), state, p)
        if (i + 1) % 4:
            with expect.at(step=i):
                expect.zero(updates, "updates")
    moved = any(bool(jnp.any(u != 0)) for u in jax.tree.leaves(updates))
    assert moved, f"nothing moves in {4 * subject.period} micro-batches"


@promise("apply_if_finite leaves its state alone")
def apply_if_finite(subject: Subject) -> None:
    """A skipped step must have a zero update and leave the state unchanged."""
    p = params(jnp.bfloat16)
    tx: Any = optax.apply_if_finite(subject.make(), 3)
    bad = jax.tree.map(lambda x: x * jnp.nan, p)
    state = jax.jit(tx.init)(p)
    updates, after = tx.update(bad, state, p)
    expect.zero(updates, "updates")
    expect.equal(after.inner_state, state.inner_state, "state")


@promise("tree_map_params finds what belongs to parameters")
def tree_map_params(subject: Subject) -> None:
    """optax.tree_map_params derives the shardings of a state from those of the parameters."""
    state = subject.tx.init(params(jnp.bfloat16))
    marked = optax.tree_map_params(subject.tx, lambda x: jnp.ones_like(x), state)
    expect.same_dtypes(marked, state, "state")


@promise("extra arguments of others are ignored")
def extra_arguments_are_ignored(subject: Subject) -> None:
    """In a chain, every transformation receives what any of them needs: value, grad, value_fn and others."""
    p = params()
    g, state = gradients(0, p), subject.tx.init(p)
    plain, _ = subject.tx.update(g, state, p)
    extra = {"value": jnp.float32(1), "grad": g, "value_fn": lambda q: 0.0, "foreign": "x"}
    offered, _ = subject.tx.update(g, state, p, **extra)
    expect.equal(offered, plain, "updates with extra arguments")
