"""The intervals are Student's, and what is infinite stays so."""

import math

import pytest
import scipy.stats

from optimiz.compare import estimate, paired_difference, sensitivity, t_quantile, time_to_target


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 100])
def test_t_quantile_is_that_of_scipy(degrees):
    for confidence in (0.01, 0.5, 0.9, 0.95, 0.99, 0.9999):
        expected = scipy.stats.t.ppf((1 + confidence) / 2, degrees)
        assert t_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-9)


def test_a_paired_difference_is_the_t_interval_of_scipy():
    first, second = [0.71, 0.74, 0.69, 0.73], [0.70, 0.71, 0.69, 0.70]
    found = paired_difference(first, second, confidence=0.9)
    expected = scipy.stats.ttest_rel(first, second).confidence_interval(0.9)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.n == 4 and found.mean == pytest.approx(0.0175)


def test_what_the_seeds_have_in_common_drops_out():
    common = [0.1, 0.5, 0.9]
    close = paired_difference([x + d for x, d in zip(common, (0.010, 0.012, 0.011), strict=True)], common)
    assert close.significant and close.low > 0
    unpaired = paired_difference([0.110, 0.512, 0.911], [0.5, 0.9, 0.1])
    assert not unpaired.significant


def test_a_difference_of_no_width_or_of_one_pair_is_not_significant():
    assert not paired_difference([0.75, 0.75], [0.5, 0.5]).significant
    one = paired_difference([0.9], [0.1])
    assert (one.mean, one.low, one.high, one.significant) == (0.8, -math.inf, math.inf, False)


def test_a_run_that_diverged_is_not_dropped():
    assert estimate([0.5, -math.inf]).mean == -math.inf
    assert math.isnan(estimate([0.5, -math.inf]).standard_error)
    difference = paired_difference([0.5, 0.6], [0.5, -math.inf])
    assert difference.mean == math.inf and not difference.significant
    assert math.isnan(paired_difference([-math.inf], [-math.inf]).mean)


def test_sensitivity_is_over_the_rates_about_the_best():
    levels = {1e-4: 0.70, 1e-3: 0.795, 1e-2: 0.80, 1e-1: 0.60, 1.0: 0.799}
    found = sensitivity(levels, within=0.01)
    assert found.mean == pytest.approx(0.7388) and found.spread == pytest.approx(0.088457, abs=1e-6)
    # 1.0 is as near in level, but there is a worse rate between.
    assert (found.low, found.high, found.factor) == (1e-3, 1e-2, pytest.approx(10))


def test_sensitivity_to_rates_that_diverge():
    found = sensitivity({0.1: 0.8, 1.0: -math.inf}, within=0.01)
    assert (found.mean, found.low, found.high) == (-math.inf, 0.1, 0.1) and math.isnan(found.spread)
    assert math.isnan(sensitivity({0.1: -math.inf, 1.0: -math.inf}, within=0.01).factor)


def test_time_to_target():
    assert time_to_target([1.0, 2.0], [math.nan, 0.6], 0.5) == 2.0
    assert time_to_target([], [], 0.5) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: estimate([]), "values must have at least one number, got none"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "must have the same length, got 1 and 2"),
        (lambda: paired_difference([1.0], [1.0], confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: t_quantile(0.95, 0), r"degrees must be in \[1, "),
        (lambda: sensitivity({}, within=0.01), "levels must have at least one rate, got none"),
        (lambda: sensitivity({0.0: 0.5}, within=0.01), r"each learning rate must be in \(0, inf\), got 0.0"),
        (lambda: sensitivity({0.1: 0.5}, within=-1), r"within must be in \[0, inf\), got -1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
