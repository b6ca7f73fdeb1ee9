import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.optimizers.adam_sls import adam_sls
from optimiz.primitives.scale_by_adam import scale_by_adam
from tests.contract import searches
from tests.golden import problem_p, search_parity_record


def test_defaults_differ_from_the_code_in_guards_alone():
    # None of them has anything to do here.
    ours = problem_p.run(adam_sls(0.3, init_step=1.0))
    jax.tree.map(np.testing.assert_array_equal, ours, search_parity_record.run("adam_sls"))


@pytest.mark.long
def test_departure_step_sizes_are_bounded():
    searches.check_bounded(adam_sls)


@pytest.mark.long
def test_departure_a_failed_search_goes_back_to_the_last_step_size():
    searches.check_recovers(adam_sls)


def test_departure_the_rule_allows_for_the_rounding_of_the_loss():
    searches.check_rounding(adam_sls)


def test_searches_without_momentum_and_moves_with_it():
    """The trial points are w - η D g, and the next point is w - η D m̂."""
    tx, adam = adam_sls(0.1, init_step=0.25, growth=1.0), scale_by_adam(0.9, 0.999, 1e-8)
    tried = []

    def value_fn(x):
        jax.debug.callback(lambda x: tried.append(float(x)), x)
        return x**2

    x, state, adam_state = jnp.array(1.0), None, adam.init(jnp.array(1.0))
    for _ in range(3):  # 1, 0.75, 0.5: the gradient falls and the momentum lags behind
        direction, adam_state = adam.update(2 * x, adam_state)
        search = 2 * x / jnp.sqrt(adam_state.nu / (1 - 0.999 ** int(adam_state.count)))
        before = x
        x, state = searches.step(tx, jnp.square, x, state, value_fn=value_fn)
        jax.effects_barrier()
        assert tried[-1] == pytest.approx(float(before - 0.25 * search), rel=1e-5)
        assert float(x) == pytest.approx(float(before - 0.25 * direction), rel=1e-5)
    assert len(tried) == 3
    assert tried[-1] > float(x) + 0.01  # the two differ


def test_decay_is_multiplied_by_the_step_size_and_is_no_part_of_the_search():
    p, grown = jnp.array([3.0, -2.0]), jnp.array([3.0, -2.0])
    plain, plain_state = searches.step(adam_sls(), lambda p: jnp.sum(p**2), p)
    tx = adam_sls(weight_decay=0.5, weight_decay_mask=lambda p: jax.tree.map(lambda x: x.ndim == 1, p))
    decayed, state = searches.step(tx, lambda p: jnp.sum(p**2), grown)
    np.testing.assert_allclose(decayed, plain - state[-1].step_size[0] * 0.5 * p, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state[-1], plain_state[-1])


@pytest.mark.parametrize(("kwargs", "error", "message"), searches.BAD + searches.BAD_ADAM)
def test_refuses_bad_arguments_by_name(kwargs, error, message):
    with pytest.raises(error, match=message):
        adam_sls(**kwargs)


def test_refuses_a_gradient_of_another_shape():
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\)"):
        searches.step(adam_sls(), jnp.sum, jnp.ones(4), grad=jnp.ones(1))
