"""What every optimizer promises, checked on all of them from one table.

The table is ``optimiz.methods.METHODS``: a new optimizer is a row there. A test is a promise and its name says
which, in words: they are the rows of tests/records/contract.md, see record.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optimiz
from optimiz import methods


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer as the contract sees it.

    Attributes:
        method: its row in ``optimiz.methods``.
        make: learning rate, and any of the method's keyword arguments → the optimizer.
    """

    method: methods.Method
    make: Callable[..., optax.GradientTransformationExtraArgs]

    @property
    def rate_name(self):
        return self.method.rate_argument


def _logits(p):
    total = sum((jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(p)), jnp.float32(0))
    return jnp.stack([total, -total])


def _with_curvature(make):
    """The optimizer, offered the function whose curvature it asks for."""

    def made(*args, **kwargs):
        tx = make(*args, **kwargs)
        offered = {"logits_fn": _logits, "obj_fn": lambda p: _logits(p)[0]}
        return optax.GradientTransformationExtraArgs(
            tx.init, lambda g, state, params=None, **extra: tx.update(g, state, params, **extra | offered)
        )

    return made


def _with_search(make):
    """The line search, offered a loss that every step lowers enough: it keeps its first step size."""

    def made(learning_rate, **kwargs):
        scheduled = callable(learning_rate)
        tx = make(init_step=1.0 if scheduled else learning_rate, **{"growth": 1.0} | kwargs)

        def update_fn(g, state, params=None, **extra):
            value_fn = lambda p: jnp.float32(-1e38)  # noqa: E731
            value_fn.fills_in_masked = True
            return tx.update(
                g, state, params, **extra | {"value": jnp.float32(0), "grad": g, "value_fn": value_fn}
            )

        searching = optax.GradientTransformationExtraArgs(tx.init, update_fn)
        return optax.chain(searching, optax.scale_by_schedule(learning_rate)) if scheduled else searching

    return made


def _two_units(p):
    structure = jax.tree.structure(p)
    return structure.unflatten([i % 2 for i in range(structure.num_leaves)])


def _row(method):
    required = {name: {"classes": 2, "units": _two_units}[name] for name in method.required}
    make = functools.partial(method.factory, **method.solving_settings | required)
    if method.kind == "line search":
        make = _with_search(make)
    return Row(method, _with_curvature(make) if method.kind == "second order" else make)


# What reproduces an author's code without weight decay, growth and all, is held to that code alone.
TABLE = {name: _row(method) for name, method in methods.METHODS.items() if method.takes("weight_decay")}

each = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


# --- fixtures ------------------------------------------------------------------------------------


def params(dtype=jnp.float32):
    return {
        "kernel": jnp.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3),
        "layer": {"bias": jnp.array([0.5, -0.25, 0.125], dtype), "scale": jnp.ones((), dtype)},
    }


