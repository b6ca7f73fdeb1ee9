import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import optimiz
from optimiz import numerics
from tests.contract.table import TABLE, assert_all_finite, avals, gradients, run

INT8, FLOAT8, BFLOAT16 = optimiz.Int8(block=16), optimiz.Float8(block=16), optimiz.BFloat16()
INT4 = optimiz.Int4(block=16)
FORMATS = [INT8, INT4, FLOAT8, BFLOAT16]
each_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: type(fmt).__name__)


def params(dtype=jnp.float32):
    return {
        "kernel": jnp.linspace(-1, 1, 160, dtype=dtype).reshape(4, 40),
        "layer": {"bias": jnp.linspace(0, 1, 40, dtype=dtype), "scale": jnp.ones((), dtype)},
    }


def low_bit(tx, fmt=INT8):
    return optimiz.low_bit(tx, fmt, min_size=100)


def codes(state, dtype=jnp.int8):
    """The paths of what is stored in few bits."""
    leaves = jax.tree_util.tree_leaves_with_path(state.inner_state)
    return [jax.tree_util.keystr(path) for path, leaf in leaves if leaf.dtype == dtype]


# --- what is stored how --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_every_statistic_of_the_suite_is_stored_in_few_bits(name):
    tx = TABLE[name].make(0.1)
    stored, plain = codes(low_bit(tx).init(params())), jax.tree.leaves(tx.init(params()))
    kernel = params()["kernel"]
    statistics = [leaf for leaf in plain if leaf.shape == kernel.shape and np.any(leaf != kernel)]
    assert len(stored) == len(statistics), stored
    assert all("kernel" in path for path in stored)  # the rest is too small


