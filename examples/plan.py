"""Plan optimizers for devices that are not there: what fits, what a step moves, which collectives it needs.

    python -m examples.plan --target=h200 --model=gpt2-xl --optimizer=adamw,sgd_sai --output=runs/plan
    python -m examples.plan --target=v5e:4x4 --mesh=data:4,model:4 --model=llama-2-7b --dtype=bfloat16 \
        --optimizer=adamw,sgd_sai,clip:adamw,low_bit:adamw --output=runs/llama
    python -m examples.plan --target=h200 --model=llama-2-7b --optimizer=adamw --offload --output=runs/offload
    python -m examples.plan --target=h200 --model=gpt2 --batch=8 --length=1024 --remat=layers --output=runs/step
    python -m examples.plan --target=h200 --model=gpt2 --batch=8 --precision=mixed --output=runs/mixed

Without ``--batch`` the update alone is planned; with it a whole step, forward, backward and update, of a
GPT-2, a Llama, a BERT or a ViT of ``examples.models``. The device's own compiler compiles each ahead of time,
on this machine, and nothing runs: see ``optimiz.plan``. Every matrix is split along both axes of the mesh, the
state as its parameters, and a batch along ``data``. ``--precision`` of a whole step is as for the trainers: it
has the dtypes of parameters and products, and rounds parameters in bfloat16. Wrappers go before an optimizer:
``clip:`` (by the global norm), ``guard:``, ``update_guard:`` (which tests the update too), ``low_bit:`` (8-bit
integers as state), ``float8:``, ``int4:``, and, before all others, ``rounded:`` (stochastic rounding of
``--dtype=bfloat16``). With ``--offload`` the state lies in the host's memory between steps. Rows that the
record of --output already has are kept, so that a table can be filled in several calls. Where an update has
branches, as SGD-SaI's first step, two figures are those of the branches that move least and most.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax

import optimiz
from examples.benchmarks import plan_report
from examples.models import shapes
from examples.models.remat import REMAT
from examples.shared import command, markdown, optimizers, program_flags, terminal
from examples.shared.precisions import PRECISIONS, in_precision
from examples.tasks import planned
from optimiz import compare, methods, plan, training

WRAPPERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "clip": lambda tx: optimizers.clipped(tx, 1.0),
    "guard": lambda tx: optimiz.guard(tx, 3),
    "update_guard": lambda tx: optimiz.guard(tx, 3, test="update"),
    "low_bit": lambda tx: optimiz.low_bit(tx, optimiz.Int8()),
    "int4": lambda tx: optimiz.low_bit(tx, optimiz.Int4()),
    "float8": lambda tx: optimiz.low_bit(tx, optimiz.Float8()),
    "rounded": lambda tx: optax.chain(tx, optimiz.stochastic_rounding(0)),
}


_STACKED = {"^layers/": 0}  # the shapes of an update alone, see examples.models.shapes


def make(name: str, classes: int | None = None) -> optax.GradientTransformation:
    """Make an optimizer from its name.

    Args:
        name: a method of the suite, after any wrappers: ``"clip:low_bit:adamw"``.
        classes: number of classes of the logits of a whole step; None for an update alone, which has no loss.

    Raises:
        ValueError: the method or a wrapper is unknown, or the method needs a loss for its update.
    """
    *wrappers, last = name.split(":")
    if unknown := [each for each in wrappers if each not in WRAPPERS]:
        raise ValueError(f"a wrapper must be one of {', '.join(WRAPPERS)}, got {unknown[0]!r} in {name!r}")
    method = methods.find(last)
    if method.needs and classes is None:
        raise ValueError(f"{last} needs {', '.join(method.needs)}: plan a whole step, with --batch")
    rate = None if method.kind == "line search" else 1e-3
    scanned = _STACKED if classes is None and method.takes("scanned") else None
    tx: optax.GradientTransformation = method.build(rate, classes=classes, scanned=scanned)
    for wrapper in reversed(wrappers):
        tx = WRAPPERS[wrapper](tx)
    return tx


def _dtype(precision: str | None, otherwise: str) -> str:
    """The dtype of parameters: that of a precision, if one is given."""
    return otherwise if precision is None else PRECISIONS[precision].params.name


FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", "gpt2", f"{', '.join(shapes.MODELS)}, or the path of a config.json.")
_OPTIMIZER = FLAGS.DEFINE_list("optimizer", ["adamw", "sgd_sai"], "Methods, with wrappers before a colon.")
_TARGET = FLAGS.DEFINE_string("target", "h200", "Devices, such as v5e:4x4, v5p:4x4x4, h200:8 or cpu.")
_MESH = FLAGS.DEFINE_string("mesh", None, "Axes and sizes, such as data:4,model:4; default all along data.")
_BATCH = FLAGS.DEFINE_integer("batch", None, "Plan a whole step of so many rows or images.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", None, "Tokens of a row; default: all the model reads.", lower_bound=1)
_REMAT = FLAGS.DEFINE_enum("remat", "none", [*REMAT], "What the backward pass computes again.")
_DTYPE = FLAGS.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of parameters and gradients.")
_PRECISION = FLAGS.DEFINE_enum(
    "precision", None, list(PRECISIONS), "Of a whole step, as the trainers have it; it decides --dtype."
)
_OFFLOAD = FLAGS.DEFINE_bool("offload", False, "Keep the state in the host's memory between steps.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_each(shapes.configuration, _MODEL)
program_flags.check_together(
    lambda x: x["batch"] or (x["length"] is None and x["remat"] == "none" and x["precision"] is None),
    "--length, --remat and --precision are of a whole step: give --batch",
    FLAGS,
    _BATCH,
    _LENGTH,
    _REMAT,
    _PRECISION,
)
program_flags.check_together(
    lambda x: FLAGS["dtype"].using_default_value or x["dtype"] == _dtype(x["precision"], x["dtype"]),
    "--dtype must be that of the parameters of --precision, or be left out",
    FLAGS,
    _DTYPE,
    _PRECISION,
)
program_flags.check_together(
    lambda x: x["precision"] is None or not any("rounded:" in name for name in x["optimizer"]),
    "rounded: is for --dtype=bfloat16; a --precision rounds by itself",
    FLAGS,
    _OPTIMIZER,
    _PRECISION,
)
program_flags.check_together(
    lambda x: [make(name, None if x["batch"] is None else 2) for name in x["optimizer"]],
    "each must be an optimizer",
    FLAGS,
    _OPTIMIZER,
    _BATCH,
)


def main() -> None:
    """Plan what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    names = {"model": _MODEL, "target": _TARGET, "mesh": _MESH, "dtype": _DTYPE}
    if _BATCH.value:
        names |= {"batch": _BATCH, "length": _LENGTH, "remat": _REMAT}
    if _PRECISION.value:
        names["precision"] = _PRECISION
    if _OFFLOAD.value:
        names["offload"] = _OFFLOAD
    settings = {name: flag.value for name, flag in names.items()}
    settings["dtype"] = _dtype(_PRECISION.value, _DTYPE.value)
    record: dict[str, Any] = {"settings": settings, "environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, plan_report.report)
        if record.get("settings") != settings:
            raise ValueError(f"{path} is of other settings: {record.get('settings')}, not {settings}")
    devices = plan.target(_TARGET.value).devices
    mesh = training.make_mesh(_MESH.value or f"data:{len(devices)}", devices)
    layout = {"mesh": _MESH.value, "rules": shapes.partition(mesh.shape), "offload_state": _OFFLOAD.value}
    params, plan_of = _whole_step(layout) if _BATCH.value else _update(layout)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in _OPTIMIZER.value:
        if name not in [each["optimizer"] for each in record["rows"]]:
            record["rows"].append(plan_report.row(name, plan_of(name), parameters))
            training.write_whole(path, json.dumps(record, indent=1) + "\n")
    training.write_whole(path.parent / "report.md", plan_report.report(record))
    terminal.show(plan_report.table(record["rows"], whole=bool(_BATCH.value)))


def _update(layout: dict[str, Any]) -> tuple[Any, Callable[[str], plan.Plan]]:
    """The parameters of the model, and a function that plans an optimizer's update of them."""
    params = shapes.structs(_MODEL.value, _DTYPE.value)
    return params, lambda name: plan.update(make(name), params, _TARGET.value, **layout)


def _whole_step(layout: dict[str, Any]) -> tuple[Any, Callable[[str], plan.Plan]]:
    """The parameters of the model, and a function that plans a whole step with an optimizer."""
    model = shapes.configuration(_MODEL.value)
    task = planned.task(model, _BATCH.value, _LENGTH.value, remat=_REMAT.value, dtype=_DTYPE.value)
    precision = _PRECISION.value
    task = task if precision is None else PRECISIONS[precision].task(task)
    params = jax.eval_shape(task.init, jax.random.key(0))
    classes = jax.eval_shape(task.logits, params, task.batches(0)).shape[-1]

    def planned_with(name: str) -> plan.Plan:
        tx = make(name, classes)
        tx = tx if precision is None else in_precision(tx, precision, seed=0)
        return plan.step(task, tx, _TARGET.value, **layout)

    return params, planned_with


if __name__ == "__main__":
    command.run(main, FLAGS)
