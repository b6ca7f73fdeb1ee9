"""A setting in which training does not matter is said to be one, before anything else."""

import dataclasses

import pytest

from optimiz import compare
from tests.compare.records import record, run, seeds

BASE = seeds("adamw", 0.80, 0.81, 0.82)


def opening(*runs, controls=None, baseline=None, metric="accuracy", **changes):
    made = dataclasses.replace(record(*runs), controls=controls or {}, **changes)
    if baseline is None:
        made = dataclasses.replace(made, baselines={})
    else:
        made = dataclasses.replace(made, baselines={"majority": {p: {"accuracy": baseline} for p in PARTS}})
    text = compare.render(made, metric=metric)
    return text.split("\n\n")[1]  # behind the title


PARTS = ("validation", "test")


def of(*accuracies):
    return [{"accuracy": accuracy} for accuracy in accuracies]


def test_a_baseline_above_all_that_is_trivial_tells_training_from_none():
    told = opening(*BASE, controls={"untrained": of(0.05, 0.06, 0.04)}, baseline=0.1)
    # Both intervals are t(2) at a confidence of 97.5 %, 6.205, times standard errors of 0.01 and 0.00577.
    assert told == (
        "**This setting tells training from none:** its baseline, adamw, leads over untrained (0.760; 0.698 to "
        "0.822) and majority (0.710; 0.674 to 0.746) by more than seeds differ."
    )


def test_a_reference_that_is_not_below_by_more_than_seeds_differ_puts_it_in_doubt():
    told = opening(*BASE, controls={"half of the data": of(0.82, 0.79, 0.80)}, baseline=0.1)
    assert told.startswith(
        "**This setting is in doubt:** its baseline, adamw, does not lead over half of the data (0.007;"
    )
    assert "by more than seeds differ, but it does over majority (0.710;" in told
    above = opening(*BASE, baseline=0.9)
    assert "does not lead over majority (-0.090; -0.115 to -0.065) by more than seeds differ. Where" in above
    assert "in doubt" in opening(
        *seeds("sgd", 0.1, 0.11, 0.1), *BASE, baseline=0.1
    )  # the first is the baseline


def test_one_run_is_no_comparison():
    assert opening(run("adamw", 0.8), baseline=0.1).startswith("**adamw** at learning rate")
    assert "one seed does not show" in opening(run("adamw", 0.8), controls={"untrained": of(0.1)})


def test_seeds_that_do_not_differ_are_told_by_any_lead():
    told = opening(*seeds("adamw", 1.0, 1.0, 1.0), baseline=0.9)
    assert told.endswith("adamw, leads over majority (0.100; 0.100 to 0.100) by more than seeds differ.")


def test_lower_is_better_for_a_loss():
    losses = [{"loss": value} for value in (0.9, 0.8, 0.85)]
    told = opening(*BASE, controls={"untrained": losses, "other": of(0.1, 0.1, 0.1)}, metric="loss")
    assert told.startswith(
        "**This setting tells training from none:** its baseline, adamw, leads over untrained (0.660;"
    )


def test_what_is_not_known_is_said():
    assert "it has no trivial reference" in opening(*BASE)
    one = opening(run("adamw", 0.8), run("sgd", 0.1), baseline=0.85)
    assert one.endswith(
        "one seed does not show how far seeds differ. The lead of its baseline, adamw: -0.050 over majority."
    )
    diverged = opening(*seeds("adamw", None, 0.8, diverged_at=1), baseline=0.1)
    assert diverged == "**This setting tells nothing about its baseline:** adamw diverged."
    assert "tells training from none" in opening(*BASE, controls={"frozen": of(None, 0.1, 0.1)})


def test_a_control_that_lacks_a_seed_is_refused_and_others_are_read_back(tmp_path):
    with pytest.raises(ValueError, match=r"controls\['untrained'\] must have one entry per seed, 3, got 2"):
        dataclasses.replace(record(*BASE), controls={"untrained": of(0.1, 0.1)})
    with pytest.raises(
        TypeError, match=r"controls\['untrained'\]\[0\]\['accuracy'\] must be a number, got \"high\""
    ):
        dataclasses.replace(record(*BASE), controls={"untrained": of("high", 0.1, 0.1)})
    made = dataclasses.replace(record(*BASE), controls={"untrained": of(0.1, None, 0.1)})
    made.write(tmp_path / "record.json")
    assert compare.Record.read(tmp_path / "record.json").controls == made.controls
