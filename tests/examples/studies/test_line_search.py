"""The line-search study as a user runs it, and what its report says."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest

from examples.studies.line_search import report
from examples.studies.line_search.arms import GRIDS, METHODS, arm
from optimiz import compare
from tests.compare.records import record, run
from tests.conftest import ROOT
from tests.examples.test_finetune_text import data, model  # noqa: F401

PROGRAM = [sys.executable, "-m", "examples.studies.line_search.study"]


def one(rows, name, rate, seed, test, validation=None):
    """A run of two updates; a search tries twice in the first and once in the second."""
    extra = {"rows": rows, "validation": validation, "loss": [1.0, 0.5]}
    extra |= {} if rate else {"evaluations": [2, 3], "step_size": [[1e-3], [2e-3]]}
    return run(name, test, rate=rate, seed=seed, extra=extra, test={"accuracy": test})


def study(lead=0.1):
    """Adam is best at 0.1 with 50 rows and at 1.0, an edge, with 100, where SaLSa has no lead."""
    runs = []
    for rows, best in ((50, 0.1), (100, 1.0)):
        for seed in range(2):
            runs += [
                one(rows, "adam", rate, seed, 0.0, 0.8 if rate == best else 0.5) for rate in (0.01, 0.1, 1.0)
            ]
        for seed, noise in ((2, 0.0), (3, 0.01), (4, 0.02)):
            runs += [one(rows, "adam", best, seed, 0.6 + noise)]
            runs += [one(rows, "salsa", None, seed, 0.6 + 2 * noise + (lead if rows == 50 else -0.02))]
    found = record(*runs)
    return dataclasses.replace(found, settings={"metric": "accuracy"})


def test_a_search_is_compared_with_the_best_rate_on_further_seeds():
    results = report.Results(study())
    assert results.rows == [50, 100] and results.tuned == ["adam"] and results.searches == ["salsa"]
    assert results.confidence() == 0.95
    lead = results.lead(50, "salsa", "adam")
    assert lead.mean == pytest.approx(0.11) and lead.n == 3 and lead.low > 0
    assert not results.at_edge(50, "adam") and results.at_edge(100, "adam")


def test_to_keep_up_is_to_be_at_most_a_standard_error_behind():
    results = report.Results(study())  # with 100 rows the differences are -0.02, -0.01 and 0
    assert results.keeps_up(50, "salsa", "adam") and not results.keeps_up(100, "salsa", "adam")
    assert report.Results(study(lead=-0.015)).keeps_up(50, "salsa", "adam")  # -0.005 ± 0.006


def test_the_page_says_where_a_search_is_ahead_and_what_it_costs():
    text = report.render(study())
    assert (
        "- **salsa**, which needs no rate. Next to adam, by rows: ahead with 50; **not told apart** with 100; "
        "it keeps up with 50." in text
    )
    assert "- **At an edge of its grid**: the best rate of adam with 100 rows." in text
    assert "| 100 | adam | 1, **an edge** | 3 | 0.610 ± 0.006 | -0.347 ± 0.000 |  | 0.00 | 0 | 0 |" in text
    assert "| 50 | salsa | found |  | 0.720 ± 0.012 |" in text and "| 1.50 | 2 | 2 |" in text


def test_a_diverged_run_is_never_ahead():
    found = study()
    runs = [
        dataclasses.replace(one, test={"accuracy": None}, diverged_at=1)
        if (one.optimizer, one.seed) == ("salsa", 3)
        else one
        for one in found.runs
    ]
    results = report.Results(dataclasses.replace(found, runs=runs))
    assert not results.keeps_up(50, "salsa", "adam") and not results.lead(50, "salsa", "adam").significant
    assert "| 50 | salsa | found |  | diverged |" in report.table(results)


def test_several_studies_are_one_table():
    table, _, note = report.across({"topics": study(), "sst2": study()}).partition("\n\n")
    assert note.startswith("In bold: ")
    lines = table.splitlines()
    assert lines[0] == "| data | rows | adam | salsa |"
    assert lines[2] == "| topics, accuracy ↑ | 50 | 0.610 ± 0.006 at 0.1 | **0.720 ± 0.012** |"
    assert len(lines) == 6


def test_the_arms_of_a_method_share_their_function():
    assert {*GRIDS} < {*METHODS}
    for name in METHODS:
        rate = 0.1 if name in GRIDS else None
        assert arm(50, name, rate, 8).make is arm(100, name, rate and 0.2, 8).make


@pytest.fixture(scope="module")
def made(model, data, tmp_path_factory):  # noqa: F811
    """A study of one update or two per run, and the command that made it."""
    given = {"model": model, "data": data, "validation": data, "test": data, "length": 12, "epochs": 1}
    given |= {"rows": "24,48", "batch_size": 32, "seeds": 2, "extensions": 0}
    given |= {"methods": "adam,salsa_head,pla_sls", "output": tmp_path_factory.mktemp("study")}
    command = [*PROGRAM, *(f"--{name}={x}" for name, x in given.items())]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return given["output"], command


@pytest.mark.long
def test_every_method_runs_on_every_number_of_rows_and_the_report_is_of_the_record(made):
    output, _ = made
    found = compare.Record.read(output / "record.json")
    choosing = [("adam", rate, seed) for rate in GRIDS["adam"] for seed in (0, 1)]
    for rows, updates in ((24, 1), (48, 2)):
        runs = [run for run in found.runs if run.extra["rows"] == rows]
        assert [(run.optimizer, run.learning_rate, run.seed) for run in runs[:6]] == choosing
        assert [(run.optimizer, run.seed) for run in runs[6:]] == [
            (name, seed) for name in ("adam", "salsa_head", "pla_sls") for seed in (2, 3)
        ]
        for one in runs:
            assert len(one.extra["loss"]) == one.steps == updates and not one.history
            assert ("evaluations" in one.extra) == (one.learning_rate is None)
            if one.learning_rate is None:
                units = 3 if one.optimizer == "pla_sls" else 1  # embeddings, one layer, head
                assert one.extra["evaluations"][-1] > 0 and np.shape(one.extra["step_size"]) == (updates, units)
        for seed in (2, 3):  # all begin with the same parameters, batch and dropout
            assert len({round(one.extra["loss"][0], 5) for one in runs if one.seed == seed}) == 1
    text = (output / "report.md").read_text()
    assert text == report.render(found)
    assert (output / "curves.png").stat().st_size > 10_000


@pytest.mark.long
def test_a_study_continues_where_it_was_stopped(made):
    output, command = made
    before = compare.Record.read(output / "record.json")
    shutil.rmtree(output / "runs/48_rows/salsa_head/seed_3")  # as if it had been stopped before this run
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    after = compare.Record.read(output / "record.json")
    timeless = [dataclasses.replace(run, seconds=0.0, compile_seconds=0.0) for run in after.runs]
    assert timeless == [dataclasses.replace(run, seconds=0.0, compile_seconds=0.0) for run in before.runs]


@pytest.mark.long
def test_a_study_with_other_settings_is_refused(made):
    _, command = made
    other = subprocess.run([*command, "--epochs=2"], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 1 and "epochs was 1, is 2" in other.stderr
