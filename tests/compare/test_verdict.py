"""The words say what the numbers say, and no more."""

import dataclasses
import math

import numpy as np
import pytest

from optimiz.compare.methods import by_method, leads
from optimiz.compare.verdict import consequences, in_words
from tests.compare.records import record, run, seeds


def words(*runs, metric="accuracy", **changes):
    return in_words(record(*runs, **changes), metric=metric)


def test_words_call_a_lead_only_what_the_test_set_can_tell():
    # At 0.8 of 1,000, two standard errors of a difference are 0.036.
    def of(*accuracies, **changes):
        return words(*map(run, "abc", accuracies), **changes)

    assert (
        "Use **a** at learning rate 0.01, because it has the best (highest) test accuracy: 0.800 on 1000"
        in of(0.8, 0.7)
    )
    assert "does not distinguish it" not in of(0.8, 0.7)
    assert "does not distinguish it from b (0.790)" in of(0.8, 0.79)
    assert "every optimizer here is above it" in of(0.8, 0.79)
    assert "of the optimizers here, a is above it" in of(0.8, 0.72)
    assert "**no optimizer here is above it**" in of(0.8, 0.79, baseline=0.79)
    assert of(None) == "No run reached a finite accuracy."
    assert "Use **b** at learning rate 0.01, because it has the best (lowest) test loss: 0.100 on 1000" in of(
        0.8, 0.9, metric="loss"
    )


def test_words_over_seeds_follow_from_paired_differences():
    # Every difference is about 0.01: far less than seeds differ, and yet always there.
    told = words(*seeds("a", 0.61, 0.712, 0.811), *seeds("b", 0.60, 0.70, 0.80))
    assert (
        "it has the best (highest) mean test accuracy over 3 seeds: 0.711 (95% interval 0.461 to 0.961)."
        in told
    )
    assert "It is ahead of b (0.011; 0.009 to 0.013)." in told
    alike = words(*seeds("a", 0.61, 0.80, 0.75), *seeds("b", 0.70, 0.70, 0.70))
    assert "It is **not told apart** from b (0.020; -0.225 to 0.265)." in alike
    assert "**no optimizer here is above it** by more than the variation over seeds" in alike
    assert "It is ahead of" not in words(*seeds("a", 0.9, 0.9), *seeds("b", 0.8, 0.8))


def test_more_comparisons_ask_for_wider_intervals():
    pair = [*seeds("a", 0.80, 0.81, 0.79), *seeds("b", 0.770, 0.772, 0.767)]
    crowd = [run for name in "cdefgh" for run in seeds(name, 0.5, 0.6, 0.4)]
    assert "It is ahead of b (0.030; 0.012 to 0.049)." in words(*pair)
    assert "It is ahead of" not in words(*pair, *crowd)


@pytest.mark.parametrize("metric", ["mae", "validation_rmse", "WER", "harm"])
def test_what_is_better_lower_is_ranked_so(metric):
    def of(name, value, rate):
        history = [{"step": 0, "loss": 1.0}, {"steps": 1, "evaluation": {metric: value}}]
        return run(name, None, rate=rate, history=history, test={metric: value}, steps=1)

    runs = [of("a", 0.9, 0.1), of("a", 0.4, 0.2), of("a", 0.8, 0.3), of("b", 0.6, 0.2)]
    told = in_words(dataclasses.replace(record(*runs), baselines={}, lower_is_better=["harm"]), metric=metric)
    assert told.startswith(
        f"Use **a** at learning rate 0.2, because it has the best (lowest) test {metric}: 0.400 on 1000 "
        "examples, ahead of b (0.600);"
    )
    # A lead over a baseline could be chance, but none is none.
    for bar, then in ((0.3, "**no optimizer here is below it**."), (0.5, "optimizers here, a is below it.")):
        one = dataclasses.replace(record(*runs), lower_is_better=["harm"])
        of_rule = {part: {metric: bar} for part in ("validation", "test")}
        told = in_words(dataclasses.replace(one, baselines={"rule": of_rule}), metric=metric)
        assert told.endswith(then), told
    level = {part: {metric: 0.5} for part in ("validation", "test")}
    runs = [
        dataclasses.replace(run, seed=seed) for seed in (0, 1, 2) for run in runs if run.learning_rate == 0.2
    ]
    seeded = dataclasses.replace(record(*runs), baselines={"rule": level}, lower_is_better=["harm"])
    assert "**no optimizer here is below it** by more than" in in_words(seeded, metric=metric)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"a": (0.1, 0.2), "b": (0.1,)}, "the best learning rate of a is at the edge of its grid"),
        ({"a": (0.1, 0.2, 0.3), "b": (0.1, 0.2)}, "the best learning rate of b is at the edge of its grid"),
        (
            {"a": (0.1, 0.2), "b": (0.1, 0.2)},
            "the best learning rates of a and b are at the edges of their grids",
        ),
        ({"a": (0.1, 0.2, 0.3), "b": (0.1,)}, None),
    ],
)
@pytest.mark.parametrize("of", [(0,), (0, 1)])
def test_the_first_sentence_says_whose_best_rate_is_at_the_edge_of_its_grid(rates, said, of):
    runs = [
        run(name, 0.8 if rate == 0.2 else 0.6, rate=rate, seed=seed)
        for name, grid in rates.items()
        for rate in grid
        for seed in of
    ]
    first = words(*runs).split(". ")[0]
    assert (said in first) if said else ("edge" not in words(*runs))
    assert "edge" not in words(*[run("a", None, rate=rate, diverged_at=0) for rate in (0.1, 0.2)])


