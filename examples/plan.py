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

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

import optimiz
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


def row(name: str, planned: plan.Plan, parameters: int) -> dict[str, Any]:
    """A plan as JSON."""
    moved = planned.traffic and dataclasses.asdict(planned.traffic)
    return {
        "optimizer": name,
        "date": str(datetime.date.today()),
        "parameters": parameters,
        **dataclasses.asdict(dataclasses.replace(planned, traffic=None)),
        "traffic": moved,
    }


def table(rows: Any) -> str:
    """One line per optimizer; all bytes are those of one device."""
    header = ["optimizer", "parameters", "state", "temporary", "peak", "fits", "moved", "of its bound"]
    header += ["at least", "collectives", "compiled in"]
    lines = []
    for each in rows:
        moved, held = each["traffic"], each["arguments"]
        fits = each["peak"] is not None and (each["memory"] is None or each["peak"] <= each["memory"])
        cells = [f"`{each['optimizer']}`", *(_gib(held[name]) for name in ("parameters", "state"))]
        cells += [_gib(each["temporary"]), _gib(each["peak"]), "yes" if fits else "no"]
        if moved is None:
            cells += ["", "", "", ""]
        else:
            both = sorted({moved["least"], moved["greatest"]})
            collectives = (f"{its['count']} {kind}" for kind, its in moved["collectives"].items())
            cells += [" to ".join(map(_gib, both)), " to ".join(f"{size / each['bound']:.2f}" for size in both)]
            seconds = [size / each["bandwidth"] for size in both] if each["bandwidth"] else []
            cells += [" to ".join(f"{1e3 * s:.1f} ms" for s in seconds), ", ".join(collectives) or "none"]
        lines.append([*cells, f"{each['compile_seconds']:.0f} s"])
    return compare.table(header, lines) + "\n"


def summary(record: Mapping[str, Any]) -> str:
    """The table, and above it what was planned."""
    settings, versions = record["settings"], record["environment"]["versions"]
    rows = record["rows"]
    about = (
        f"{settings['model']}, {rows[0]['parameters']:,} parameters in {settings['dtype']}, on "
        f"{settings['target']}, mesh {settings['mesh'] or 'data'}. Sizes are of one device, 1 GiB = 2³⁰ "
        "bytes. An update moves bytes to and from the device's memory; its bound is what any update must read "
        "and write, and it takes at least the bytes over the bandwidth. Two figures are those of the branches "
        f"that move least and most. {rows[0]['date']}, jax {versions['jax']}, optax {versions['optax']}."
    )
    return f"{about}\n\n{table(rows)}"


def report(record: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    return f"# Plan\n\n{summary(record)}"


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f} GiB"


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
        record = markdown.read_record(path, report)
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
            record["rows"].append(row(name, planned, parameters))
            training.write_whole(path, json.dumps(record, indent=1) + "\n")
    training.write_whole(path.parent / "report.md", report(record))
    terminal.show(table(record["rows"]))


if __name__ == "__main__":
    command.run(main, FLAGS)
