"""Rows are read back as they were written, as valid JSON whatever they hold."""

import json
import math

import pytest

from optimiz.training import RunError, read_metrics
from optimiz.training.storage import metrics_file

ROWS = [
    {"step": 0, "loss": 0.1, "gradient_norm": math.inf},
    {"steps": 1, "evaluation": {"accuracy": -math.inf, "name": 1e-30}, "step_size": [math.inf, 0.5]},
]


def test_rows_come_back(tmp_path):
    path = tmp_path / "m.jsonl"
    metrics_file.append(path, ROWS[:1])
    metrics_file.append(path, ROWS[1:])
    metrics_file.append(path, [{"loss": math.nan}])
    assert read_metrics(path)[:2] == ROWS
    assert math.isnan(read_metrics(path)[2]["loss"])


def test_every_line_is_json_without_extensions(tmp_path):
    path = tmp_path / "m.jsonl"
    metrics_file.append(path, [*ROWS, {"loss": math.nan}])

    def refuse(constant):
        raise AssertionError(constant)

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert lines[0]["gradient_norm"] == "Infinity" and lines[2]["loss"] == "NaN"


@pytest.mark.survives("a metrics file with a torn last line, or with a changed byte")
def test_a_torn_last_line_is_not_a_row(tmp_path):
    path = tmp_path / "m.jsonl"
    metrics_file.append(path, ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 7, "lo')
    assert read_metrics(path) == ROWS
    metrics_file.drop_torn_line(path)
    assert path.read_bytes() == whole


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 0}\nnonsense\n')
    with pytest.raises(RunError, match=r"m\.jsonl:2 is not JSON"):
        read_metrics(path)


def test_truncates_to_the_recorded_size_and_no_less(tmp_path):
    path = tmp_path / "m.jsonl"
    metrics_file.truncate(path, 0)
    metrics_file.append(path, ROWS[:1])
    size = metrics_file.sync(path)
    metrics_file.append(path, ROWS[1:])
    metrics_file.truncate(path, size)
    assert read_metrics(path) == ROWS[:1]
    with pytest.raises(RunError, match=f"has {size} bytes, but the checkpoint was made when it had"):
        metrics_file.truncate(path, size + 1)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError, match=r"cannot write 10 bytes to .*absent"):
        metrics_file.append(tmp_path / "absent" / "m.jsonl", [{"ab": 1}])
