import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization

import optimiz
from optimiz import groups
from optimiz.diagnostics.blocks import block_names, by_tensor
from optimiz.diagnostics.heterogeneity import heterogeneity
from optimiz.diagnostics.probe import ProbeState, probe, readings
from optimiz.groups.kinds import kinds
from optimiz.hyperparams import hyperparams

PARAMS = {"head": jnp.ones((2, 3)), "stem": jnp.ones(4)}


def gradients(steps, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), dtype), PARAMS) for _ in range(steps)]


def states(tx, stream, params=PARAMS):
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in stream:
        _, state = update(g, state, params)
        out.append(state)
    return out


@pytest.mark.quick(2)
@pytest.mark.parametrize("large", [1, 5, 10**6])  # a branch for each array, for the larger one, for none
def test_measures_the_first_gradient_and_every_third_after_it(large, monkeypatch):
    monkeypatch.setitem(probe.__globals__, "LARGE", large)
    stream = gradients(8)
    history = states(probe(every=3), stream)
    assert [int(s.probed_step) for s in history] == [0, 0, 0, 3, 3, 3, 6, 6]
    assert [int(s.count) for s in history] == list(range(1, 9))
    for s in history:
        chex.assert_trees_all_close(s.heterogeneity, heterogeneity(stream[int(s.probed_step)]), rtol=1e-6)


def test_large_gradients_need_not_be_in_memory_together():
    params = {name: jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for name in "abcd"}
    x = jax.ShapeDtypeStruct((8, 1024), jnp.float32)

    def temporary_bytes(tx):
        def step(params, state, x):
            grads = jax.grad(lambda p: sum(jnp.sum((x @ w) ** 2) for w in p.values()))(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state = jax.eval_shape(tx.init, params)
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    firsts = (optax.identity(), probe(every=9))
    alone, probed = (temporary_bytes(optax.chain(first, optax.adam(0.1))) for first in firsts)
    assert probed < alone + 1024 * 1024


@pytest.mark.quick(2)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_passes_its_updates_on_bit_for_bit(dtype):
    tx = probe(every=2)
    special = jnp.array([np.nan, np.inf, -0.0, 1e-40], jnp.float32).astype(dtype)
    g = {"head": gradients(1, dtype)[0]["head"], "stem": special}
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for _ in range(2):  # on a step that is measured, and on one that is not
        updates, state = update(g, state)
        for got, wanted in zip(jax.tree.leaves(updates), jax.tree.leaves(g), strict=True):
            assert got.dtype == wanted.dtype and np.asarray(got).tobytes() == np.asarray(wanted).tobytes()
    assert tx.update(g, state)[0] is g


@pytest.mark.quick(1)
@pytest.mark.parametrize("gradient", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("param", [jnp.float32, jnp.bfloat16])
def test_an_optimizer_behind_it_does_as_it_does_alone_in_one_trace_of_a_scan(param, gradient):
    params = jax.tree.map(lambda p: p.astype(param), PARAMS)
    stream = jax.tree.map(lambda *g: jnp.stack(g), *gradients(10, gradient))

    def run(tx):
        def body(carry, g):
            updates, state = tx.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.jit(lambda c: jax.lax.scan(body, c, stream))((params, tx.init(params)))[0]

    alone, _ = run(optimiz.adamw(0.1))
    with_probe, state = run(optax.chain(probe(kinds, every=4), optimiz.adamw(0.1)))
    chex.assert_trees_all_equal(with_probe, alone)
    last = jax.tree.map(lambda g: g[8], stream)
    np.testing.assert_allclose(state[0].heterogeneity.norm, heterogeneity(last, kinds).norm, rtol=1e-6)


@pytest.mark.long
def test_state_keeps_its_types_and_is_made_of_shapes_alone():
    with jax.enable_x64(True):
        for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
            params = jax.tree.map(lambda p, dtype=dtype: p.astype(dtype), PARAMS)
            tx = probe(every=2)
            state = tx.init(params)
            chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, params))
            after = jax.jit(tx.update)(gradients(1)[0], state)[1]  # float32 gradients
            chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
            weak = [x.weak_type for s in (state, after) for x in jax.tree.leaves(s)]
            assert not any(weak)
            assert after.heterogeneity.norm.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)


def test_under_vmap_each_has_measurements_of_its_own():
    tx = probe(every=2)
    both = jax.tree.map(lambda *g: jnp.stack(g), *gradients(2))
    state = jax.vmap(tx.init)(jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS))
    for scale in (1.0, 5.0):  # the second is not measured
        _, state = jax.jit(jax.vmap(tx.update))(jax.tree.map(lambda g, s=scale: s * g, both), state)
    for i, g in enumerate(gradients(2)):
        np.testing.assert_allclose(state.heterogeneity.norm[i], heterogeneity(g).norm, rtol=1e-6)
    assert state.probed_step.tolist() == [0, 0] and state.count.tolist() == [2, 2]


def test_every_may_be_traced():
    def last(every):
        tx = probe(every=every)
        stream = jax.tree.map(lambda *g: jnp.stack(g), *gradients(4))
        state, _ = jax.lax.scan(lambda state, g: (tx.update(g, state)[1], None), tx.init(PARAMS), stream)
        return state.probed_step

    assert jax.vmap(last)(jnp.array([1, 2, 3, 9])).tolist() == [3, 2, 3, 0]