def gradients(step, like):
    keys = jax.random.split(jax.random.key(step), len(jax.tree.leaves(like)))
    leaves = [
        jax.random.normal(k, p.shape).astype(p.dtype) for k, p in zip(keys, jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def run(tx, start, steps=5, update=None):
    update = update or tx.update
    p, state = start, tx.init(start)
    for i in range(steps):
        updates, state = update(gradients(i, p), state, p)
        p = optax.apply_updates(p, updates)
    return p, state


def avals(tree):
    return [(x.shape, x.dtype, jax.typeof(x).weak_type) for x in map(jnp.asarray, jax.tree.leaves(tree))]


def assert_all_finite(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), jax.tree_util.keystr(path)


# --- construction --------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1, np.float32("nan"), jnp.float32(-1)])
def test_refuses_a_bad_rate_by_name(row, rate):
    with pytest.raises(ValueError, match=f"{row.rate_name} must be in"):
        row.make(rate)


@each
@pytest.mark.parametrize("rate", ["0.1", [0.1], True])
def test_refuses_a_rate_that_is_no_number(row, rate):
    with pytest.raises(TypeError, match=f"{row.rate_name} must be a number"):
        row.make(rate)


@each
def test_refuses_every_other_bad_argument(row):
    for name, value in row.method.bad_arguments.items():
        with pytest.raises((ValueError, TypeError)):
            row.make(0.1, **{name: value})
    with pytest.raises(TypeError):
        row.make(0.1, learning_rat=0.1)


# --- transformations of JAX ----------------------------------------------------------------------


@each
def test_jit_equals_eager_and_repeats_bit_for_bit(row):
    tx = row.make(0.1)
    eager, jitted = run(tx, params()), run(tx, params(), update=jax.jit(tx.update))
    chex.assert_trees_all_close(eager, jitted, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(jitted, run(tx, params(), update=jax.jit(tx.update)))


@each
def test_scan_equals_the_loop_and_is_traced_once(row):
    tx = row.make(optax.linear_schedule(0.1, 0.0, 50))
    traces = []

    @jax.jit
    def update(g, state, p):
        traces.append(1)
        return tx.update(g, state, p)

    looped = run(tx, params(), 50, update)
    assert len(traces) == 1

    def step(carry, i):
        p, state = carry
        updates, state = tx.update(gradients(i, p), state, p)
        return (optax.apply_updates(p, updates), state), None

    scanned, _ = jax.lax.scan(step, (params(), tx.init(params())), jnp.arange(50))
    chex.assert_trees_all_close(looped, scanned, rtol=1e-4, atol=1e-5)


@each
def test_vmap_over_rates_equals_each_alone(row):
    def trained(rate):
        return run(row.make(rate), params(), 3)[0]

    rates = jnp.array([0.01, 0.1])
    together = jax.vmap(trained)(rates)
    for i in range(2):
        alone = trained(rates[i])
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=1e-5, atol=1e-6)


@each
def test_init_needs_shapes_only_and_cond_takes_the_update(row):
    tx = row.make(0.1)
    p = params()
    state = tx.init(p)
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), p)
    assert avals(tx.init(structs)) == avals(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, structs), state)
    g = gradients(0, p)
    idle = jax.tree.map(jnp.zeros_like, p)
    jax.lax.cond(True, lambda: tx.update(g, state, p), lambda: (idle, state))


@each
def test_the_compiled_update_calls_no_host_and_lets_its_state_be_donated(row):
    tx = row.make(0.1)
    p = params()
    state = tx.init(p)
    text = jax.jit(tx.update).lower(gradients(0, p), state, p).as_text()
    assert "callback" not in text
    step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(1,))
    for i in range(3):
        updates, state = step(gradients(i, p), state, p)
        p = optax.apply_updates(p, updates)
    assert_all_finite(p)


# --- dtypes --------------------------------------------------------------------------------------

RATES = [0.1, np.float32(0.1), np.float64(0.1), jnp.float32(0.1), optax.constant_schedule(0.1)]


@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_updates_have_the_dtype_of_the_parameters_whatever_the_rate_is(row, dtype):
    p = params(dtype)
    for rate in RATES:
        tx = row.make(rate)
        for g in (gradients(0, p), gradients(0, params())):
            updates, _ = tx.update(g, tx.init(p), p)
            chex.assert_trees_all_equal_dtypes(updates, p)
    tx = row.make(0.1)
    traced = jax.jit(lambda rate: row.make(rate).update(gradients(0, p), tx.init(p), p)[0])(0.1)
    chex.assert_trees_all_equal_dtypes(traced, p)


@each
@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("gradient", [jnp.bfloat16, jnp.float32])
def test_state_keeps_its_shapes_dtypes_and_weak_types(row, param, gradient):
    tx, p = row.make(0.1), params(param)
    state = tx.init(p)
    before = avals(state)
    assert not any(weak for _, _, weak in before)
    for i in range(2):
        g = jax.tree.map(lambda x: x.astype(gradient), gradients(i, p))
        updates, state = tx.update(g, state, p)
        p = optax.apply_updates(p, updates)
    assert avals(state) == before


@each
def test_trees_of_float64_bfloat16_and_float32_work(row):
    with jax.enable_x64(True):
        p = {"a": jnp.ones(3, jnp.float64), "b": jnp.ones(3, jnp.bfloat16), "c": jnp.ones(3, jnp.float32)}
        tx = row.make(0.1)
        state = tx.init(p)
        updates, after = tx.update(gradients(0, p), state, p)
        chex.assert_trees_all_equal_dtypes(updates, p)
        assert avals(after) == avals(state)


@each
def test_x64_changes_nothing_for_float32(row):
    given = [gradients(i, params()) for i in range(3)]

    def on_given():
        tx, p = row.make(0.1), params()
        state = tx.init(p)
        for g in given:
            updates, state = tx.update(g, state, p)
            p = optax.apply_updates(p, updates)
        return p, state

    plain = on_given()
    with jax.enable_x64(True):
        wide = on_given()
    assert [x.dtype for x in jax.tree.leaves(plain)] == [x.dtype for x in jax.tree.leaves(wide)]
    chex.assert_trees_all_close(plain, wide, rtol=1e-5, atol=1e-6)


