import jax.numpy as jnp
import pytest

from optimiz import numerics


def search(accepted, start=8.0, *, expanding=False, **settings):
    """Step sizes are accepted by a function; the decrease is the step size."""
    settings = {
        "max_trials": 10,
        "shrink": 0.5,
        "expand": 2.0,
        "min_step": 0.0,
        "max_step": jnp.inf,
        "expanding": jnp.array(expanding),
    } | settings
    found = numerics.line_search(
        lambda step_size: step_size,
        lambda decrease, step_size: accepted(step_size),
        jnp.float32(start),
        **settings,
    )
    return tuple(leaf.item() for leaf in found)


def never(step_size):
    return step_size < 0


def always(step_size):
    return step_size > 0


def test_it_shrinks_until_one_is_accepted():
    assert search(lambda step_size: step_size <= 1) == (1.0, 1.0, 4, True)
    assert search(always) == (8.0, 8.0, 1, True)


@pytest.mark.parametrize(("limit", "trials"), [({"max_trials": 3}, 3), ({"min_step": 2.0}, 3)])
def test_without_success_it_leaves_what_is_left_after_the_last_refusal(limit, trials):
    assert search(never, **limit) == (8.0 / 2**trials, 0.0, trials, False)


def test_it_expands_as_long_as_trials_are_accepted_and_keeps_the_last():
    assert search(lambda step_size: step_size <= 40, expanding=True) == (32.0, 32.0, 4, True)


def test_an_expansion_whose_start_is_refused_shrinks_and_expands_no_more():
    # 8 and 4 are refused, 2 is accepted, and 4, which comes next, is refused again.
    assert search(lambda step_size: step_size <= 2, expanding=True) == (2.0, 2.0, 4, True)


@pytest.mark.parametrize("limit", [{"max_trials": 3}, {"max_step": 40.0}])
def test_an_expansion_is_bounded(limit):
    assert search(always, expanding=True, **limit) == (32.0, 32.0, 3, True)


def test_before_the_first_trial_there_is_the_start():
    found = numerics.untried(jnp.float32(3.0))
    assert tuple(leaf.item() for leaf in found) == (3.0, 0.0, 0, False)
