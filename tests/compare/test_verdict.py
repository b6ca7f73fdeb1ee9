"""The words say what the numbers say, and no more."""

from optimiz.compare.verdict import in_words
from tests.compare.records import record, run, seeds


def words(*runs, figure="accuracy", **changes):
    return in_words(record(*runs, **changes), figure=figure)


def test_words_call_a_lead_only_what_the_test_set_can_tell():
    # At 0.8 of 1,000, two standard errors of a difference are 0.036.
    def of(*accuracies, **changes):
        return words(*map(run, "abc", accuracies), **changes)

    assert "**a** has the highest test accuracy: 0.800 on 1000 examples" in of(0.8, 0.7)
    assert "does not tell it" not in of(0.8, 0.7)
    assert "does not tell it from b (0.790)" in of(0.8, 0.79)
    assert "every optimizer here is above it" in of(0.8, 0.79)
    assert "of the optimizers here, a is above it" in of(0.8, 0.72)
    assert "**no optimizer here is above it**" in of(0.8, 0.79, baseline=0.79)
    assert of(None) == "No run reached a finite accuracy."
    assert "**b** has the best test loss, 0.100 on 1000 examples, before a (0.200);" in of(
        0.8, 0.9, figure="loss"
    )


def test_words_over_seeds_follow_from_paired_differences():
    # Every difference is about 0.01: far less than seeds differ, and yet always there.
    told = words(*seeds("a", 0.61, 0.712, 0.811), *seeds("b", 0.60, 0.70, 0.80))
    assert "**a** has the best mean test accuracy over 3 seeds: 0.711 ± 0.058 (standard error)." in told
    assert "It is significantly better than b (by 0.011)." in told
    alike = words(*seeds("a", 0.61, 0.80, 0.75), *seeds("b", 0.70, 0.70, 0.70))
    assert "Between it and b there is **no significant difference**." in alike
    assert "**no optimizer here is above it** by more than its seeds vary" in alike
    assert "significantly" not in words(*seeds("a", 0.9, 0.9), *seeds("b", 0.8, 0.8))


def test_more_comparisons_ask_for_wider_intervals():
    pair = [*seeds("a", 0.80, 0.81, 0.79), *seeds("b", 0.770, 0.772, 0.767)]
    crowd = [run for name in "cdefgh" for run in seeds(name, 0.5, 0.6, 0.4)]
    assert "significantly better than b (by 0.030)" in words(*pair)
    assert "significantly" not in words(*pair, *crowd)
