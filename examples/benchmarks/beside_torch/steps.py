"""Measure a step of the trainers next to PyTorch: the same weights, batches and number of threads, in one run.

    pip install torch transformers
    python -m examples.benchmarks.beside_torch.steps --output=runs/beside_torch

Ours is a run of `training.fit`, as every trainer makes it; whenever it asks for a batch, PyTorch takes a step
on it first. So the two take turns, and the times of a ratio are measured within seconds of each other. A step
is the forward pass with dropout, the backward pass and AdamW, in float32. Before, both must have the same loss
without dropout. Rows that are already in the record of --output are kept, so that the table can be filled in
several calls.
"""

import dataclasses
import datetime
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import optimiz
from examples.benchmarks.beside_torch import peers, steps_report
from examples.benchmarks.beside_torch.peers import Peers
from examples.shared import command, markdown, program_flags, terminal
from optimiz import compare, groups, training

WARM_UP = 3  # rounds that are not counted, as pages and threads are new
TOLERANCE = 1e-4  # of the relative difference of the losses

# Title, batch, and folder for files → the two sides.
STEPS: dict[str, tuple[str, str, Callable[[Path], Peers]]] = {
    "minilm": ("MiniLM-L6", "32 × 24 tokens", lambda folder: peers.minilm(24)),
    "longer": ("MiniLM-L6", "32 × 128 tokens", lambda folder: peers.minilm(128)),
    "gpt2": ("GPT-2 small", "4 × 256 tokens", peers.gpt2),
    "vit": ("ViT-S/16", "16 × 224 × 224 pixels", peers.vit),
}

FLAGS = program_flags.Flags()
_STEPS = FLAGS.DEFINE_list("steps", list(STEPS), "Steps to measure.")
_ROUNDS = FLAGS.DEFINE_integer("rounds", 30, "Timed steps of each side.", lower_bound=3)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_among(STEPS, _STEPS)


class _Turns:
    """The batches of a run of `fit`: whenever it asks for one, PyTorch takes a step on it first.

    `fit` waits for every update, so that what passes between two calls is a step of ours.
    """

    def __init__(self, sides: Peers):
        self._batches, self._step = sides.task.batches, sides.stepper()
        self._handed: float | None = None
        self.seconds: dict[str, list[float]] = {"optimiz": [], "torch": []}

    def __call__(self, index: int) -> Any:
        began = time.perf_counter()
        if self._handed is not None:
            self.seconds["optimiz"].append(began - self._handed)
        batch = self._batches(index)
        began = time.perf_counter()
        self._step(batch)
        self._handed = time.perf_counter()
        self.seconds["torch"].append(self._handed - began)
        return batch


def measured(sides: Peers, rounds: int, folder: Path) -> dict[str, Any]:
    """The seconds of the steps of both sides, and what ours took to compile.

    Args:
        sides: the two sides.
        rounds: number of timed steps.
        folder: folder for the run of `fit`.

    Raises:
        ValueError: the losses differ, so that the two do not compute the same.
    """
    ours, theirs = sides.losses()
    if abs(ours - theirs) > TOLERANCE * abs(theirs):
        raise ValueError(f"both sides must have the same loss, got {ours} and PyTorch's {theirs}")
    turns, load = _Turns(sides), os.getloadavg()[0]
    result = training.fit(
        dataclasses.replace(sides.task, batches=turns),
        optimiz.adamw(peers.RATE, weight_decay=peers.DECAY, mask=groups.no_decay()),
        training.Settings(steps=WARM_UP + rounds, log_every=1),
        folder / "run",
        identity={},
    )
    return {
        "loss": {"optimiz": ours, "torch": theirs},
        "parameters": sum(x.size for x in jax.tree.leaves(result.params)),
        "compile_seconds": result.compile_seconds,
        "load": [load, os.getloadavg()[0]],
        "seconds": {who: seconds[-rounds:] for who, seconds in turns.seconds.items()},
    }


def main() -> None:
    """Measure what the flags ask for, and write the record and the report."""
    needed = peers.versions("torch", "transformers")
    import torch

    jax.config.update("jax_enable_compilation_cache", False)  # a compilation is timed
    torch.set_num_threads(os.cpu_count() or 1)  # as many as XLA has
    path = Path(_OUTPUT.value) / "record.json"
    record: dict[str, Any] = {"environment": compare.environment() | {"peers": needed}, "rows": []}
    if path.exists():
        record = markdown.read_record(path, steps_report.report)
    for name in _STEPS.value:
        if name not in [row["step"] for row in record["rows"]]:
            title, batch, make = STEPS[name]
            about = {"step": name, "title": title, "batch": batch, "date": str(datetime.date.today())}
            with tempfile.TemporaryDirectory() as folder:
                sides = make(Path(folder) / "model")
                record["rows"].append(about | measured(sides, _ROUNDS.value, Path(folder)))
            record["rows"].sort(key=lambda row: list(STEPS).index(row["step"]))
            markdown.write_record(record, path, steps_report.report)
    terminal.show(steps_report.summary(record))


if __name__ == "__main__":
    command.run(main, FLAGS)
