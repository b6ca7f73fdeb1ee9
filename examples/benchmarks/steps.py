"""Plan a whole step of each trainer for a TPU and a GPU: the memory that it takes, and whether it fits.

    python -m examples.benchmarks.steps --output=runs/steps
    python -m examples.benchmarks.steps --steps=gpt2,vit --targets=h200 --output=runs/steps

The steps are those that the trainers compile, with AdamW, in each precision once with all activations kept and
once with layers computed again in the backward pass. The devices' own compilers compile
them here, and nothing runs. Rows that are already in the record of --output are kept, so that the table can be
filled in several calls.
"""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

import optimiz
from examples.benchmarks import plan_report, steps_report
from examples.data import docstrings, images
from examples.models import pretrained, shapes
from examples.models.remat import REMAT
from examples.shared import command, markdown, program_flags, terminal
from examples.shared.precisions import PRECISIONS, in_precision
from examples.tasks import image_classification, planned
from examples.tasks.text_classification import TextClassification
from optimiz import compare, plan, training


def _minilm(remat: str) -> training.Task:
    made = TextClassification(
        docstrings.load_split(), pretrained.find(), length=128, dropout=0.1, pooling="mean", remat=remat
    )
    return made.task(32, seed=0)


def _bert(batch: int) -> Callable[[str], training.Task]:
    return lambda remat: planned.task(shapes.MODELS["bert-base"], batch, 128, remat=remat)


def _gpt2(remat: str) -> training.Task:
    return planned.task(shapes.Gpt2(4, 128, 4, vocabulary=4096, positions=128), 16, remat=remat)


def _longer(remat: str) -> training.Task:
    return planned.task(shapes.Gpt2(4, 256, 8, vocabulary=8192, positions=512), 8, remat=remat)


def _vit(remat: str) -> training.Task:
    parts = images.split(images.digits(), {"train": 0.8, "validation": 0.2})
    model = image_classification.choose("vit", 8, 1, 10, dropout=0.0, remat=remat)
    return image_classification.ImageClassification(parts, model, augment=(), smoothing=0.1).task(64, seed=0)


# Title, batch, and remat → the task.
STEPS: dict[str, tuple[str, str, Callable[[str], training.Task]]] = {
    "minilm": ("fine-tune MiniLM-L6", "32 × 128 tokens", _minilm),
    "bert16": ("fine-tune BERT-base", "16 × 128 tokens", _bert(16)),
    "bert32": ("fine-tune BERT-base", "32 × 128 tokens", _bert(32)),
    "gpt2": ("pre-train GPT-2, default size", "16 × 128 tokens", _gpt2),
    "longer": ("pre-train GPT-2, longer texts", "8 × 512 tokens", _longer),
    "vit": ("ViT, default size", "64 × 8 × 8 pixels", _vit),
}

FLAGS = program_flags.Flags()
_STEPS = FLAGS.DEFINE_list("steps", list(STEPS), "Steps to plan.")
_TARGETS = FLAGS.DEFINE_list("targets", ["v5e", "h200"], "Devices, see examples.plan.")
_PRECISIONS = FLAGS.DEFINE_list("precisions", ["float32", "mixed"], "See examples.shared.precisions.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_among(STEPS, _STEPS)
program_flags.check_among(PRECISIONS, _PRECISIONS)


def planned_step(name: str, target: str, precision: str, remat: str) -> dict[str, Any]:
    """The row of a step.

    Args:
        name: one of STEPS.
        target: the device.
        precision: one of PRECISIONS.
        remat: what the backward pass computes again, see `remat.REMAT`.
    """
    title, batch, make = STEPS[name]
    task = PRECISIONS[precision].task(make(remat))
    tx = in_precision(optimiz.adamw(1e-3), precision, seed=0)
    params = jax.eval_shape(task.init, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    found = plan_report.row("adamw", plan.step(task, tx, target), parameters)
    return {"step": name, "title": title, "batch": batch, "precision": precision, "remat": remat, **found}


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What tells a row from the others."""
    return row["step"], row["target"], steps_report.precision(row), row["remat"]


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What puts the rows in order."""
    return [*STEPS].index(row["step"]), *_key(row)[1:3], [*REMAT].index(row["remat"])


def main() -> None:
    """Plan what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    record: dict[str, Any] = {"environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, steps_report.report)
    for key in itertools.product(_STEPS.value, _TARGETS.value, _PRECISIONS.value, REMAT):
        if key not in [_key(row) for row in record["rows"]]:
            record["rows"].append(planned_step(*key))
            record["rows"].sort(key=_place)
            markdown.write_record(record, path, steps_report.report)
    terminal.show(steps_report.summary(record))


if __name__ == "__main__":
    command.run(main, FLAGS)
