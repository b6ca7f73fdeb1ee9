from typing import NamedTuple

import jax.numpy as jnp
import pytest

from optimiz import numerics


class Searches(NamedTuple):
    count: jnp.ndarray
    last_search: jnp.ndarray = jnp.array(10)
    fast: jnp.ndarray = jnp.array(1.0)
    slow: jnp.ndarray = jnp.array(1.0)


def due_at(rule, counts, **averages):
    """Those of the counts at which the rule asks for a search; the last was at 10."""
    return [count for count in counts if rule(Searches(jnp.array(count), **averages))]


def test_every_search_counts_from_the_last():
    assert due_at(numerics.search_every(3), range(11, 16)) == [13, 14, 15]
    assert due_at(numerics.search_every(3, first=12), range(11, 16)) == [11, 13, 14, 15]


@pytest.mark.parametrize(("fast", "slow"), [(1.25, 1.0), (1.0, 1.25)])
def test_a_step_size_that_grows_and_one_that_shrinks_are_searched_alike(fast, slow):
    rule, averages = numerics.search_when_changing(), {"fast": jnp.array(fast), "slow": jnp.array(slow)}
    assert due_at(rule, range(11, 16), **averages) == [14, 15]  # 1 / (1.25 - 1) = 4


def test_a_step_size_that_rests_is_searched_at_the_cap():
    assert due_at(numerics.search_when_changing(cap=6), range(11, 18)) == [16, 17]
    assert due_at(numerics.search_when_changing(cap=6, first=12), range(11, 18)) == [11, 16, 17]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: numerics.search_every(0), ValueError, r"steps must be in \[1, .*\], got 0"),
        (lambda: numerics.search_every(2, first=0), ValueError, r"first must be in \[1, .*\], got 0"),
        (lambda: numerics.search_every(2.5), TypeError, r"steps must be an integer, got 2\.5"),
        (lambda: numerics.search_when_changing(0.5), ValueError, r"cap must be in \[1, inf\), got 0\.5"),
        (lambda: numerics.search_when_changing(first=0), ValueError, r"first must be in \[1, .*\], got 0"),
    ],
)
def test_the_rules_of_when_refuse_bad_arguments_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
