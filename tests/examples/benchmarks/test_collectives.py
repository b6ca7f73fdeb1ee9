"""What methods for matrices exchange is planned, and the table says how much."""

import importlib.util
import json

import pytest
from absl.testing import flagsaver

from examples.benchmarks import collectives
from examples.shared import command


def call(*argv):
    """The program, in this process."""
    with flagsaver.flagsaver():
        command.parse(["benchmarks.collectives", *argv], collectives.FLAGS)
        command.guarded(collectives.main)


def test_a_row_is_planned_once_and_the_table_has_it(tmp_path):
    for _ in range(2):
        call("--targets=cpu", "--splits=rows", "--optimizers=adamw", f"--output={tmp_path}")
    [row] = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert row["parameters"] == 8 * (4 * 256 * 256 + 2 * 256 * 1024) and row["mesh"] == {"data": 1}
    assert "| cpu, 1 | rows | `adamw` | none | 0 | 0.0 |" in (tmp_path / "report.md").read_text()


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize(("split", "number"), [("rows", 6), ("rows and columns", 12)])
def test_on_a_tpu_muon_exchanges_whole_matrices(split, number):
    row = collectives.planned("muon", "v5e:2x2", split)
    [(kind, its)] = row["traffic"]["collectives"].items()
    assert kind == "all-to-all" and its["count"] == number
    assert its["bytes"] < row["parameters"] * 4


def test_an_unknown_split_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        call("--splits=columns", f"--output={tmp_path}")
    assert exit.value.code == command.EXIT_USAGE and "columns" in capsys.readouterr().err