@pytest.mark.parametrize("metric", ["r2", "macro_f1", "auc"])
def test_what_is_no_share_of_correct_answers_has_no_standard_error_of_one(metric):
    history = [{"step": 0, "loss": 1.0}, {"steps": 1, "evaluation": {metric: 0.5}}]
    told = words(run("a", None, history=history, test={metric: 0.5}), metric=metric)
    assert told == (
        f"**a** at learning rate 0.01 has a test {metric} of 0.500 on 1000 examples; a single seed does not "
        "show whether others would give the same ranking."
    )
    one = words(run("a", None, history=history, test={metric: 0.5}), metric=metric, test_examples=1)
    assert " of 0.500 on 1 example; a single seed" in one


def both(*runs):
    """What is said of the result, and of what follows from it."""
    return f"{words(*runs)}\n\n{consequences(record(*runs), metric='accuracy')}"


def decided():
    """Two methods that three seeds do not tell apart: leads of 0.02, -0.01 and 0.02."""
    a = [
        *seeds("a", 0.80, 0.81, 0.82, rate=0.1),
        *seeds("a", 0.77, 0.78, 0.79, rate=0.01),
        *seeds("a", 0.5, 0.5, None, rate=1.0, diverged_at=2),
    ]
    return [*a, *seeds("b", 0.78, 0.82, 0.80, rate=None, seconds=0.6, state_bytes_per_parameter=8.0)]


def test_the_cost_the_risk_and_what_would_change_it_follow_from_the_runs():
    told = both(*decided())
    assert told.startswith(
        "Use **a** at learning rate 0.1, because it has the best (highest) mean test accuracy"
    )
    assert "It is **not told apart** from b (0.010; -0.033 to 0.053)." in told
    assert (
        "**Cost:** 500 ms per update; the least is 200 (b); 4.00 bytes of state per parameter, no method here "
        "takes less." in told
    )
    assert (
        "**Risk:** its worst seed has 0.800; the rates next to its own in the grid are worse by 0.030 in "
        "validation accuracy; **a rate next to its own diverges**." in told
    )
    # The leads deviate by 0.0173; scipy's power of 26 seeds is 0.80, and of 25 it is 0.79.
    assert (
        "**What would change it:** further seeds: 23 more would probably tell its lead over b, 0.010," in told
    )
    spent = [
        dataclasses.replace(r, budget=8.0, history=[]) for r in [*seeds("a", 0.8, 0.7), *seeds("b", 0.6, 0.6)]
    ]
    assert "**Cost:** every run had the same budget, 8 seconds of reference time; 500 ms" in both(*spent)
    behind = words(*decided(), baseline=0.9)
    assert behind.startswith("Of these optimizers, use **a** at learning rate 0.1,")
    found = both(*seeds("b", 0.9, 0.9, rate=None), *seeds("a", 0.8, 0.8))
    assert found.startswith("Use **b**, which finds its learning rate, because it has the best (highest) mean")
    assert "further seeds: its lead over a, 0.100, is the same for all so far" in found
    same = both(*seeds("a", 0.80, 0.82, 0.80001), *seeds("b", 0.81, 0.81, 0.80))
    assert "further seeds" not in same and "hardly the seeds: its lead over b, 3.33e-06, is so small" in same


def test_the_intervals_of_the_leader_hold_for_whichever_method_it_is():
    """Equal methods are called apart in at most 5 % of comparisons, though the best of them is chosen first."""
    random, told = np.random.default_rng(0), 0
    for _ in range(150):
        scores = 0.5 + 0.1 * random.normal(size=(4, 4))
        compared = by_method(
            record(*[r for i, row in enumerate(scores) for r in seeds(f"m{i}", *row)]), "accuracy"
        )
        told += any(lead.significant for _, lead in leads(compared))
    assert told <= 0.05 * 150 + 2 * math.sqrt(0.05 * 0.95 * 150)
