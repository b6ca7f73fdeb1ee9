"""Successive halving drops arms by runs that have decayed, keeps every run, and mixes no rungs."""

import math

import pytest

import optimiz
from optimiz import compare, training
from optimiz.compare.matrix.halving import promoted
from tests.compare import small

RATES = (0.001, 0.01, 0.1, 1.0)
HALVED = {"halving": [0.25, 0.5], "metric": "loss", "settings": training.Settings(budget=1.0, log_every=5)}


def test_as_many_go_on_as_make_every_rung_equally_expensive():
    levels = {f"arm {i}": float(i) for i in range(9)}
    assert promoted(levels, 1 / 9, 1 / 3) == ["arm 8", "arm 7", "arm 6"]
    assert promoted(levels, 1 / 3, 1.0) == ["arm 8", "arm 7", "arm 6"]
    assert promoted({"a": 1.0, "b": 2.0}, 0.25, 1.0) == ["b"]  # one at least
    assert promoted({"b": -math.inf, "a": -math.inf, "c": -math.inf}, 0.5, 1.0) == ["a", "b"]


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """Four rates, and an optimizer without any, from two seeds."""
    directory = tmp_path_factory.mktemp("halved")
    return directory, small.run(directory, chosen(), **HALVED)


def chosen():
    return [*small.ONE, *small.grid("sgd", RATES, optimiz.sgd)]


def at(runs, share):
    return [run for run in runs if run.budget_share == share]


def test_the_best_go_on_and_every_run_is_kept(halved):
    _, runs = halved
    left = set(RATES)
    for share, number in ((0.25, 4), (0.5, 2), (None, 1)):
        rung = [run for run in at(runs, share) if run.optimizer == "sgd"]
        assert {run.learning_rate for run in rung} == left and len(rung) == 2 * number
        for run in rung:
            assert run.budget == (share or 1.0)
            assert run.reference_seconds == pytest.approx(run.budget, abs=0.11)
            assert run.per_update("learning_rate")[-1] < 0.21 * run.learning_rate  # it has decayed
        loss = {
            rate: sum(r.validation("loss")[1][-1] for r in rung if r.learning_rate == rate) for rate in left
        }
        left = set(sorted(left, key=loss.get)[: math.ceil(number / 2)])
    assert [run.optimizer for run in at(runs, None)] == ["search"] * 2 + ["sgd"] * 2


def test_it_is_resumed_without_another_run(halved, monkeypatch):
    directory, runs = halved
    monkeypatch.setattr(training, "fit", None)
    assert small.run(directory, chosen(), **HALVED) == runs


def test_statistics_are_of_the_whole_budget_and_the_report_shows_what_was_dropped(halved, tmp_path):
    record = small.record(halved[1])
    assert {run.budget_share for run in record.runs} == {None} and len(record.rungs) == 12
    record.write(tmp_path / "record.json")
    read = compare.Record.read(tmp_path / "record.json")
    assert (read.runs, read.rungs) == (record.runs, record.rungs)
    search, sgd = compare.by_method(record, "loss")
    assert (search.tried, sgd.tried) == (2, 2) and list(sgd.levels) == [sgd.rate]
    text = compare.render(record, metric="loss")
    table = text.partition("## What was dropped early?")[2].partition("\n## ")[0]
    rows = {
        line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| sgd")
    }
    assert len(rows) == 4 and sum("dropped" in row for row in rows.values()) == 3
    assert "dropped" not in rows[f"sgd {sgd.rate:g}"] and "| search" not in table
    assert "as much as 8 at the whole budget; without dropping, it would have been 10" in text
    # The values that were tried at a part of the budget tell whether the best one is at an edge.
    edges = ["learning rate"] if sgd.rate in (RATES[0], RATES[-1]) else []
    assert sgd.edges == edges


@pytest.mark.long
def test_a_grid_goes_on_at_the_first_share(tmp_path):
    arms = small.grid("sgd", (1e-3, 1e-2), optimiz.sgd)
    runs = small.run(tmp_path, arms, **HALVED | {"halving": [0.5]}, extensions=5, seeds=[0])
    tried = {run.learning_rate for run in at(runs, 0.5)}
    assert len(tried) > 3 and len(at(runs, None)) == math.ceil(len(tried) / 2)
    best = compare.by_method(small.record(runs), "loss")[0]
    assert best.rate in tried and max(tried) > 0.01


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"halving": [0.5, 0.25]}, ValueError, r"halving must ascend, got \[0.5, 0.25\]"),
        ({"halving": [0.0]}, ValueError, r"each of halving must be in \(0, 1\)"),
        ({"halving": [1.0]}, ValueError, r"each of halving must be in \(0, 1\)"),
        ({"halving": 0.5}, TypeError, "halving must be a list of shares of the budget"),
        ({"halving": [0.5], "settings": training.Settings(steps=4), "reference": None}, ValueError,
         r"halving needs Settings\(budget=\).* got halving=\[0.5\] without a budget"),
    ],
)  # fmt: skip
def test_shares_are_refused_by_name(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        small.run(tmp_path / "matrix", chosen(), **changes)
