"""Measure a step of each trainer: its time, and the memory of the compiled step.

    python -m examples.benchmarks.trainers --output=runs/trainers
    python -m examples.benchmarks.trainers --trainers=gpt2,t5 --updates=201 --output=runs/trainers

Each trainer is run by its command, as a user runs it, at its default size and with AdamW. A time covers the
updates between two log points, where the trainer waits for the device, including the preparation of their
batches. The first update is not counted, nor are evaluations and compilation. Rows that are already in the
record of --output are kept, so that the table can be filled in several calls. ``--data=shards`` is a folder of
JSON lines, made for the run of the sources of Python's standard library.
"""

import datetime
import itertools
import json
import math
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from examples.benchmarks import programs, trainers_report
from examples.data import corpus
from examples.shared import command, markdown, program_flags, terminal
from optimiz import compare

# Title, batch, and arguments.
TRAINERS: dict[str, tuple[str, str, list[str]]] = {
    "minilm": ("fine-tune MiniLM-L6", "32 × 24 tokens", ["examples.finetune_text"]),
    "resnet": ("ResNet-8", "64 × 8 × 8 pixels", ["examples.finetune_image"]),
    "vit": ("ViT", "64 × 8 × 8 pixels", ["examples.finetune_image", "--model=vit"]),
    "gpt2": ("pre-train GPT-2", "16 × 128 tokens", ["examples.pretrain"]),
    "bert": ("pre-train BERT", "16 × 128 tokens", ["examples.pretrain", "--objective=masked"]),
    "shards": ("pre-train GPT-2 on shards", "16 × 128 tokens", ["examples.pretrain", "--data=shards"]),
    "lm": ("fine-tune a GPT-2 by LoRA", "8 × 128 tokens", ["examples.finetune_lm"]),
    "t5": ("pre-train T5", "16 × 128 tokens", ["examples.pretrain", "--objective=span"]),
}

FLAGS = program_flags.Flags()
_TRAINERS = FLAGS.DEFINE_list("trainers", list(TRAINERS), "Trainers to measure.")
_UPDATES = FLAGS.DEFINE_integer("updates", 101, "Updates of each; the first is not counted.", lower_bound=21)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_among(TRAINERS, _TRAINERS)


def measured(name: str, updates: int) -> dict[str, Any]:
    """The row of a trainer.

    Args:
        name: one of TRAINERS.
        updates: number of updates.

    Raises:
        ValueError: the trainer failed; the message gives its last line.
    """
    title, batch, arguments = TRAINERS[name]
    argv = [*arguments, "--optimizer=adamw", f"--steps={updates}", "--evaluate_every=0"]
    with tempfile.TemporaryDirectory() as folder:
        output, shards = Path(folder) / "run", Path(folder) / "shards"
        if "--data=shards" in argv:
            write_shards(shards)
        run = [f"--data={shards}" if each == "--data=shards" else each for each in argv]
        programs.run(name, [*run, f"--output={output}"])
        timings = (output / "adamw/timings.jsonl").read_text(encoding="utf-8")
        (manifest,) = (output / "adamw/checkpoints").glob("*/manifest.json")
        arrays = json.loads(manifest.read_text(encoding="utf-8"))["arrays"]
    return {
        "trainer": name,
        "title": title,
        "batch": batch,
        "command": shlex.join(["python", "-m", *argv]),
        "date": str(datetime.date.today()),
        **planned_and_taken([json.loads(line) for line in timings.splitlines()]),
        "parameters": sum(math.prod(shape_of(x)) for path, x in arrays.items() if path.startswith(".params")),
        "state_bytes": sum(size_of(x) for path, x in arrays.items() if path.startswith(".opt_state")),
    }


def write_shards(folder: Path) -> None:
    """The sources of the standard library as four files of JSON lines."""
    folder.mkdir()
    documents = [*corpus.standard_library().documents]
    for i in range(4):
        lines = [json.dumps({"text": each}) + "\n" for each in documents[i::4]]
        (folder / f"{i}.jsonl").write_text("".join(lines), encoding="utf-8")


def planned_and_taken(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The memory that the compiler plans for a step, and what each stretch takes.

    Seconds are those per update: all, those in which the host makes its batch, and those the device waits for.
    """
    (compiled,) = (row for row in rows if row["event"] == "compile")
    stretch_ends = [row for row in rows if row["event"] == "updates"]
    stretches = [
        (after["steps"] - before["steps"], after) for before, after in itertools.pairwise(stretch_ends)
    ]
    longest = max(updates for updates, _ in stretches)
    times = ("seconds", "drawing_seconds", "waiting_seconds")
    return {
        "temporary_bytes": compiled["temporary_bytes"],
        "argument_bytes": compiled["argument_bytes"],
        "updates_per_stretch": longest,
        **{each: [row[each] / longest for updates, row in stretches if updates == longest] for each in times},
    }


def shape_of(array: str) -> tuple[int, ...]:
    """The shape of an array that is written as ``float32[3, 4]``."""
    return tuple(map(int, re.findall(r"\d+", array[array.index("[") :])))


def size_of(array: str) -> int:
    """The bytes of an array that is written as ``float32[3, 4]``; a random key counts as none."""
    dtype = array[: array.index("[")]
    return 0 if dtype.startswith("key") else math.prod(shape_of(array)) * jnp.dtype(dtype).itemsize


def main() -> None:
    """Measure what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    record = {"environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, trainers_report.report)
    for name in _TRAINERS.value:
        if name not in [row["trainer"] for row in record["rows"]]:
            record["rows"].append(measured(name, _UPDATES.value))
            record["rows"].sort(key=lambda row: list(TRAINERS).index(row["trainer"]))
            markdown.write_record(record, path, trainers_report.report)
    terminal.show(trainers_report.summary(record))


if __name__ == "__main__":
    command.run(main, FLAGS)
