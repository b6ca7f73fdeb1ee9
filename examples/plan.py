"""Plan optimizers for devices that are not there: what fits, what an update moves, which collectives it needs.

    python -m examples.plan --target=h200 --model=gpt2-xl --optimizer=adamw,sgd_sai --output=runs/plan
    python -m examples.plan --target=v5e:4x4 --mesh=data:4,model:4 --model=llama-2-7b --dtype=bfloat16 \
        --optimizer=adamw,sgd_sai,clip:adamw,low_bit:adamw --output=runs/llama

The device's own compiler compiles each update ahead of time, on this machine, and nothing runs: see
``optimiz.plan``. Every matrix is split along both axes of the mesh, and the state as its parameters. Wrappers
go before an optimizer: ``clip:`` (by the global norm), ``guard:`` and ``low_bit:`` (8-bit state). Rows that the
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
from examples.shared import command, markdown, program_flags, terminal
from optimiz import compare, methods, plan, training

WRAPPERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "clip": lambda tx: optax.chain(optimiz.clip_by_global_norm(1.0), tx),
    "guard": lambda tx: optimiz.guard(tx, 3),
    "low_bit": lambda tx: optimiz.low_bit(tx, optimiz.Int8()),
}


def make(name: str) -> optax.GradientTransformation:
    """Make an optimizer from its name.

    Args:
        name: a method of the suite that needs no loss to update, after any wrappers: ``"clip:low_bit:adamw"``.

    Raises:
        ValueError: the method or a wrapper is unknown, or the method needs a loss.
    """
    *wrappers, last = name.split(":")
    if unknown := [each for each in wrappers if each not in WRAPPERS]:
        raise ValueError(f"a wrapper must be one of {', '.join(WRAPPERS)}, got {unknown[0]!r} in {name!r}")
    method = methods.find(last)
    if method.needs:
        raise ValueError(f"{last} needs {', '.join(method.needs)}: plan a whole step, with optimiz.plan.step")
    tx: optax.GradientTransformation = method.build(1e-3)
    for wrapper in reversed(wrappers):
        tx = WRAPPERS[wrapper](tx)
    return tx


FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", "gpt2", f"{', '.join(shapes.MODELS)}, or the path of a config.json.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizer", ["adamw", "sgd_sai"], "Methods, with wrappers before a colon.")
_TARGET = FLAGS.DEFINE_string("target", "h200", "Devices, such as v5e:4x4, v5p:4x4x4, h200:8 or cpu.")
_MESH = FLAGS.DEFINE_string("mesh", None, "Axes and sizes, such as data:4,model:4; default all along data.")
_DTYPE = FLAGS.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of parameters and gradients.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_each(make, _OPTIMIZERS)
program_flags.check_each(shapes.configuration, _MODEL)


def main() -> None:
    """Plan what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    names = {"model": _MODEL, "target": _TARGET, "mesh": _MESH, "dtype": _DTYPE}
    settings = {name: flag.value for name, flag in names.items()}
    record: dict[str, Any] = {"settings": settings, "environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, plan_report.report)
        if record.get("settings") != settings:
            raise ValueError(f"{path} is of other settings: {record.get('settings')}, not {settings}")
    devices = plan.target(_TARGET.value).devices
    mesh = training.make_mesh(_MESH.value or f"data:{len(devices)}", devices)
    params = shapes.structs(_MODEL.value, _DTYPE.value)
    parameters, rules = sum(leaf.size for leaf in jax.tree.leaves(params)), shapes.partition(mesh.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in _OPTIMIZERS.value:
        if name not in [each["optimizer"] for each in record["rows"]]:
            planned = plan.update(make(name), params, _TARGET.value, mesh=_MESH.value, rules=rules)
            record["rows"].append(plan_report.row(name, planned, parameters))
            training.write_whole(path, json.dumps(record, indent=1) + "\n")
    training.write_whole(path.parent / "report.md", plan_report.report(record))
    terminal.show(plan_report.table(record["rows"]))


if __name__ == "__main__":
    command.run(main, FLAGS)