@each
def test_counters_are_int32_and_saturate(row):
    tx, p = row.make(0.1), params()
    state = tx.init(p)
    last = jax.tree.map(lambda x: jnp.full_like(x, 2**31 - 1) if x.dtype == jnp.int32 else x, state)
    counters = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.signedinteger)]
    assert counters and all(x.dtype == jnp.int32 for x in counters)
    updates, after = tx.update(gradients(0, p), last, p)
    assert_all_finite(updates)
    assert all(int(x) == 2**31 - 1 for x in jax.tree.leaves(after) if x.dtype == jnp.int32)


# --- containers ----------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    inside: jax.Array


CONTAINERS = {
    "list": lambda: [jnp.ones(2), (jnp.ones(3),)],
    "NamedTuple": lambda: Pair(jnp.ones(2), jnp.ones((2, 2))),
    "dataclass": lambda: Box(jnp.ones(3)),
    "FrozenDict": lambda: flax.core.freeze({"a": {"b": jnp.ones(3)}}),
    "nnx.State": lambda: nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param),
    "bare array": lambda: jnp.ones((3, 2)),
    "scalar": lambda: jnp.ones(()),
    "empty": lambda: {},
    "None": lambda: {"a": jnp.ones(3), "b": None},
    "MaskedNode": lambda: {"a": jnp.ones(3), "b": optax.MaskedNode()},
    "zero size": lambda: {"a": jnp.ones(3), "b": jnp.ones((0, 4))},
}


@each
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_comes_back_as_it_is(row, container):
    p = CONTAINERS[container]()
    tx = row.make(0.1)
    state = tx.init(p)
    updates, after = jax.jit(tx.update)(jax.tree.map(lambda x: 0.5 * x, p), state, p)
    chex.assert_trees_all_equal_structs(updates, p)
    chex.assert_trees_all_equal_structs(after, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, p)
    assert_all_finite(updates)


@each
def test_a_gradient_that_does_not_fit_is_refused_with_its_path(row):
    tx, p = row.make(0.1), params()
    state = tx.init(p)
    g = gradients(0, p)
    broadcast = g | {"layer": g["layer"] | {"bias": jnp.ones(1)}}
    with pytest.raises(ValueError, match=r"\['layer'\]\['bias'\] has shape \(1,\)"):
        tx.update(broadcast, state, p)
    with pytest.raises(ValueError, match="kernel"):
        tx.update({"layer": g["layer"]}, state, p)


# --- Optax's combinators -------------------------------------------------------------------------


@each
def test_chain_masked_and_partition_take_it(row):
    p = params()
    tx = optax.chain(optax.clip_by_global_norm(1.0), row.make(0.1), optax.scale(0.5))
    assert_all_finite(run(tx, p, 2))
    mask = {"kernel": True, "layer": {"bias": False, "scale": False}}
    tx = optax.masked(row.make(0.1), mask)
    g = gradients(0, p)
    updates, _ = tx.update(g, tx.init(p), p)
    chex.assert_trees_all_equal(updates["layer"], g["layer"])
    labels = {"kernel": "a", "layer": {"bias": "b", "scale": "b"}}
    tx = optax.partition({"a": row.make(0.1), "b": optax.set_to_zero()}, labels)
    updates, _ = tx.update(g, tx.init(p), p)
    alone = row.make(0.1)
    wanted, _ = alone.update(
        {"kernel": g["kernel"]}, alone.init({"kernel": p["kernel"]}), {"kernel": p["kernel"]}
    )
    chex.assert_trees_all_close(updates["kernel"], wanted["kernel"], rtol=1e-6)


@each
def test_inject_hyperparams_reads_and_sets_the_rate(row):
    if row.method.kind == "line search":
        pytest.skip("the step size of a line search is in its state")
    p = params()
    tx = optax.inject_hyperparams(lambda learning_rate: row.make(learning_rate))(learning_rate=0.1)
    state = tx.init(p)
    update = jax.jit(tx.update)
    first, _ = update(gradients(0, p), state, p)
    state.hyperparams["learning_rate"] = jnp.float32(0.2)
    second, _ = update(gradients(0, p), state, p)
    chex.assert_trees_all_close(second, jax.tree.map(lambda u: 2 * u, first), rtol=1e-5, atol=1e-7)


