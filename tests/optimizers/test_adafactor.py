import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz.optimizers.adafactor import _relative_step, adafactor, scale_by_factored_rms
from tests.golden import fixture_a, parity, stacked

# Fixture A, relative step; PyTorch 2.13 gives the factored row to 1.4e-17.
FACTORED = """
.987335005783 -2.01895353102 2.99287094922 .482718582849 -.0414811295721 -1.00643762281
.0993008149781 -.201558301075"""
WHOLE = """
.998262109293 -2.0093297719 2.99121011087 .483603584402 -.03723418064 -1.0070140441
.0993008149781 -.201558301075"""


def rate(count):
    return 0.05 / (1 + count)


def test_equals_the_golden_rows():
    fixture_a.check(lambda: adafactor(min_dim_size_to_factor=1, relative_step=True), FACTORED)
    fixture_a.check(lambda: adafactor(relative_step=True), WHOLE)  # 2 × 3 is too small to factor


@pytest.mark.quick(2)
@pytest.mark.parametrize("cap, eps2", [(None, 1e-3), (0.5, 2.0)])  # both limits are reached
@pytest.mark.parametrize("factored", [True, False])
def test_equals_the_equations_over_a_varying_rate(factored, cap, eps2):
    theta, gradients = stacked.arrays()
    c, eps1, d, mu, lam = 0.7, 1e-3, 0.9, 0.8, 0.05
    with jax.enable_x64(True):
        tx = adafactor(
            rate,
            min_dim_size_to_factor=4,
            decay_rate=c,
            clipping_threshold=d,
            momentum=mu,
            dtype_momentum=jnp.float64,
            weight_decay_rate=lam,
            eps=eps1,
            factored=factored,
            weight_decay_mask={k: k != "bias" for k in stacked.SHAPES},
            beta2_cap=cap,
            eps2=eps2,
        )
        got = stacked.run(tx, jnp.float64)

    def rms(x):
        return np.sqrt(np.mean(np.square(x)))

    mean = functools.partial(np.mean, keepdims=True)
    row, column, whole, m = (dict.fromkeys(stacked.SHAPES, 0.0) for _ in range(4))
    for t, g in enumerate(gradients, 1):
        beta = min(1 - t**-c, cap or 1)
        for k, w in theta.items():
            square = g[k] ** 2 + eps1
            if factored and w.ndim > 1:  # of "stack", the last two axes are the longest
                row[k] = beta * row[k] + (1 - beta) * mean(square, axis=-1)
                column[k] = beta * column[k] + (1 - beta) * mean(square, axis=-2)
                v = row[k] * column[k] / mean(row[k], axis=-2)
            else:
                v = whole[k] = beta * whole[k] + (1 - beta) * square
            u = g[k] / np.sqrt(v)
            u = max(eps2, rms(w)) * u / max(1, rms(u) / d)
            m[k] = mu * m[k] + (1 - mu) * u
            theta[k] = w - rate(t - 1) * (m[k] + lam * (k != "bias") * w)
    chex.assert_trees_all_close(got, theta, rtol=0, atol=1e-12)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "kwargs",
    [
        {"learning_rate": rate},
        {"learning_rate": rate, "min_dim_size_to_factor": 4},
        {"learning_rate": 0.05, "min_dim_size_to_factor": 1, "momentum": 0.9, "decay_rate": 0.7},
        {"learning_rate": rate, "multiply_by_parameter_scale": False, "clipping_threshold": None},
        {"learning_rate": 0.05, "min_dim_size_to_factor": 1, "factored": False, "eps": 1e-3},
    ],
)
def test_is_a_drop_in_for_optax(kwargs, monkeypatch):
    # In float64 as well the alias computes β in float32, unlike the transformation if told how.
    original = optax._src.factorized.scale_by_factored_rms

    def theirs(dtype):
        precise = functools.partial(original, decay_rate_fn=lambda i, c: 1 - (i + jnp.ones([], dtype)) ** -c)
        monkeypatch.setattr("optax._src.factorized.scale_by_factored_rms", precise)
        return optax.adafactor(**kwargs, dtype_momentum=dtype)

    stacked.check_drop_in(lambda dtype: adafactor(**kwargs, dtype_momentum=dtype), theirs)


