"""A study's record is small, safe to render, and survives a run that diverges or a picture that fails."""

import dataclasses
import errno
import json
import os

import numpy as np
import pytest

from examples.benchmarks import plan_report, trainers_report, update_report
from examples.shared import markdown, pictures, study_record
from examples.studies.heterogeneity import report as heterogeneity_report
from examples.studies.line_search import report as line_search_report
from examples.studies.low_bit import report as low_bit_report
from examples.studies.pretraining import report as pretraining_report
from optimiz import compare
from optimiz.training.storage import whole_file
from tests.compare import records
from tests.conftest import ROOT

REPORTS = {
    "pretraining/results": pretraining_report,
    "line_search/results/topics": line_search_report,
    "low_bit/results/topics": low_bit_report,
    "heterogeneity/results": heterogeneity_report,
}


def committed(folder):
    return compare.Record.read(ROOT / "examples/studies" / folder / "record.json")


def test_a_history_becomes_one_list_per_metric():
    whole = records.run("adam", 0.5, losses=(float(np.float32(0.1)), None, 2.0), extra={"form": "int8"})
    rows = [{**row, "step_size": [0.25, 0.5]} if "loss" in row else row for row in whole.history]
    (run,) = study_record.in_columns([dataclasses.replace(whole, history=rows)], "loss", "step_size", "trials")
    assert run.extra == {"form": "int8", "loss": [0.1, None, 2.0], "step_size": [[0.25, 0.5]] * 3}
    assert run.history == [] and run.test == whole.test
    np.testing.assert_array_equal(study_record.column(run, "loss"), [0.1, np.nan, 2.0])


def test_a_mean_is_over_what_all_runs_reached():
    means = study_record.mean_over_runs(map(np.array, ([1.0, 2.0, 3.0], [3.0, 4.0])))
    np.testing.assert_array_equal(means, [2.0, 3.0])


def test_a_measurement_is_made_once_and_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path, calls = tmp_path / "blocks.json", []

    def measure():
        calls.append(1)
        return [{"norm": 0.1}]

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(whole_file.Path, "replace", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*blocks\.json'"):
            study_record.measured_once(path, measure)
    assert not path.exists()
    assert [study_record.measured_once(path, measure) for _ in range(2)] == [[{"norm": 0.1}]] * 2
    assert len(calls) == 2
    path.write_text(path.read_text()[:5])
    with pytest.raises(ValueError, match=r"blocks\.json is not JSON"):
        study_record.measured_once(path, measure)


def test_names_in_the_record_of_a_study_are_shown_and_not_obeyed(tmp_path):
    name, whole = "![x](/etc/hostname) $y$ | <b>", committed("line_search/results/topics")
    first = whole.runs[0]
    runs = [
        dataclasses.replace(first, optimizer=method, learning_rate=rate, seed=seed)
        for method, rate, seeds in ((name, None, (2, 3)), ("adam", 0.1, (0, 1, 2, 3)))
        for seed in seeds
    ]
    record = dataclasses.replace(whole, runs=runs, command="python `x`")
    pictures.write_study(line_search_report, record, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert r"!\[x\](/etc/hostname) \$y\$ \| \<b\>" in text and "![x]" not in text


def diverged(run):
    """The same run, had it diverged at its third update."""
    lists = {"loss": [None] * 3, "step_size": [[None]] * 3, "evaluations": [1, 2, 3], "validation": []}
    extra = {name: lists.get(name, value) for name, value in run.extra.items()}
    return dataclasses.replace(run, test=dict.fromkeys(run.test), extra=extra, diverged_at=2)


@pytest.mark.quick(2)
@pytest.mark.parametrize("which", ["all", "none, and no picture"])
@pytest.mark.parametrize("folder", REPORTS)
def test_the_report_of_a_study_is_not_lost(folder, which, tmp_path, monkeypatch):
    page, record = REPORTS[folder], committed(folder)
    if which == "all":
        record = dataclasses.replace(record, runs=list(map(diverged, record.runs)))
    if which == "none, and no picture":
        monkeypatch.setattr(page, "draw", lambda *_: 1 / 0)
    pictures.write_study(page, record, tmp_path)
    text = (tmp_path / "report.md").read_text()
    message = "is left out: ZeroDivisionError: division by zero"
    assert (message in text) == (which == "none, and no picture") == (not list(tmp_path.glob("*.png")))
    assert compare.Record.read(tmp_path / "record.json").runs == record.runs


BENCHMARKS = {"trainers": trainers_report, "update": update_report, "plan/gpt2_xl_h200": plan_report}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_record_of_a_benchmark_that_was_changed_is_one_line_with_the_file(name, tmp_path):
    report = BENCHMARKS[name].report
    whole = json.loads((ROOT / "examples/benchmarks/results" / name / "record.json").read_text())
    path = tmp_path / "record.json"
    path.write_text(json.dumps(whole))
    assert markdown.read_record(path, report) == whole
    first = whole["rows"][0]
    for field in first:
        for other in ({"a": None}, [None], None):
            path.write_text(json.dumps(whole | {"rows": [{**first, field: other}]}))
            try:
                markdown.read_record(path, report)
            except ValueError as error:
                assert str(error).startswith(f"{path} is not a record") and "\n" not in str(error)
    for field in ("rows", "environment"):
        path.write_text(json.dumps({**whole, field: 3}))
        with pytest.raises(ValueError, match=rf"record\.json is not a record .* {field} must be a"):
            markdown.read_record(path, report)
