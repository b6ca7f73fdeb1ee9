"""Verdicts follow from records, and a claim that the seeds do not tell is not said to hold."""

import dataclasses

import pytest

from examples import claims, records
from tests.examples.studies.test_line_search import study as line_search


def pre_training(optimizer, change):
    """The study of pre-training, with other test losses of an optimizer."""
    record = records._study("pretraining/results")
    runs = [
        dataclasses.replace(run, test=dict(run.test) | {"loss": run.test["loss"] + change})
        if run.optimizer == optimizer and "loss" in run.test
        else run
        for run in record.runs
    ]
    return dataclasses.replace(record, runs=runs)


def test_every_claim_has_a_verdict_and_a_measurement():
    made = list(records.made_claims())
    verdicts = {claims.HOLDS, claims.IN_PART, claims.NOT_HERE, claims.OPEN}
    assert len(made) >= 9 and {claim.verdict for claim in made} <= verdicts
    assert all(claim.measured and claim.setting.startswith("[") for claim in made)


def test_sizes_of_state_hold_only_if_all_are_near():
    memory = records._measured("memory")
    (claim,) = claims.of_memory(memory)
    assert claim.verdict == claims.IN_PART and "sgd_sai 5.80 GiB, adamw 11.61 GiB" in claim.measured
    doubled = {name: dict(sizes) for name, sizes in memory["models"]["GPT-2 1.5B"]["bytes"].items()}
    doubled["sgd_sai"]["float32"] *= 2
    other = {"models": {"GPT-2 1.5B": memory["models"]["GPT-2 1.5B"] | {"bytes": doubled}}}
    assert next(claims.of_memory(other)).verdict == claims.NOT_HERE


@pytest.mark.parametrize(("change", "verdict"), [(-2.0, claims.NOT_HERE), (0.0, claims.IN_PART)])
def test_a_recipe_that_beats_the_decayed_baseline_refutes_the_claim(change, verdict):
    first = next(claims.of_budgets(pre_training("rho_loss", change)))
    assert first.verdict == verdict


def test_a_search_that_is_behind_anywhere_holds_only_in_part():
    found = line_search(lead=0.1)
    (edge,) = claims.of_searches({"topics": found})
    assert (
        edge.verdict == claims.OPEN and "Adam's best rate is at an edge of its grid with 100" in edge.measured
    )

    def with_50_rows(lead):
        runs = [run for run in line_search(lead).runs if run.extra["rows"] == 50]
        return next(claims.of_searches({"topics": dataclasses.replace(found, runs=runs)})).verdict

    verdicts = {0.1: claims.HOLDS, -0.01: claims.OPEN, -0.2: claims.NOT_HERE}
    assert {lead: with_50_rows(lead) for lead in verdicts} == verdicts


def test_a_search_that_is_ahead_at_one_size_and_not_told_apart_at_another_holds_in_part():
    first, second = claims.of_searches(records._studies("line_search"))
    assert "100 +0.022 (-0.024 to +0.067), 250 +0.052 (+0.015" in first.measured
    assert first.verdict == claims.IN_PART and second.verdict == claims.OPEN


@pytest.mark.parametrize(
    ("change", "verdict"), [(-0.3, claims.HOLDS), (0.0, claims.OPEN), (0.3, claims.NOT_HERE)]
)
def test_a_loss_is_on_a_par_by_the_margin_of_the_language_model(change, verdict):
    both = claims.of_sgd_sai(records._comparison("compare"), pre_training("sgd_sai", change))
    assert [claim.verdict for claim in both] == [claims.OPEN, verdict]


def test_the_table_has_a_row_per_claim():
    rows = claims.table(iter([claims.Claim("a", "b", "c", "[d](e)", claims.OPEN)])).splitlines()
    assert rows[-1] == "| a | b | c | [d](e) | **cannot be told** |"


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ({"adam": 0.7, "sgd": 0.5, "momentum": 0.6}, claims.HOLDS),
        ({"adam": 0.7, "sgd": 0.5, "momentum": 0.7}, claims.IN_PART),
        ({"adam": 0.5, "sgd": 0.6, "momentum": 0.6}, claims.NOT_HERE),
        ({"adam": 0.5, "sgd": 0.5, "momentum": 0.6}, claims.OPEN),
    ],
)
def test_adam_leads_where_it_is_ahead_of_sgd_with_momentum_and_without(accuracies, verdict):
    record = records._study("fine_tuning/results")
    runs = [
        dataclasses.replace(run, test=dict(run.test) | {"accuracy": accuracies[run.optimizer]})
        for run in record.runs
        if run.optimizer in accuracies
    ]
    others = [run for run in record.runs if run.optimizer not in ("adam", "sgd", "momentum")]
    first, *rest = claims.of_fine_tuning(dataclasses.replace(record, runs=runs + others))
    assert first.verdict == verdict and {claim.setting for claim in rest} == {first.setting}