OPTAX = {
    "adabelief": (optax.adabelief, 2),
    "adadelta": (optax.adadelta, 2),
    "adamax": (optax.adamax, 2),
    "adan": (optax.adan, 4),
    "ademamix": (optax.contrib.ademamix, 3),
    "madgrad": (optax.contrib.madgrad, 2),
    "muon": (optax.contrib.muon, 1),
    "noisy_sgd": (functools.partial(optax.noisy_sgd, key=jax.random.key(0)), 0),
    "novograd": (optax.novograd, 1),
    "optimistic_gradient_descent": (optax.optimistic_gradient_descent, 1),
    "rmsprop": (functools.partial(optax.rmsprop, centered=True, momentum=0.9), 3),
    "rprop": (optax.rprop, 2),
    "sm3": (optax.sm3, 1),
    "yogi": (optax.yogi, 2),
    # Of what these keep, copies of the parameters stay as they are.
    "dadapt_adamw": (optax.contrib.dadapt_adamw, 3),
    "dog": (optax.contrib.dog, 0),
    "prodigy": (optax.contrib.prodigy, 3),
    "schedule_free_adamw": (optax.contrib.schedule_free_adamw, 1),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", OPTAX)
def test_every_statistic_of_optax_is_and_no_copy_of_the_parameters(name):
    make, statistics = OPTAX[name]
    tx = low_bit(make(0.01))
    p = params()
    del p["layer"]["scale"]  # SM3 has no rule for scalars
    state = tx.init(p)
    assert len(codes(state)) == statistics, codes(state)
    for i in range(3):
        updates, state = jax.jit(tx.update)(gradients(i, p), state, p)
    assert_all_finite(updates)
    assert len(codes(state)) == statistics


def test_a_second_moment_is_stored_by_roots_and_a_first_by_signs():
    tx = low_bit(optimiz.adamw(0.1))
    state = tx.init(params())
    _, state = tx.update(gradients(0, params()), state, params())
    mu, nu = state.scales
    assert np.all(np.asarray(nu["kernel"]) < 0)
    assert np.any(np.asarray(mu["kernel"]) > 0)
    assert (
        nu["kernel"].shape == (4, 3) and nu["layer"]["bias"].shape == (1,) and nu["layer"]["scale"].shape == ()
    )


def test_an_array_called_nu_with_both_signs_keeps_them():
    """As the momentum of Optax's SM3 is, and the curvature of Sophia-H: names do not tell what is a square."""
    p = {"kernel": params()["kernel"]}
    ours, plain = low_bit(optax.sm3(0.1)), optax.sm3(0.1)
    state, wanted = ours.init(p), plain.init(p)
    for i in range(3):
        _, state = ours.update(gradients(i, p), state)
        _, wanted = plain.update(gradients(i, p), wanted)
    stored = INT8.decode(state.inner_state[0].nu["kernel"], state.scales[-1]["kernel"], p["kernel"])
    signs = np.sign(np.asarray(wanted[0].nu["kernel"]))
    assert np.any(signs < 0) and np.mean(np.sign(stored) == signs) > 0.97


@pytest.mark.parametrize(("min_size", "stored"), [(160, 1), (161, 0), (1, 2)])
def test_arrays_below_the_threshold_stay_in_float32(min_size, stored):
    state = optimiz.low_bit(optax.trace(0.9), INT8, min_size=min_size).init(params())
    assert len(codes(state)) == stored
    assert {leaf.dtype for leaf in jax.tree.leaves(state.inner_state)} - {jnp.dtype(jnp.int8)} == {
        jnp.dtype(jnp.float32)
    }


def test_rows_too_short_for_a_scale_and_complex_arrays_stay():
    p = {"thin": jnp.ones((100, 8)), "complex": jnp.ones((4, 40), jnp.complex64), "empty": jnp.ones((0, 40))}
    assert codes(low_bit(optimiz.trace(0.9)).init(p)) == []
    assert len(codes(low_bit(optimiz.trace(0.9), BFLOAT16).init(p), jnp.bfloat16)) == 1


# --- values --------------------------------------------------------------------------------------


@pytest.mark.quick(2)
@each_format
@pytest.mark.parametrize("make", [optimiz.adamw, optimiz.lion, optimiz.sgd_sai])
def test_it_follows_the_optimizer_in_float32(fmt, make):
    def trained(tx):
        return np.asarray(run(tx, params(), 30, jax.jit(tx.update))[0]["kernel"])

    start, wanted, ours = params()["kernel"], trained(make(0.01)), trained(low_bit(make(0.01), fmt))
    moved = np.linalg.norm(wanted - start)
    within = 0.4 if fmt == INT4 else 0.15 if fmt == FLOAT8 or make is optimiz.lion else 0.06
    assert np.linalg.norm(ours - wanted) < within * moved
    assert np.any(ours != wanted)


def test_a_linear_map_would_diverge_where_this_one_does_not():
    """There the v of a coordinate much smaller than its neighbour is 0, and its step without bound."""
    g = {"w": jnp.asarray(np.tile([1.0, 1e-4], 80), jnp.float32)}
    tx = low_bit(optimiz.adamw(0.01, weight_decay=0.0))
    state, p = tx.init(g), g
    for _ in range(20):
        updates, state = jax.jit(tx.update)(g, state, p)
        assert np.all(np.abs(np.asarray(updates["w"])) < 0.02)
    nu = INT8.decode(state.inner_state[0].nu["w"], state.scales[1]["w"], g["w"])
    assert np.all(np.asarray(nu) > 0)
    linear = np.round(np.asarray(nu) / np.asarray(nu).max() * 255)
    assert np.any(linear == 0)


@pytest.mark.quick(1)
@each_format
def test_a_coordinate_without_gradients_stays_exactly_zero(fmt):
    tx = low_bit(optimiz.adamw(0.1, weight_decay=0.0), fmt)
    state, p = tx.init(params()), params()
    for i in range(200):
        g = gradients(i, p)
        g["kernel"] = g["kernel"].at[:, ::3].set(0)
        updates, state = jax.jit(tx.update)(g, state, p)
        assert np.all(np.asarray(updates["kernel"])[:, ::3] == 0)


@pytest.mark.quick(2)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("make", [optax.adamw, optimiz.adamw, optax.lion, optimiz.sgd_sai])
def test_statistics_are_float32_within_and_updates_leave_as_they_came(make, dtype):
    seen = []

    def watch(updates, state, params=None):
        seen.extend(leaf.dtype for leaf in jax.tree.leaves((state[0], state[1])) if leaf.ndim)
        return inner.update(updates, state, params)

    inner = make(0.1)
    tx = low_bit(optax.GradientTransformation(inner.init, watch))
    p = params(dtype)
    state = tx.init(p)
    updates, after = tx.update(gradients(0, p), state, p)
    assert {jnp.dtype(d) for d in seen} - {jnp.dtype(bool)} == {jnp.dtype(jnp.float32)}
    chex.assert_trees_all_equal_dtypes(updates, p)
    assert avals(after) == avals(state)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_is_seen(bad):
    tx = low_bit(optimiz.sgd(0.1, momentum=0.9))
    g = gradients(0, params())
    g["kernel"] = g["kernel"].at[1, 2].set(bad)
    _, state = tx.update(g, tx.init(params()), params())
    updates, _ = tx.update(gradients(1, params()), state, params())
    assert not np.isfinite(updates["kernel"][1, 2]) and np.all(np.isfinite(updates["kernel"][2]))


@pytest.mark.quick(2)
@pytest.mark.parametrize("fmt", [optimiz.Int8(), optimiz.Float8(), optimiz.BFloat16()])
def test_no_float32_copy_of_the_state_is_ever_in_memory(fmt):
    tx = optimiz.low_bit(optimiz.adamw(0.1), fmt)
    p = {
        "a": jax.ShapeDtypeStruct((512, 512), jnp.float32),
        "b": jax.ShapeDtypeStruct((512, 2048), jnp.float32),
    }

    def step(p, state, g):
        updates, state = tx.update(g, state, p)
        return optax.apply_updates(p, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(p, jax.eval_shape(tx.init, p), p).compile()
    # What XLA's CPU backend does need is a copy of the codes, which two loops read and one writes.
    copied = 2 * jnp.dtype(fmt.dtype).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < 1.05 * copied * 5 * 512**2


def test_the_first_codes_are_computed_when_init_runs_and_not_while_it_is_compiled():
    # XLA folded the quantisation of zeros into constants: 20 seconds for one matrix of 384 × 1536.
    tx, kernel = (
        optimiz.low_bit(optimiz.adamw(0.1), optimiz.Int8()),
        jax.ShapeDtypeStruct((64, 512), jnp.float32),
    )
    compiled = jax.jit(tx.init).lower({"kernel": kernel}).compile()
    assert " reduce(" in compiled.as_text()


# --- transformations of JAX, and Optax's combinators -----------------------------------------------


def test_the_loops_of_equal_arrays_are_equal_so_that_they_are_compiled_once():
    tx, params = optimiz.low_bit(optax.trace(0.9), numerics.Int8()), [jnp.zeros((64, 256))] * 2
    text = jax.jit(tx.update).lower(params, tx.init(params)).compile().as_text()
    second_salt = str(0x9E3779B1)
    assert second_salt in text
    assert second_salt not in text[: text.index("ENTRY")]


@pytest.mark.quick(1)
@each_format
def test_jit_scan_and_donation_equal_the_loop(fmt):
    tx = low_bit(optimiz.adamw(0.1), fmt)
    looped = run(tx, params(), 5, jax.jit(tx.update))

    def step(carry, i):
        p, state = carry
        updates, state = tx.update(gradients(i, p), state, p)
        return (optax.apply_updates(p, updates), state), None

    scanned, _ = jax.lax.scan(step, (params(), tx.init(params())), jnp.arange(5))
    assert avals(scanned) == avals(looped)
    np.testing.assert_allclose(scanned[0]["kernel"], looped[0]["kernel"], atol=0.02)
    donating = jax.jit(tx.update, donate_argnums=1)
    chex.assert_trees_all_equal(run(tx, params(), 5, donating), looped)


@pytest.mark.long
@each_format
def test_vmap_equals_each_alone(fmt):
    def trained(rate):
        return run(low_bit(optimiz.adamw(rate), fmt), params(), 3)[0]["kernel"]

    together = jax.vmap(trained)(jnp.array([0.01, 0.1]))
    alone = jnp.stack([trained(0.01), trained(0.1)])
    # One rounding differs and so does a hash: equal to a step of a code.
    np.testing.assert_allclose(together, alone, atol=0.01)


@pytest.mark.quick(2)
@each_format
def test_init_needs_shapes_only_and_keeps_its_types(fmt):
    tx = low_bit(optimiz.adamw(0.1), fmt)
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params())
    state = tx.init(params())
    assert avals(tx.init(structs)) == avals(state)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, structs), state)
    _, after = tx.update(gradients(0, params()), state, params())
    assert avals(after) == avals(state)


