"""Whole steps of the trainers are planned for a TPU and a GPU, with layers kept and computed again."""

import importlib.util
import json

import pytest
from absl.testing import flagsaver

import optimiz
from examples.benchmarks import steps, steps_report
from examples.models import shapes
from examples.models.remat import REMAT
from examples.shared import command
from examples.tasks import planned
from optimiz import plan

TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
GPU = pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu")
TARGETS = [pytest.param("v5e", marks=TPU), pytest.param("h200", marks=GPU)]


def call(*argv):
    """The program, in this process."""
    with flagsaver.flagsaver():
        command.parse(["benchmarks.steps", *argv], steps.FLAGS)
        command.guarded(steps.main)


@pytest.mark.long
@pytest.mark.parametrize("remat", REMAT)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", steps.STEPS)
def test_the_step_of_a_trainer_compiles_for_a_device_and_fits(name, target, remat):
    row = steps.planned_step(name, target, "float32", remat)
    assert row["arguments"]["parameters"] == 4 * row["parameters"]
    assert sum(row["arguments"].values()) < row["peak"] < row["memory"]


@GPU
def test_the_more_is_computed_again_the_less_memory_is_taken():
    model = shapes.Gpt2(3, 128, 2, vocabulary=256, positions=128)
    found = [plan.step(planned.task(model, 16, remat=remat), optimiz.sgd(0.1), "h200") for remat in REMAT]
    none, dots, layers = (each.temporary for each in found)
    assert dots < 0.9 * none and layers < 0.9 * dots
    assert found[0].arguments == found[1].arguments == found[2].arguments


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_mixed_precision_takes_at_most_six_tenths_of_the_temporary_memory(target):
    whole, mixed = (steps.planned_step("longer", target, name, remat="none") for name in ("float32", "mixed"))
    assert mixed["temporary"] <= 0.6 * whole["temporary"] and mixed["arguments"] == whole["arguments"]


def test_a_step_is_planned_once_and_the_report_says_whether_it_fits(tmp_path, monkeypatch):
    model = shapes.Gpt2(1, 32, 2, vocabulary=100, positions=16)
    tiny = ("GPT-2, tiny", "4 × 16 tokens", lambda remat: planned.task(model, 4, remat=remat))
    monkeypatch.setitem(steps.STEPS, "gpt2", tiny)
    call("--steps=gpt2", "--targets=cpu", "--precisions=float32", f"--output={tmp_path}")
    path = tmp_path / "record.json"
    kept, *others = json.loads(path.read_text())["rows"]
    assert [row["remat"] for row in (kept, *others)] == [*REMAT]
    assert kept["arguments"]["batch"] == 2 * 4 * 4 * 16  # tokens and targets
    assert 0 < kept["arguments"]["state"] - 2 * kept["arguments"]["parameters"] < 64
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[-1].startswith("| GPT-2, tiny | 4 × 16 tokens | cpu | float32 | layers | ")
    assert "| unknown | " in lines[-1]
    before = path.stat().st_mtime_ns
    call("--steps=gpt2", "--targets=cpu", "--precisions=float32", f"--output={tmp_path}")
    assert path.stat().st_mtime_ns == before


def test_a_step_that_does_not_fit_is_said():
    row = {"step": "x", "title": "large", "batch": "1", "remat": "none", "date": "2026-11-30", "parameters": 1}
    row |= {"target": "v5e", "mesh": {}, "arguments": {"parameters": 2**21, "state": 2**22, "batch": 4}}
    row |= {"memory": 1, "bandwidth": 1, "bound": 1, "compile_seconds": 1.0, "failure": "RESOURCE_EXHAUSTED"}
    row |= {"temporary": None, "peak": None, "traffic": None}
    record = {"environment": {"versions": {"jax": "0"}}, "rows": [row]}
    line = steps_report.summary(record).splitlines()[-1]
    assert line == "| large | 1 | v5e | float32 | none | 2.0 | 4.0 |  |  | no |  |  |"
