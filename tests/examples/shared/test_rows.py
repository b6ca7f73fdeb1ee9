"""The rows of a study survive kills, full disks and a second start, and are refused where they were changed."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from examples.benchmarks import trainers_report, update_report
from examples.shared import markdown, rows
from examples.shared.rows import Rows
from examples.studies.heterogeneity import report as heterogeneity_report
from examples.studies.heterogeneity import rows as heterogeneity_rows
from examples.studies.line_search import report as line_search_report
from examples.studies.low_bit import report as low_bit_report
from examples.studies.pretraining import report as judgement_report
from optimiz import training
from optimiz.training.storage import whole_file
from tests.conftest import ROOT

SETTINGS = {"steps": 3}


def no_fields(row):
    return {}


def opened(path, settings=SETTINGS, fields=no_fields):
    return Rows(path, settings, fields)


@pytest.fixture
def path(tmp_path):
    """Of two rows."""
    with opened(tmp_path / "rows.jsonl") as study:
        study.add({"seed": 0, "loss": float("nan")})
        study.add({"seed": 1})
    return tmp_path / "rows.jsonl"


def test_a_start_leaves_the_file_as_it_is(path):
    before, inode = path.read_bytes(), path.stat().st_ino
    with opened(path) as study:
        assert [row["seed"] for row in study.rows] == [0, 1] and study.has(seed=1)
    assert path.read_bytes() == before and path.stat().st_ino == inode


def test_a_line_cut_short_is_dropped_and_a_kill_or_a_full_disk_meanwhile_loses_nothing(path, monkeypatch):
    whole = path.read_bytes()
    torn = whole + b'{"seed": 2, "lo'
    path.write_bytes(torn)

    def stops(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(whole_file.Path, "replace", stops)
        with pytest.raises(OSError, match=r"No space left on device: '.*rows\.jsonl'"):
            opened(path)
    assert path.read_bytes() == torn
    with opened(path) as study:
        assert len(study.rows) == 2
    assert path.read_bytes() == whole


def test_a_row_that_does_not_fit_on_the_disk_leaves_the_rows_before_it(path, monkeypatch):
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with opened(path) as study:
        monkeypatch.setattr(rows.os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*rows\.jsonl'"):
            study.add({"seed": 2})
        assert not study.has(seed=2)
    assert path.read_bytes() == before


def test_two_starts_at_once_are_one(path):
    with opened(path), pytest.raises(training.RunError, match=r"rows\.jsonl is in use by another process"):
        opened(path)
    with pytest.raises(ValueError, match="is of other settings"):
        opened(path, {"steps": 4})
    opened(path).__exit__(None, None, None)  # whoever was refused holds nothing


def test_a_killed_process_lets_go_and_keeps_every_row(tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
from examples.shared.rows import Rows
study = Rows(Path(sys.argv[1]), {SETTINGS}, lambda row: {{}})
for seed in range(3):
    study.add({{"seed": seed}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "rows.jsonl")], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    with opened(tmp_path / "rows.jsonl") as study:
        assert [row["seed"] for row in study.rows] == [0, 1, 2]


STUDIES_FOLDER = ROOT / "examples/studies"


def of(folder, number=0):
    """The settings and a row of a committed study."""
    head, *lines = (STUDIES_FOLDER / folder / "rows.jsonl").read_text().splitlines()
    return json.loads(head), json.loads(lines[number])


STUDIES = {
    "judgement": ("pretraining/results", 0, judgement_report.fields),
    "line_search": ("line_search/results/topics", 0, lambda row: line_search_report.FIELDS),
    "low_bit": ("low_bit/results/topics", 0, lambda row: low_bit_report.FIELDS),
    "two_blocks": ("heterogeneity/results", 0, heterogeneity_rows.fields),
    "run": ("heterogeneity/results", 12, heterogeneity_rows.fields),
    "curvature": ("heterogeneity/results", -1, heterogeneity_rows.fields),
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_field_of_another_type_is_named_with_its_file_and_line(study, tmp_path):
    folder, number, fields = STUDIES[study]
    head, row = of(folder, number)
    path, others = tmp_path / "rows.jsonl", ["a", 1.5, -1, True, None, [], {}, ["a"], {"a": "b"}, [[None]]]

    def read(row):
        path.write_text(json.dumps(head) + "\n" + json.dumps(row) + "\n")
        opened(path, head["settings"], fields).__exit__(None, None, None)

    read(row)
    refused = 0
    for name in fields(row):
        for other in others:
            try:
                read({**row, name: other})
            except ValueError as error:
                assert str(error).startswith(f"{path}:2: ") and name in str(error) and "\n" not in str(error)
                refused += 1
        with pytest.raises(ValueError, match=rf"rows\.jsonl:2: (there is no {name}|.*must be)"):
            read({key: value for key, value in row.items() if key != name})
    assert refused >= 5 * len(fields(row))


def test_rows_that_do_not_go_together_are_one_line_with_the_file(path):
    def write(study):
        return study.rows[0]["missing"]

    with opened(path) as study, pytest.raises(ValueError, match=r"rows\.jsonl has rows .* KeyError: 'missing'"):
        study.reported(write)


@pytest.mark.parametrize("name", ["trainers", "update"])
def test_a_record_of_a_benchmark_that_was_changed_is_one_line_with_the_file(name, tmp_path):
    report = {"trainers": trainers_report.report, "update": update_report.report}[name]
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
                assert str(error).startswith(f"{path} is no record") and "\n" not in str(error)
    for field in ("rows", "environment"):
        path.write_text(json.dumps({**whole, field: 3}))
        with pytest.raises(ValueError, match=rf"record\.json is no record .* {field} must be a"):
            markdown.read_record(path, report)


def test_names_in_the_rows_of_a_study_are_shown_and_not_obeyed(tmp_path):
    name = "![x](/etc/hostname) $y$ | <b>"
    head, row = of("line_search/results/topics")
    rows = [{**row, "method": method, "seed": seed} for method in (name, "adam") for seed in (0, 1)]
    rows = [{**row, "learning_rate": 0.1} if row["method"] == "adam" else row for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [head, *rows]))
    with opened(tmp_path / "rows.jsonl", head["settings"], lambda row: line_search_report.FIELDS) as study:
        study.reported(lambda study: line_search_report.write(study, tmp_path, "python `x`"))
    text = (tmp_path / "report.md").read_text()
    assert r"!\[x\](/etc/hostname) \$y\$ \| \<b\>" in text and "![x]" not in text


REPORTS = {
    "pretraining/results": (judgement_report, judgement_report.fields),
    "line_search/results/topics": (line_search_report, lambda row: line_search_report.FIELDS),
    "low_bit/results/topics": (low_bit_report, lambda row: low_bit_report.FIELDS),
    "heterogeneity/results": (heterogeneity_report, heterogeneity_rows.fields),
}


def diverged(row):
    """The same run, had it come to nothing."""
    nan = float("nan")
    changes = {"loss": [nan] * 3, "held_out": {"loss": nan}, "training_loss": None, "diverged_at": 2}
    changes |= {"step_size": [[nan]] * 3, "evaluations": [1, 2, 3], "test": {"loss": None, "accuracy": None}}
    if "validation" in row:
        bad = [] if isinstance(row["validation"], list) else dict.fromkeys(row["validation"], nan)
        changes["validation"] = bad
    return {name: changes.get(name, value) for name, value in row.items()}


@pytest.mark.parametrize("which", ["all", "none, and no picture"])
@pytest.mark.parametrize("folder", REPORTS)
def test_the_report_of_a_study_is_not_lost(folder, which, tmp_path, monkeypatch):
    page, fields = REPORTS[folder]
    lines = (STUDIES_FOLDER / folder / "rows.jsonl").read_text().splitlines()
    head, *runs = map(json.loads, lines)
    if which == "all":
        runs = [row if row.get("arm") == judgement_report.UNTRAINED else diverged(row) for row in runs]
    if which == "none, and no picture":
        monkeypatch.setattr(page, "_draw", lambda *_: 1 / 0)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [head, *runs]))
    with opened(tmp_path / "rows.jsonl", head["settings"], fields) as study:
        study.reported(lambda study: page.write(study, tmp_path, "python"))
    text = (tmp_path / "report.md").read_text()
    said = "is left out: ZeroDivisionError: division by zero"
    assert (said in text) == (which == "none, and no picture") == (not list(tmp_path.glob("*.png")))
