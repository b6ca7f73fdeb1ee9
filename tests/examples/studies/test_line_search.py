import json
import subprocess
import sys

import numpy as np
import pytest

from examples.studies.line_search import report as line_search_report
from tests.examples.test_finetune_text import ROOT, data, model  # noqa: F401


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


@pytest.mark.long
def test_every_method_runs_from_every_seed_and_the_report_is_of_the_rows(study):
    output, _ = study
    head, *rows = map(json.loads, (output / "rows.jsonl").read_text().splitlines())
    searches = [(name, None) for name in ("salsa", "salsa_head", "adam_sls", "pla_sls")]
    arms = [*searches, ("adam_head", 1e-4), ("adam_head", 1e-3)]
    assert [(r["method"], r["learning_rate"], r["seed"]) for r in rows] == [
        (*a, s) for s in (0, 1) for a in arms
    ]
    for row in rows:
        assert len(row["loss"]) == head["settings"]["updates"] == 2
        assert (row["evaluations"][-1] > 0) == (row["learning_rate"] is None)
        units = 4 if row["method"] == "pla_sls" else 1  # embeddings, two layers, head
        assert np.shape(row["step_size"]) == (2, units)
    for seed in (0, 1):  # all begin with the same parameters, batch and dropout
        assert len({round(row["loss"][0], 5) for row in rows if row["seed"] == seed}) == 1
    report = (output / "report.md").read_text()
    assert line_search_report.table(line_search_report.by_arm(rows), "accuracy") in report
    assert "| adam_head 0.001 |" in report and (output / "curves.png").stat().st_size > 10_000


@pytest.mark.long
def test_it_goes_on_where_it_was_stopped(study):
    output, command = study
    whole = (output / "rows.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (output / "rows.jsonl").write_text("".join(lines[:-1]) + lines[-1][:50])  # killed in the last line
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    again = (output / "rows.jsonl").read_text()
    assert again.splitlines()[:-1] == whole.splitlines()[:-1]
    last, wanted = (json.loads(text.splitlines()[-1]) for text in (again, whole))
    assert (last["method"], last["seed"]) == (wanted["method"], wanted["seed"])
    np.testing.assert_allclose(last["loss"], wanted["loss"], rtol=1e-5)


@pytest.mark.long
def test_rows_of_other_settings_are_refused(study):
    _, command = study
    other = subprocess.run([*command, "--rows=40"], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 2 and "rows.jsonl is of other settings" in other.stderr
