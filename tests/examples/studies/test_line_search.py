"""The line-search study as a user runs it, and its report."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest

from examples.studies.line_search import report as line_search_report
from optimiz import compare
from tests.conftest import ROOT
from tests.examples.test_finetune_text import data, model  # noqa: F401


@pytest.fixture(scope="module")
def study(model, data, tmp_path_factory):  # noqa: F811
    """A study of one update or two per run, and the command that made it."""
    output = tmp_path_factory.mktemp("study")
    given = {"model": model, "data": data, "validation": data, "output": output, "length": 12, "rows": 48}
    given |= {"epochs": 1, "batch_size": 32, "seeds": 2, "learning_rates": "1e-4,1e-3", "adam": "adam_head"}
    command = [
        sys.executable,
        "-m",
        "examples.studies.line_search.study",
        *(f"--{name}={x}" for name, x in given.items()),
    ]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return output, command


@pytest.mark.parametrize("name", ["topics", "cola"])
def test_the_metric_is_read_from_earlier_records_too(name):
    earlier = compare.Record.read(ROOT / "examples/studies/line_search/results" / name / "record.json")
    settings = dict(earlier.settings)
    renamed = dataclasses.replace(earlier, settings={"metric": settings.pop("figure"), **settings})
    for record in (earlier, renamed):
        assert line_search_report.metric_of(record) == ("mcc" if name == "cola" else "accuracy")


@pytest.mark.long
def test_every_method_runs_from_every_seed_and_the_report_is_rendered_from_the_record(study):
    output, _ = study
    record = compare.Record.read(output / "record.json")
    searches = [(name, None) for name in ("salsa", "salsa_head", "adam_sls", "pla_sls")]
    arms = [*searches, ("adam_head", 1e-4), ("adam_head", 1e-3)]
    runs = record.runs
    assert [(run.optimizer, run.learning_rate, run.seed) for run in runs] == [
        (*a, s) for a in arms for s in (0, 1)
    ]
    for run in runs:
        assert len(run.extra["loss"]) == record.settings["updates"] == run.steps == 2 and not run.history
        assert ("evaluations" in run.extra) == (run.learning_rate is None)
        if run.learning_rate is None:
            units = 3 if run.optimizer == "pla_sls" else 1  # embeddings, one layer, head
            assert run.extra["evaluations"][-1] > 0 and np.shape(run.extra["step_size"]) == (2, units)
    for seed in (0, 1):  # all begin with the same parameters, batch and dropout
        assert len({round(run.extra["loss"][0], 5) for run in runs if run.seed == seed}) == 1
    text = (output / "report.md").read_text()
    assert text == line_search_report.render(record)
    assert "| adam_head 0.001 |" in text and (output / "curves.png").stat().st_size > 10_000


@pytest.mark.long
def test_a_study_continues_where_it_was_stopped(study):
    output, command = study
    before = compare.Record.read(output / "record.json")
    shutil.rmtree(output / "runs/salsa/seed_1")  # as if it had been stopped before this run
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    after = compare.Record.read(output / "record.json")
    timeless = [dataclasses.replace(run, seconds=0.0, compile_seconds=0.0) for run in after.runs]
    assert timeless == [dataclasses.replace(run, seconds=0.0, compile_seconds=0.0) for run in before.runs]


@pytest.mark.long
def test_a_study_with_other_settings_is_refused(study):
    _, command = study
    other = subprocess.run([*command, "--rows=40"], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 1 and "rows was 48, is 40" in other.stderr