def test_no_rate_is_a_rate_of_one():
    params, g = fixture_a.params(jnp.float32), fixture_a.gradients(jnp.float32)[0]
    ours, one, theirs = (
        tx.update(g, tx.init(params), params)[0] for tx in (adafactor(), adafactor(1.0), optax.adafactor())
    )
    chex.assert_trees_all_equal(ours, one)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_takes_the_decay_by_either_name_and_independent_is_that_of_optax():
    kwargs = {"learning_rate": rate, "weight_decay_mask": {k: k != "bias" for k in stacked.SHAPES}}
    theirs = stacked.run(optax.adafactor(weight_decay_rate=0.01, **kwargs), jnp.float32)
    for name in ("weight_decay_rate", "weight_decay"):
        tx = adafactor(decay_coupling="independent", **{name: 0.01}, **kwargs)
        chex.assert_trees_all_close(stacked.run(tx, jnp.float32), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("learning_rate", [0.1, 1e-3])
def test_decay_is_scaled_by_the_rate_and_that_of_optax_is_not(learning_rate):
    params = jnp.array([1.0])
    for make, wanted in ((adafactor, -0.01 * learning_rate), (optax.adafactor, -0.01)):
        tx = make(learning_rate, weight_decay_rate=0.01)
        updates, _ = tx.update(jnp.zeros(1), tx.init(params), params)
        np.testing.assert_allclose(updates, wanted, rtol=1e-6)


def test_the_rate_multiplies_the_momentum_and_that_of_optax_is_averaged_with_it():
    params = jnp.array([1.0])
    for make, wanted in ((adafactor, -0.5 * 0.75), (optax.adafactor, -0.5 * (0.5 * 1.0 + 0.5))):
        schedule = optax.piecewise_constant_schedule(1.0, {1: 0.5})
        tx = make(schedule, momentum=0.5, multiply_by_parameter_scale=False)
        state = tx.init(params)
        for _ in range(2):  # U is 1 each time, its average 0.5 and then 0.75
            updates, state = tx.update(jnp.ones(1), state, params)
        np.testing.assert_allclose(updates, wanted, rtol=1e-6)


def test_decay_offset_starts_a_fresh_state_where_that_of_optax_is_nan():
    plain, offset = (stacked.run(adafactor(0.1, decay_offset=k), jnp.float32) for k in (0, 100))
    chex.assert_trees_all_equal(plain, offset)
    theirs = stacked.run(optax.adafactor(0.1, decay_offset=100), jnp.float32)
    assert np.isnan(theirs["bias"]).all()


def test_decay_offset_restarts_the_decay_of_a_restored_state():
    params, g = jnp.array([1.0, 2.0]), jnp.array([0.3, -0.2])
    ours, theirs = (make(0.1, decay_offset=7, clipping_threshold=None) for make in (adafactor, optax.adafactor))
    restored = [
        (state[0]._replace(count=jnp.int32(7), v=jnp.full(2, 5.0)), *state[1:])
        for state in (ours.init(params), theirs.init(params))
    ]
    for tx, state in zip((ours, theirs), restored, strict=True):
        updates, state = tx.update(g, state, params)
        np.testing.assert_allclose(state[0].v, g**2, rtol=1e-6)  # β is 0: the old V is forgotten
        updates, _ = tx.update(2 * g, state, params)
        beta = 1 - 2**-0.8
        wanted = -0.1 * np.sqrt(2.5) * 2 * np.sign(g) / np.sqrt(beta + (1 - beta) * 4)
        np.testing.assert_allclose(updates, wanted, rtol=1e-5)


def test_layers_stacked_by_scan_train_as_they_would_alone():
    make = functools.partial(adafactor, rate, min_dim_size_to_factor=4, momentum=0.9, weight_decay_rate=0.1)
    stacked.check_layers(make)


def test_the_stacked_axis_is_not_factored_which_that_of_optax_is():
    params = {"kernel": jnp.ones((6, 5, 4)), "bias": jnp.ones((6, 5))}
    ours = adafactor(0.1, min_dim_size_to_factor=4, scanned={"": 0}).init(params)[0]
    theirs = optax.adafactor(0.1, min_dim_size_to_factor=4).init(params)[0]
    assert (ours.v_row["kernel"].shape, ours.v_col["kernel"].shape) == ((6, 1, 4), (6, 5, 1))
    assert (theirs.v_row["kernel"].shape, theirs.v_col["kernel"].shape) == ((5, 4), (6, 4))
    assert ours.v["bias"].shape == (6, 5) and theirs.v["bias"].shape == (1,)


def test_keeps_a_row_and_a_column_in_float32():
    params = {"a": jnp.ones((300, 400), jnp.bfloat16), "b": jnp.ones(7, jnp.bfloat16)}
    state = adafactor(0.1).init(params)
    assert sum(x.nbytes for x in jax.tree.leaves(state)) - 4 * (300 + 400 + 7) < 64
    moments = state[0]
    assert {x.dtype for x in jax.tree.leaves(moments[1:])} == {jnp.dtype("float32")}
    theirs = optax.adafactor(0.1).init(params)[0]
    assert theirs.v_row["a"].dtype == jnp.bfloat16
    asked = adafactor(0.1, nu_dtype=jnp.bfloat16).init(params)[0]
    assert {x.dtype for x in jax.tree.leaves(asked[1:])} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("shape", [(4,), (4, 4)])
def test_a_huge_gradient_does_no_lasting_harm(shape):
    def last_update(make):
        params = jnp.ones(shape)
        tx = make(0.1, min_dim_size_to_factor=1)
        state = tx.init(params)
        update = jax.jit(tx.update)
        for g in [1.0] * 3 + [1e30, 1.0]:
            updates, state = update(jnp.full(shape, g), state, params)
        return np.asarray(updates), state[0]

    updates, moments = last_update(adafactor)
    assert np.isfinite(updates).all() and (updates < 0).all()
    chex.assert_tree_all_finite(moments)
    _, theirs = last_update(optax.adafactor)
    assert np.isinf(theirs.v if len(shape) == 1 else theirs.v_row).all()


def test_sums_of_large_squares_stay_finite():
    g = jnp.full((300, 400), 3e18)  # each square is, the sum of 300 is not
    tx = scale_by_factored_rms(0.8)
    updates, state = tx.update(g, tx.init(g))
    chex.assert_tree_all_finite(state)
    # The mean is taken to be the largest square, 4.6e18 squared, which makes this one step smaller.
    np.testing.assert_allclose(updates, 3e18 / 2.0**62, rtol=1e-5)


def test_eps_zero_leaves_what_has_no_gradient_where_it_is_and_that_of_optax_does_not():
    params, g = jnp.ones((2, 3)), jnp.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    for factored in (True, False):
        for make, finite in ((adafactor, True), (optax.adafactor, False)):
            tx = make(0.1, min_dim_size_to_factor=1, eps=0.0, factored=factored)
            updates, _ = tx.update(g, tx.init(params), params)
            assert np.isfinite(updates).all() == finite
            if finite:
                np.testing.assert_array_equal(updates == 0, g == 0)


def test_a_gradient_that_is_not_finite_stays_visible():
    params = jnp.ones((4, 4))
    tx = adafactor(0.1, min_dim_size_to_factor=1)
    for bad in (jnp.nan, jnp.inf):
        updates, _ = tx.update(params.at[1, 2].set(bad), tx.init(params), params)
        assert np.isnan(updates[1, 2])


def test_relative_step_is_the_papers():
    tx = adafactor(relative_step=True)
    params = jnp.ones(1)
    state = tx.init(params)
    for count, wanted in ((0, 1e-2), (9_999, 1e-2), (39_999, 5e-3)):
        last = (*state[:-1], state[-1]._replace(count=jnp.int32(count)))
        _, after = tx.update(params, last, params)
        assert float(after[-1].rate) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="give no learning_rate with it"):
        adafactor(0.1, relative_step=True)


