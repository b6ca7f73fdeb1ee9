import json
import subprocess

import pytest
from absl.testing import flagsaver

from examples.benchmarks import programs, trainers
from examples.shared import command
from tests.conftest import ROOT


def call(*argv):
    """The program, in this process."""
    with flagsaver.flagsaver():
        command.parse(["benchmarks.trainers", *argv], trainers.FLAGS)
        command.guarded(trainers.main)


@pytest.mark.long
def test_measures_a_trainer_once_and_renders_what_it_wrote(tmp_path):
    call("--trainers=resnet", "--updates=31", f"--output={tmp_path}")
    path = tmp_path / "record.json"
    record = json.loads(path.read_text())
    (row,) = record["rows"]
    assert row["updates_per_stretch"] == 10 and len(row["seconds"]) == 2  # the first is of nine
    assert all(seconds > 0 for seconds in row["seconds"])
    # Two moments of every parameter, and a few counters.
    assert 8 * row["parameters"] <= row["state_bytes"] <= 8 * row["parameters"] + 100
    batch = 64 * (8 * 8 + 4)
    assert row["argument_bytes"] == pytest.approx(4 * row["parameters"] + row["state_bytes"] + batch, abs=500)
    before = path.stat().st_mtime_ns
    call("--trainers=resnet", f"--output={tmp_path}")
    assert path.stat().st_mtime_ns == before


def test_a_time_is_of_one_update_of_a_whole_stretch():
    rows = [{"steps": 0, "event": "compile", "seconds": 9.0, "temporary_bytes": 7, "argument_bytes": 5}]
    of_data = {"event": "updates", "drawing_seconds": 1.0, "waiting_seconds": 0.5}
    rows += [{"steps": n, "seconds": s, **of_data} for n, s in ((1, 9.0), (10, 9.0), (20, 4.0))]
    rows += [{"steps": 20, "event": "evaluate", "seconds": 9.0}]
    rows += [{"steps": n, "seconds": s, **of_data} for n, s in ((30, 5.0), (31, 9.0))]
    assert trainers.planned_and_taken(rows) == {
        "temporary_bytes": 7,
        "argument_bytes": 5,
        "updates_per_stretch": 10,
        "seconds": [0.4, 0.5],
        "drawing_seconds": [0.1, 0.1],
        "waiting_seconds": [0.05, 0.05],
    }


@pytest.mark.parametrize(
    ("array", "shape", "size"),
    [("float32[3, 4]", (3, 4), 48), ("bfloat16[5]", (5,), 10), ("int32[]", (), 4), ("key<fry>[]", (), 0)],
)
def test_the_size_of_an_array(array, shape, size):
    assert (trainers.shape_of(array), trainers.size_of(array)) == (shape, size)


def test_refuses_a_trainer_it_does_not_have_and_tells_why_one_failed(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as exit:
        call("--trainers=gpt3", f"--output={tmp_path}")
    assert exit.value.code == command.EXIT_USAGE
    assert "flag --trainers=['gpt3']: must be among minilm, resnet," in capsys.readouterr().err
    failed = subprocess.CompletedProcess([], 2, "", "a warning\nerror: no such model\n")
    monkeypatch.setattr(programs.signals, "run", lambda *_, **__: failed)
    with pytest.raises(SystemExit):
        call("--trainers=vit", f"--output={tmp_path}")
    assert "error: vit: error: no such model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_committed_record_has_every_trainer():
    record = json.loads((ROOT / "examples/benchmarks/results/trainers/record.json").read_text(encoding="utf-8"))
    assert [row["trainer"] for row in record["rows"]] == list(trainers.TRAINERS)