@each
def test_a_schedule_that_is_constant_equals_the_constant(row):
    constant, scheduled = row.make(0.1), row.make(optax.constant_schedule(0.1))
    chex.assert_trees_all_close(run(constant, params(), 10)[0], run(scheduled, params(), 10)[0], rtol=1e-6)


@each
def test_multi_steps_emits_exact_zeros_in_between(row):
    tx = optax.MultiSteps(row.make(0.1), every_k_schedule=4)
    p = params()
    state = tx.init(p)
    for i in range(4):
        updates, state = jax.jit(tx.update)(gradients(i, p), state, p)
        if i < 3:
            chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, p))
    assert any(np.any(u != 0) for u in jax.tree.leaves(updates))


@each
def test_apply_if_finite_and_tree_map_params_take_it(row):
    p = params(jnp.bfloat16)
    tx = optax.apply_if_finite(row.make(0.1), 3)
    bad = jax.tree.map(lambda x: x * jnp.nan, p)
    state = tx.init(p)
    updates, after = tx.update(bad, state, p)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, p))
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)
    tx = row.make(0.1)
    marked = optax.tree_map_params(tx, lambda x: jnp.ones_like(x), tx.init(p))
    chex.assert_trees_all_equal_shapes_and_dtypes(marked, tx.init(p))


@each
def test_extra_arguments_of_others_are_ignored(row):
    tx, p = row.make(0.1), params()
    g = gradients(0, p)
    state = tx.init(p)
    plain, _ = tx.update(g, state, p)
    offered, _ = tx.update(g, state, p, value=jnp.float32(1), grad=g, value_fn=lambda q: 0.0, foreign="x")
    chex.assert_trees_all_equal(plain, offered)


# --- values --------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_no_gradient_is_too_small_or_too_large(row, dtype, value):
    if value > float(jnp.finfo(dtype).max):
        value = float(jnp.finfo(dtype).max)
    p = params(dtype)
    tx = row.make(1e-3)
    state = tx.init(p)
    g = jax.tree.map(lambda x: jnp.full_like(x, value), p)
    updates, state = tx.update(g, state, p)
    assert_all_finite(updates)
    assert_all_finite(state)
    for i in range(3):  # and it does no harm later
        updates, state = tx.update(gradients(i, p), state, p)
        assert_all_finite(updates)
        assert_all_finite(state)


@each
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_is_seen_in_the_update(row, value):
    p = {"w": jnp.ones(3)}
    tx = row.make(0.1)
    updates, _ = tx.update({"w": jnp.array([1.0, value, 1.0])}, tx.init(p), p)
    visible = not np.isfinite(updates["w"][1])
    # A sign is finite for an infinite gradient; it is the right sign.
    assert visible or (np.isinf(value) and updates["w"][1] < 0)


@each
def test_with_a_gradient_of_zero_decay_only_shrinks(row):
    p = params()
    tx = row.make(0.1, weight_decay=0.5)
    state = tx.init(p)
    start = p
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, p), state, p)
        p = optax.apply_updates(p, updates)
    for after, before in zip(jax.tree.leaves(p), jax.tree.leaves(start), strict=True):
        ratio = after / before
        assert np.all((ratio > 0) & (ratio < 1)), ratio


@each
def test_decay_spares_what_the_rule_names(row):
    p = params()
    decayed, spared = (
        row.make(0.1, weight_decay=0.5, weight_decay_mask=mask) for mask in (None, optimiz.groups.no_decay())
    )
    zero = jax.tree.map(jnp.zeros_like, p)
    assert np.any(decayed.update(zero, decayed.init(p), p)[0]["layer"]["bias"] != 0)
    updates, _ = spared.update(zero, spared.init(p), p)
    assert np.all(updates["layer"]["bias"] == 0) and np.all(updates["kernel"] != 0)


@each
def test_it_descends(row):
    def loss(p):
        return sum(jnp.sum((x - 0.3) ** 2) for x in jax.tree.leaves(p))

    schedule = optimiz.schedules.over_steps(optimiz.schedules.linear(row.method.solving_rate), 200)
    tx = row.make(schedule, weight_decay=0.0)

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jax.grad(loss)(p), state, p)
        return (optax.apply_updates(p, updates), state), None

    (p, _), _ = jax.lax.scan(step, (params(), tx.init(params())), length=200)
    assert loss(p) < 0.05 * loss(params())