def test_reads_a_row_for_the_log_from_anywhere():
    g = gradients(1)[0]
    tx = optimiz.guard(optax.chain(probe(every=10), optimiz.accumulate(optimiz.adamw(0.1), 2)), 3)
    _, state = tx.update(g, tx.init(PARAMS), PARAMS)
    measured = state.inner_state[0].heterogeneity
    np.testing.assert_allclose(measured.norm, heterogeneity(g).norm, rtol=1e-6)
    row = readings(state, block_names(PARAMS))
    assert row["step"] == 0 and set(row) == {"step", "heterogeneity", "block_norms", "block_rms"}
    assert row["block_norms"] == dict(zip(("head", "stem"), measured.norm.tolist(), strict=True))
    assert row["block_rms"] == dict(zip(("head", "stem"), measured.rms.tolist(), strict=True))
    assert row["heterogeneity"] == {
        name: value.item() for name, value in measured._asdict().items() if name not in ("norm", "rms")
    }
    assert type(row["heterogeneity"]["zero_blocks"]) is int
    assert readings(tx.init(PARAMS), block_names(PARAMS)) == {}
    assert hyperparams(state)["probed_step"] == 0


def test_within_a_mask_the_other_parameters_are_no_blocks():
    mask = {"head": True, "stem": False}
    tx = optax.chain(optax.masked(probe(every=1), mask), optax.sgd(0.1))
    g = gradients(1)[0]
    _, state = tx.update(g, tx.init(PARAMS))
    holed = {"head": PARAMS["head"], "stem": optax.MaskedNode()}
    row = readings(state, block_names(holed))
    assert row["block_norms"] == {"head": pytest.approx(float(jnp.linalg.norm(g["head"])), rel=1e-6)}
    frozen = groups.freeze(optax.chain(probe(every=1), optax.sgd(0.1)), groups.path("stem"))
    _, state = frozen.update(g, frozen.init(PARAMS), PARAMS)
    assert readings(state, ("head",))["block_norms"] == row["block_norms"]


def test_under_inject_hyperparams_and_multi_steps():
    chained = optax.inject_hyperparams(
        lambda learning_rate: optax.chain(probe(every=2), optax.sgd(learning_rate))
    )
    tx = optax.MultiSteps(chained(0.1), 2)
    state = states(tx, gradients(4))[-1]
    mean = jax.tree.map(lambda *g: (g[0] + g[1]) / 2, *gradients(2))
    got = readings(state, ("head", "stem"))
    assert got["step"] == 0
    np.testing.assert_allclose(list(got["block_norms"].values()), heterogeneity(mean).norm, rtol=1e-6)


@pytest.mark.parametrize("tree", [{}, {"a": None}, {"a": jnp.zeros((0, 3))}, {"a": optax.MaskedNode()}])
def test_a_tree_without_entries(tree):
    tx = probe(every=1)
    updates, state = tx.update(tree, tx.init(tree), tree, value=1.0)
    chex.assert_trees_all_equal(updates, tree)
    assert readings(state, ())["block_norms"] == {}


@pytest.mark.long
def test_replicas_hold_the_same_measurements_of_the_averaged_gradient():
    tx = probe(every=1)
    local = jax.tree.map(lambda *g: jnp.stack(g), *gradients(2))

    @functools.partial(jax.vmap, axis_name="data")
    def replica(g):
        return tx.update(jax.lax.pmean(g, "data"), tx.init(PARAMS))[1]

    state = replica(local)
    mean = jax.tree.map(lambda g: g.mean(0), local)
    np.testing.assert_allclose(state.heterogeneity.norm, [heterogeneity(mean).norm] * 2, rtol=1e-6)


def test_layers_of_a_stack_and_donation():
    params = {"layers": jnp.ones((3, 2, 2))}
    tx = probe(by_tensor({"layers": 0}), every=1)
    state = jax.jit(tx.update, donate_argnums=1)(params, tx.init(params))[1]
    assert isinstance(state, ProbeState) and state.heterogeneity.norm.tolist() == [2, 2, 2]


def test_off_the_step_nothing_is_measured():
    """The statistics are in a branch: nothing outside of it reads the gradient."""
    text = jax.jit(probe(every=2).update).lower(PARAMS, probe(every=2).init(PARAMS)).as_text()
    main = text[text.index("@main") : text.index("stablehlo.case")]
    assert "stablehlo.case" in text and "sqrt" in text and "sqrt" not in main and "reduce" not in main


def test_mistakes():
    with pytest.raises(ValueError, match=r"every must be in \[1, 2147483647\], got 0"):
        probe(every=0)
    with pytest.raises(TypeError, match="every must be an integer, got 1"):
        probe(every=1.5)
    with pytest.raises(ValueError, match="the scanned pattern 'blocks' matches no parameter"):
        probe(by_tensor({"blocks": 0}), every=1).init(PARAMS)
    state = probe(every=1).init(PARAMS)
    with pytest.raises(ValueError, match="the state must hold one probe, got 0"):
        readings(optax.sgd(0.1).init(PARAMS), ())
    with pytest.raises(ValueError, match="the state must hold one probe, got 2"):
        readings((state, state), ())
    with pytest.raises(ValueError, match="names must have one entry per block, 2, got 1"):
        readings(state, ("head",))


def test_readings_of_a_state_that_wraps_its_arrays_or_is_a_mapping():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    tx = optimiz.guard(optax.chain(probe(every=1), optax.sgd(0.1)), 2)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    grads = jax.tree.map(jnp.ones_like, params)
    optimizer.update(model, grads)
    _, state = tx.update(grads, tx.init(params), params)
    names = block_names(params)
    expected = readings(state, names)
    assert expected["step"] == 0 and names == ("bias", "kernel")
    for kept in (
        optimizer.opt_state,
        optimizer,
        nnx.state(optimizer),
        nnx.to_pure_dict(nnx.state(optimizer)),
        serialization.to_state_dict(state),
    ):
        assert readings(kept, names) == expected
