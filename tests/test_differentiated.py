"""An update can be differentiated: what comes of a run, with respect to what went into it."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz
from tests.contract.table import TABLE, quick


def _loss(params, z):
    return jnp.sum((params["w"] * z - 1) ** 2) + 0.1 * (params["b"] * z) ** 2


def _outcome(tx, start, z):
    """The loss after two updates on data that depend on z."""

    def step(run, _):
        params, state = run
        value_fn = lambda params: _loss(params, z)  # noqa: E731
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=2)  # an update is compiled once
    return _loss(params, 1.0)


_SEARCHES = {name: getattr(optimiz, name) for name in ("adam_sls", "armijo_sgd", "momentum_sls", "salsa")}
_SEARCHES |= {name: getattr(optimiz, name) for name in ("salsa_class", "salsa_packaged")}
_SEARCHES["pla_sls"] = functools.partial(optimiz.pla_sls, units={"w": 0, "b": 1})


@pytest.mark.quick(1)
@pytest.mark.parametrize("make", quick(_SEARCHES))
@pytest.mark.parametrize("jit", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_search_has_the_derivative_of_differences(make, jit):
    """The step size is a constant multiple of where its search began, but at points where a trial turns."""
    start = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(0.3)}

    def outcome(z):
        return _outcome(make(init_step=0.5), start, z)

    both = jax.value_and_grad(outcome)  # compiled together
    both = jax.jit(both) if jit else both
    differences = float(both(1.1 + 1e-3)[0] - both(1.1 - 1e-3)[0]) / 2e-3
    assert float(both(1.1)[1]) == pytest.approx(differences, rel=1e-2)


@pytest.mark.parametrize(
    "fmt",
    [pytest.param(optimiz.numerics.Float8(), marks=pytest.mark.long), optimiz.numerics.BFloat16()],
    ids=repr,
)
def test_low_bit_has_a_finite_derivative(fmt):
    start = {"w": jnp.linspace(-1, 1, 64), "b": jnp.array(0.3)}

    def outcome(z):
        return _outcome(optimiz.low_bit(optimiz.sgd_sai(0.01), fmt, min_size=16), start, z)

    assert jnp.isfinite(jax.jit(jax.grad(outcome))(1.1))


@pytest.mark.long
def test_low_bit_of_int8_has_a_derivative_by_the_data_and_by_the_learning_rate():
    start = {"w": jnp.linspace(-1, 1, 64), "b": jnp.array(0.3)}

    def outcome(rate, z):
        return _outcome(optimiz.low_bit(optimiz.sgd_sai(rate), optimiz.Int8(), min_size=16), start, z)

    both = jax.jit(jax.value_and_grad(outcome, argnums=(0, 1)))
    differences = float(both(0.01 + 1e-4, 1.1)[0] - both(0.01 - 1e-4, 1.1)[0]) / 2e-4
    _, (by_rate, by_data) = both(0.01, 1.1)
    assert float(by_rate) == pytest.approx(differences, rel=1e-2)
    assert jnp.isfinite(by_data)


@pytest.mark.quick(2)
@pytest.mark.parametrize("row", quick(TABLE))
def test_every_method_has_a_finite_derivative_within_jit(row):
    start = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(0.3)}
    tx = row.make(0.1)

    def outcome(start, z):
        return _outcome(tx, start, z)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(outcome, argnums=(0, 1)))(start, 1.1)):
        assert jnp.isfinite(leaf).all()
