"""The numbers of seeds are those of Student's noncentral t, and the sequential interval keeps its promise."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from optimiz.compare import paired_difference, t_quantile
from optimiz.compare.power import (
    MOST,
    detectable,
    deviation_factor,
    power,
    seeds_needed,
    sequential_difference,
)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40, 1000])
def test_the_power_is_that_of_scipys_noncentral_t(n):
    for confidence in (0.95, 0.999):
        bound = t_quantile(confidence, n - 1)
        assert power(0.0, n, confidence=confidence) == pytest.approx(1 - confidence, abs=1e-6)
        for effect in (0.3, -1.0, 3.0):
            law = scipy.stats.nct(n - 1, math.sqrt(n) * effect)
            expected = np.nansum([law.sf(bound), law.cdf(-bound)])  # a far tail is NaN in SciPy
            assert power(effect, n, confidence=confidence) == pytest.approx(expected, abs=1e-5)
    expected = math.sqrt((n - 1) / scipy.stats.chi2.ppf(0.1, n - 1))
    assert deviation_factor(n) == pytest.approx(expected, rel=1e-3)


def test_the_power_is_the_share_of_simulated_comparisons_that_tell_the_difference():
    random = np.random.default_rng(0)
    told = [paired_difference(list(random.normal(1.2, 1.0, 5)), [0.0] * 5).significant for _ in range(2000)]
    assert np.mean(told) == pytest.approx(power(1.2, 5), abs=3 * math.sqrt(0.25 / 2000))


def test_as_many_seeds_as_are_needed_have_the_power_and_one_less_has_not():
    for difference, deviation in ((0.01, 0.01), (-0.01, 0.004), (0.003, 0.01)):
        n = seeds_needed(difference, deviation, confidence=0.99)
        effect = difference / deviation
        assert power(effect, n - 1, confidence=0.99) < 0.8 <= power(effect, n, confidence=0.99)
        assert detectable(deviation, n, confidence=0.99) <= abs(difference)
    assert seeds_needed(1e-5, 1.0) is None and seeds_needed(1e9, 1.0) == 2
    assert power(0.1, MOST) > 0.8 and detectable(0.0, 3) == 0


def test_the_sequential_interval_ends_where_the_bayes_factor_is_that_of_its_confidence():
    values, alpha, n = [0.3, 0.1, 0.2, 0.4, 0.25, 0.15], 0.05, 6
    found = sequential_difference(values, [0.0] * n)
    for end in (found.low, found.high):
        t = scipy.stats.ttest_1samp(values, end).statistic
        mixed = lambda effect, t=t: (  # noqa: E731
            scipy.stats.nct.pdf(t, n - 1, math.sqrt(n) * effect) * scipy.stats.norm.pdf(effect, 0, 3)
        )
        evidence = scipy.integrate.quad(mixed, -15, 15, points=[0, t / math.sqrt(n)], limit=200)[0]
        assert evidence / scipy.stats.t.pdf(t, n - 1) == pytest.approx(1 / alpha, rel=1e-3)


def test_whoever_stops_at_the_first_interval_without_zero_errs_as_rarely_as_it_says():
    random, zeros, until = np.random.default_rng(1), [0.0] * 30, range(3, 31)
    wrong = {sequential_difference: 0, paired_difference: 0}
    for _ in range(150):
        differences = list(random.normal(0.0, 2.0, 30))
        for of in wrong:
            wrong[of] += any(of(differences[:n], zeros[:n], confidence=0.9).significant for n in until)
    assert wrong[sequential_difference] <= 150 * 0.1 < wrong[paired_difference] - 20


def test_too_few_or_unknown_pairs_have_an_infinite_sequential_interval():
    for first in ([0.5], [0.5, 0.6], [0.5, 0.6, -math.inf, 0.7, 0.8]):
        found = sequential_difference(first, [0.1] * len(first))
        assert (found.low, found.high, found.significant) == (-math.inf, math.inf, False)
    same = sequential_difference([0.6] * 9, [0.1] * 9)
    assert same.low == same.high and not same.significant


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power(math.nan, 3), "effect must be in .*, got nan"),
        (lambda: power(1.0, 1), r"n must be in \[2, "),
        (lambda: power(1.0, 3, confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: detectable(-1.0, 3), r"deviation must be in \[0, inf\), got -1.0"),
        (lambda: seeds_needed(0.1, 0.0), r"deviation must be in \(0, inf\), got 0.0"),
        (lambda: deviation_factor(1), r"n must be in \[2, "),
        (lambda: sequential_difference([1.0], []), "must have the same length, got 1 and 0"),
        (lambda: sequential_difference([], []), "values must have at least one number, got none"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