@each_format
def test_tree_map_params_takes_it_with_specs(fmt):
    tx = low_bit(optimiz.adamw(0.1), fmt)
    state = tx.init(params())
    specs = {"kernel": "k", "layer": {"bias": "b", "scale": "s"}}
    marked = optax.tree_map_params(tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: "")
    assert marked.scales == (specs, specs)
    assert marked.inner_state[0].mu == specs and marked.inner_state[0].count == ""


@pytest.mark.long
def test_combinators_take_it():
    p, mask = params(), {"kernel": True, "layer": False}
    g = gradients(0, p)
    injected = optax.inject_hyperparams(lambda learning_rate: low_bit(optimiz.adamw(learning_rate)))(0.1)
    state = injected.init(p)
    first, _ = injected.update(g, state, p)
    state.hyperparams["learning_rate"] = jnp.float32(0.2)
    second, _ = injected.update(g, state, p)
    chex.assert_trees_all_close(second, jax.tree.map(lambda u: 2 * u, first), rtol=1e-5)
    for tx in (
        optax.masked(low_bit(optimiz.adamw(0.1)), mask),
        low_bit(optax.masked(optimiz.adamw(0.1), mask)),
        low_bit(
            optax.partition({"a": optimiz.adamw(0.1), "b": optax.set_to_zero()}, {"kernel": "a", "layer": "b"})
        ),
        low_bit(optimiz.guard(optimiz.adamw(0.1), 3)),
        optimiz.guard(low_bit(optimiz.adamw(0.1)), 3),
    ):
        state = tx.init(p)
        updates, after = jax.jit(tx.update)(g, state, p)
        assert avals(after) == avals(state)
        np.testing.assert_allclose(updates["kernel"], first["kernel"], rtol=1e-5)
    for multi in (
        optax.MultiSteps(low_bit(optimiz.adamw(0.1)), 2),
        optimiz.accumulate(low_bit(optimiz.adamw(0.1)), 2),
    ):
        state = multi.init(p)
        waiting, state = jax.jit(multi.update)(g, state, p)
        chex.assert_trees_all_equal(waiting, jax.tree.map(jnp.zeros_like, p))
        updates, _ = jax.jit(multi.update)(g, state, p)
        np.testing.assert_allclose(updates["kernel"], first["kernel"], rtol=1e-5)


