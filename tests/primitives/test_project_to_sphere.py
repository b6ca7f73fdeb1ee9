import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups
from optimiz.primitives import project_to_sphere

RATES = (0.3, 0.1, 0.02, 0.5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def equations(w, directions, rates):
    """The author's two lines, for one matrix."""
    for d, rate in zip(directions, rates, strict=True):
        radius = np.linalg.norm(w)
        q = w - rate * radius * d / np.linalg.norm(d)
        w = radius * q / np.linalg.norm(q)
    return w


def trained(tx, params, directions):
    @jax.jit
    def step(params, state, d):
        updates, state = tx.update(d, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for d in directions:
        params, state = step(params, state, d)
    return params, state


def test_each_parameter_and_each_stacked_layer_follows_the_equations():
    params = {"w": normal(3, 4), "layers": normal(2, 5, seed=1)}
    directions = [jax.tree.map(lambda p, i=i: normal(*p.shape, seed=7 + i), params) for i in range(len(RATES))]
    with jax.enable_x64(True):
        tx = project_to_sphere(lambda count: jnp.asarray(RATES)[count], scanned={"layers": 0})
        end, state = trained(tx, jax.tree.map(jnp.asarray, params), directions)
    np.testing.assert_allclose(
        end["w"], equations(params["w"], [d["w"] for d in directions], RATES), rtol=1e-12
    )
    for i in range(2):
        wanted = equations(params["layers"][i], [d["layers"][i] for d in directions], RATES)
        np.testing.assert_allclose(end["layers"][i], wanted, rtol=1e-12)
    assert int(state.count) == 4 and optimiz.hyperparams(state)["learning_rate"] == pytest.approx(0.5)


def test_each_fused_matrix_has_a_sphere_of_its_own():
    w, d = normal(4, 6), normal(4, 6, seed=1)
    axes = groups.Matrix(sizes=(2, 4))
    with jax.enable_x64(True):
        tx = project_to_sphere(0.3, matrices=groups.matrices({".": axes}))
        end, _ = trained(tx, {"qkv": jnp.asarray(w)}, [{"qkv": d}])
    for block in (slice(0, 2), slice(2, 6)):
        wanted = equations(w[:, block], [d[:, block]], [0.3])
        np.testing.assert_allclose(end["qkv"][:, block], wanted, rtol=1e-12)


def test_a_tiny_step_keeps_its_digits():
    """As the difference of two numbers of the size of a parameter it would have lost three of them."""
    w, d = normal(8, 8).astype(np.float32), normal(8, 8, seed=1).astype(np.float32)
    tx = project_to_sphere(1e-5)
    updates, _ = tx.update(jnp.asarray(d), tx.init(jnp.asarray(w)), jnp.asarray(w))
    wanted = equations(np.float64(w), [np.float64(d)], [1e-5]) - w
    assert np.linalg.norm(updates - wanted) < 3e-6 * np.linalg.norm(wanted)


def test_the_norm_is_constant_to_rounding_over_a_thousand_steps():
    params = {"kernel": jnp.asarray(normal(16, 8), jnp.float32)}
    tx = optimiz.muonh(optax.linear_schedule(0.1, 0.0, 1000), 0.1, ns_dtype=jnp.float32)

    def step(run, key):
        params, state = run
        updates, state = tx.update({"kernel": jax.random.normal(key, (16, 8))}, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 1000)
    (end, _), _ = jax.jit(lambda run: jax.lax.scan(step, run, keys))((params, tx.init(params)))
    start, end = params["kernel"], end["kernel"]
    assert np.linalg.norm(end) == pytest.approx(np.linalg.norm(start), rel=1e-5)
    assert np.linalg.norm(end - start) > np.linalg.norm(start)  # it went far


def test_the_size_of_a_direction_has_no_part_and_zeros_are_no_direction():
    w, d = jnp.asarray(normal(4, 4), jnp.float32), jnp.asarray(normal(4, 4, seed=1), jnp.float32)
    tx = project_to_sphere(0.1)
    state = tx.init(w)
    wanted = tx.update(d, state, w)[0]
    for size in (1e30, 1e-30):
        np.testing.assert_allclose(tx.update(d * size, state, w)[0], wanted, rtol=1e-5, atol=1e-7)
    assert not tx.update(jnp.zeros_like(d), state, w)[0].any()
    assert not project_to_sphere(0.0).update(d, state, w)[0].any()


def test_a_step_through_the_centre_of_the_sphere_goes_nowhere():
    w = jnp.array([3.0, 4.0])
    updates, _ = project_to_sphere(1.0).update(w, project_to_sphere(1.0).init(w), w)
    np.testing.assert_allclose(updates, 0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_of_few_bits_take_the_step_of_float32(dtype):
    w, d = jnp.asarray(normal(4, 4), dtype), jnp.asarray(normal(4, 4, seed=1), jnp.float32)
    tx = project_to_sphere(0.1)
    updates, _ = tx.update(d, tx.init(w), w)
    wide, _ = tx.update(d, tx.init(w), w.astype(jnp.float32))
    assert updates.dtype == dtype
    np.testing.assert_array_equal(updates, wide.astype(dtype))


def test_complex_parameters_keep_their_norm():
    w = jnp.asarray(normal(3, 3) + 1j * normal(3, 3, seed=1), jnp.complex64)
    tx = project_to_sphere(0.3)
    updates, _ = tx.update(w * (0.5 + 2j), tx.init(w), w)
    assert np.linalg.norm(w + updates) == pytest.approx(np.linalg.norm(w), rel=1e-6)
    assert np.abs(updates).max() > 0.1


def test_any_direction_goes_before_it():
    params = {"kernel": jnp.asarray(normal(4, 4), jnp.float32), "bias": jnp.zeros(4)}
    labels = {"kernel": "sphere", "bias": "rest"}
    tx = optax.partition(
        {"sphere": optax.chain(optimiz.trace(0.9), project_to_sphere(0.1)), "rest": optimiz.sgd(0.1)}, labels
    )
    end, _ = trained(tx, params, [jax.tree.map(jnp.ones_like, params)] * 2)
    assert np.linalg.norm(end["kernel"]) == pytest.approx(np.linalg.norm(params["kernel"]), rel=1e-6)
    np.testing.assert_allclose(end["bias"], -0.2, rtol=1e-6)


def test_what_could_never_move_is_refused():
    layers = jnp.ones((2, 3, 3)).at[1].set(0)
    for params, given, message in (
        ({"w": jnp.zeros((2, 2))}, {}, r"\['w'\] of shape \(2, 2\) is zero"),
        (
            {"w": layers},
            {"scanned": {"w": 0}},
            r"\(2, 3, 3\) is zero, or one of its",
        ),
        ({"w": jnp.ones(())}, {}, "has one entry on a sphere"),
        ({"w": jnp.ones((3, 1))}, {"scanned": {"w": 0}}, "has one entry on a sphere"),
    ):
        with pytest.raises(ValueError, match=message):
            project_to_sphere(0.1, **given).init(params)
    project_to_sphere(0.1).init({"w": jnp.ones((2, 2)).at[0].set(0)})  # a row may be zero
    project_to_sphere(0.1).init({"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)})
    tx = project_to_sphere(0.1)
    zeros = jnp.zeros((2, 2))
    state = jax.jit(tx.init)(zeros)  # which cannot see it
    assert jnp.isnan(tx.update(jnp.ones((2, 2)), state, zeros)[0]).all()


def test_what_is_not_finite_is_seen():
    w = jnp.ones((2, 2))
    tx = project_to_sphere(0.1)
    for value in (jnp.nan, jnp.inf, 3e38):  # the last has no norm
        assert jnp.isnan(tx.update(jnp.full((2, 2), value), tx.init(w), w)[0]).all()


def test_refuses_bad_input_by_name():
    w = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match="learning_rate must be in"):
        project_to_sphere(-0.1)
    with pytest.raises(TypeError, match=r"matrices must name the axes of every .*, got None for \['b'\]"):
        project_to_sphere(0.1, matrices=groups.matrices()).init(w)
    with pytest.raises(ValueError, match=r"scanned must be given to groups\.matrices"):
        project_to_sphere(0.1, matrices=groups.matrices(), scanned={"w": 0})
    tx = project_to_sphere(0.1)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(w, tx.init(w))
    with pytest.raises(ValueError, match=r"\['b'\] has shape \(1,\)"):
        tx.update(w | {"b": jnp.ones(1)}, tx.init(w), w)
    for chain in (
        optax.chain(optimiz.sgd(0.1), project_to_sphere(0.1)),
        optax.chain(project_to_sphere(0.1), optimiz.scale_by_learning_rate(0.1)),
    ):
        with pytest.raises(ValueError, match="comes after a step"):
            chain.update(w, chain.init(w), w)
