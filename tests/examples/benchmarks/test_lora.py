"""A step of LoRA is planned as `finetune_lm` compiles it: what is frozen has no gradient and no state."""

import dataclasses
import json

import pytest
from absl.testing import flagsaver

from examples.benchmarks import lora, lora_report
from examples.shared import command

TINY = dataclasses.replace(
    lora.LLAMA_2_7B,
    vocab_size=64,
    hidden_size=16,
    layers=1,
    heads=2,
    key_heads=2,
    head_size=8,
    intermediate_size=24,
    max_positions=32,
)


def call(*argv):
    """The program, in this process."""
    with flagsaver.flagsaver():
        command.parse(["benchmarks.lora", *argv], lora.FLAGS)
        command.guarded(lora.main)


@pytest.mark.long
def test_a_step_is_planned_once_and_the_report_says_whether_it_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(lora, "LLAMA_2_7B", TINY)
    monkeypatch.setitem(lora.CASES, "h200", lora.Case("cpu", 2, 8))
    call("--cases=h200", f"--output={tmp_path}")
    path = tmp_path / "record.json"
    (row,) = json.loads(path.read_text())["rows"]
    # Seven linear maps of a layer: four of 16 × 16, two of 16 × 24 and one of 24 × 16.
    adapters = 16 * (4 * 32 + 3 * 40)
    matrices, norms = 2 * 64 * 16 + 4 * 16 * 16 + 3 * 16 * 24, 3 * 16
    assert row["parameters"] == adapters and row["frozen_parameters"] == matrices + norms
    arguments = row["arguments"]
    assert arguments["parameters"] == 4 * adapters and arguments["frozen"] == 2 * matrices + 4 * norms
    assert 0 < arguments["state"] - 2 * arguments["parameters"] < 64
    assert arguments["batch"] == 4 * (4 * 2 * 8 + 2)
    assert (
        (tmp_path / "report.md").read_text().splitlines()[-1].startswith("| cpu | 2 × 8 tokens | 0.00 GiB | ")
    )
    before = path.stat().st_mtime_ns
    call("--cases=h200", f"--output={tmp_path}")
    assert path.stat().st_mtime_ns == before


def test_a_step_that_does_not_fit_is_said():
    row = {"target": "v5e:2x4", "batch": 8, "length": 64, "rank": 16, "frozen_parameters": 7, "parameters": 1}
    row |= {"mesh": {}, "arguments": {"parameters": 2**30, "frozen": 2**31, "state": 2**30, "batch": 4}}
    row |= {
        "memory": 2**34,
        "bandwidth": 1,
        "bound": 1,
        "compile_seconds": 1.0,
        "failure": "RESOURCE_EXHAUSTED",
    }
    row |= {"temporary": None, "peak": None, "traffic": None, "date": "2026-11-30"}
    record = {"environment": {"versions": {"jax": "0"}}, "rows": [row]}
    line = lora_report.summary(record).splitlines()[-1]
    assert line == "| v5e:2x4 | 8 × 64 tokens | 2.00 GiB | 1.00 GiB | 1.00 GiB |  |  | 16.00 GiB | no | none |"