def test_a_line_search_within_gets_its_extra_arguments():
    tx = low_bit(optimiz.adam_sls(init_step=0.5))
    p = params()
    loss = lambda p: sum(jnp.sum(jnp.square(x - 0.3)) for x in jax.tree.leaves(p))  # noqa: E731
    state = tx.init(p)
    value, grad = jax.value_and_grad(loss)(p)
    updates, state = jax.jit(functools.partial(tx.update, value_fn=loss))(
        grad, state, p, value=value, grad=grad
    )
    assert loss(optax.apply_updates(p, updates)) < value
    assert len(codes(state)) == 2


def test_hyperparams_are_read_through_it():
    tx = low_bit(optimiz.adamw(0.25))
    _, state = tx.update(gradients(0, params()), tx.init(params()), params())
    readings = optimiz.hyperparams(state)
    assert readings["learning_rate"] == 0.25 and readings["count"] == 1


@pytest.mark.quick(2)
@each_format
def test_orbax_restores_it_and_it_goes_on_bit_for_bit(fmt, tmp_path):
    tx = low_bit(optimiz.adamw(0.1), fmt)
    update = jax.jit(tx.update)
    _, half = run(tx, params(), 3, update)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", half)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", tx.init(params()))
    for state in (half, restored):
        assert avals(state) == avals(half)
    g = gradients(3, params())
    chex.assert_trees_all_equal(update(g, half, params()), update(g, restored, params()))


# --- refusals ------------------------------------------------------------------------------------


def test_refuses_what_is_no_format_and_a_bad_threshold():
    with pytest.raises(TypeError, match="fmt must be an Int8, an Int4, a Float8 or a BFloat16, got 'int8'"):
        optimiz.low_bit(optax.trace(0.9), "int8")
    with pytest.raises(ValueError, match=r"min_size must be in .* got 0"):
        optimiz.low_bit(optax.trace(0.9), INT8, min_size=0)
    with pytest.raises(TypeError, match="min_size must be an integer"):
        optimiz.low_bit(optax.trace(0.9), INT8, min_size=4096.0)


def test_refuses_to_go_around_itself():
    with pytest.raises(ValueError, match="around an optimizer once; its state holds int8 already"):
        low_bit(low_bit(optax.trace(0.9))).init(params())


def test_numerics_of_the_formats_are_those_of_the_page():
    assert (optimiz.Int8, optimiz.Float8, optimiz.BFloat16) == (
        numerics.Int8,
        numerics.Float8,
        numerics.BFloat16,
    )


@pytest.mark.parametrize(
    "tx", [optax.lbfgs(), optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))]
)
def test_a_state_whose_parameters_are_unknown_is_refused(tx):
    with pytest.raises(ValueError, match=r"low_bit cannot find out .* optax\.lbfgs"):
        optimiz.low_bit(tx, numerics.Int8()).init({"w": jnp.ones((64, 64))})


def test_low_bit_works_next_to_a_search_of_optax():
    params = {"w": jnp.ones((64, 64))}
    loss = lambda p: jnp.sum(p["w"] ** 2)  # noqa: E731
    tx = optax.chain(
        optimiz.low_bit(optax.scale_by_adam(), numerics.Int8()),
        optax.scale(-1.0),
        optax.scale_by_backtracking_linesearch(5),
    )
    grads = jax.grad(loss)(params)
    updates, _ = tx.update(grads, tx.init(params), params, value=loss(params), grad=grads, value_fn=loss)
    assert loss(optax.apply_updates(params, updates)) < loss(params)