def test_the_relative_step_has_the_dtype_of_a_schedule():
    schedule = optimiz.schedules.over_steps(optimiz.schedules.constant(0.1), 10)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            relative, wanted = _relative_step(jnp.int32(0)), schedule(jnp.int32(0))
            assert (relative.dtype, relative.weak_type) == (wanted.dtype, wanted.weak_type)


def test_stacked_layers_may_be_initialised_under_jit():
    params = {"layers": jnp.ones((3, 4, 5)), "head": jnp.ones((5, 4))}
    tx = adafactor(0.1, min_dim_size_to_factor=4, scanned={"^layers": 0})
    chex.assert_trees_all_equal(jax.jit(tx.init)(params), tx.init(params))


def test_works_under_inject_hyperparams():
    static = ("min_dim_size_to_factor", "dtype_momentum")
    tx = optax.inject_hyperparams(adafactor, static_args=static)(0.1, momentum=0.9)
    params = jnp.ones((3, 2))
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(params, state, params)
    np.testing.assert_allclose(updates, -0.01, rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be in"),
        ({"min_dim_size_to_factor": 0}, r"min_dim_size_to_factor must be in \[1, inf\)"),
        ({"decay_rate": 0.0}, "decay_rate must be in"),
        ({"decay_offset": -1}, "decay_offset must be in"),
        ({"clipping_threshold": 0.0}, "clipping_threshold must be in"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay_rate": -0.1}, "weight_decay must be in"),
        ({"weight_decay_rate": 0.1, "weight_decay": 0.1}, "give one of them"),
        ({"eps": -1.0}, "eps must be in"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        adafactor(**kwargs)


def test_refuses_a_gradient_that_does_not_fit_without_seeing_the_parameters():
    tx = scale_by_factored_rms(0.8)
    params = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}
    state = tx.init(params)
    for name, shape in (("kernel", (4, 3)), ("kernel", (3, 1)), ("bias", (1,))):
        with pytest.raises(ValueError, match=rf"\['{name}'\] has shape"):
            tx.update(params | {name: jnp.ones(shape)}, state)
    with pytest.raises(ValueError, match="gradient has no leaf at"):
        tx.update({"bias": jnp.ones(4)}, state)


def test_needs_the_parameters_to_scale_by_them():
    tx = adafactor(0.1)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
    tx = adafactor(0.1, multiply_by_parameter_scale=False)
    np.testing.assert_allclose(tx.update(jnp.ones(3), tx.init(jnp.ones(3)))[0], -0.1, rtol=1e-6)


@pytest.mark.parametrize("kwargs", [{"beta2_cap": 1.0}, {"beta2_cap": 0.0}, {"eps2": -1e-3}])
def test_refuses_a_cap_or_a_scale_outside_its_domain(kwargs):
    [name] = kwargs
    with pytest.raises(ValueError, match=f"{name} must be in"):
        adafactor(0.1, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
def _as_torch(rate, s):
    eps, eps_of_scale = s["eps"]
    assert eps_of_scale == 1e-3  # the paper's, and the default of ours
    return adafactor(
        rate,
        min_dim_size_to_factor=1,
        decay_rate=-s["beta2_decay"],
        clipping_threshold=s["d"],
        weight_decay=s["weight_decay"],
        eps=eps,
    )


def _as_big_vision(rate, s):
    return adafactor(
        rate,
        min_dim_size_to_factor=s["min_dim_size_to_factor"],
        decay_rate=s["decay_rate"],
        multiply_by_parameter_scale=False,
        clipping_threshold=s["clipping_threshold"],
        momentum=s["momentum"],
        dtype_momentum=jnp.result_type(float),
        weight_decay=s["weight_decay"],
        eps=s["eps"],
    )


SOURCES = {
    "adafactor": parity.Case(
        title="Adafactor",
        code="torch.optim.Adafactor",
        home="torch",
        settings={"beta2_decay": -0.8, "eps": [1e-30, 1e-3], "d": 1.0, "weight_decay": 0.1},
        note="The source's rate is at most 1/√t, which the rates given never exceed.",
        ours=_as_torch,
    ),
    "adafactor_threshold": parity.Case(
        title="Adafactor, Big Vision's form, with momentum",
        paper="Zhai et al., [2106.04560](https://arxiv.org/abs/2106.04560)",
        code="timm.optim.AdafactorBigVision",
        home="timm",
        settings={
            "min_dim_size_to_factor": 8,
            "decay_rate": 0.8,
            "beta2_cap": 1.0,
            "momentum": 0.9,
            "momentum_dtype": "torch.float64",
            "eps": 1e-30,
            "weight_decay": 0.1,
            "clipping_threshold": 1.0,
        },
        note="Ours with multiply_by_parameter_scale=False. One array is long enough to be factored.",
        ours=_as_big_vision,
    ),
}
