"""What a device holds and sends in a step, on paper: Llama 2 on 8 to 1,024 devices; the record and its page.

python -m tests.scaling_record            reckons (it allocates nothing), and renders
python -m tests.scaling_record --render   renders what was reckoned before

Where arrays lie is asked of ``training.Layout`` on a mesh without devices, and what they weigh of
``training.bytes_per_device``: the functions that lay out a run. As in memory_record.py, each shape of a model
is reckoned once, and counted as often as the model has it; test_scaling_record.py compares that with a whole
model.
"""

import datetime
import inspect
import json
import math
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

import optimiz
from examples.models import shapes
from optimiz import groups, training
from tests.conftest import ROOT

PATH = ROOT / "tests/records/scaling.json"
DEVICES = (8, 16, 32, 64, 128, 256, 512, 1024)
NAMES = {"Llama-2-7B": "llama-2-7b", "Llama-2-70B": "llama-2-70b"}
MODELS = {title: shapes.counted(shapes.MODELS[name].shapes()) for title, name in NAMES.items()}
OPTIMIZERS = {
    "sgd": lambda: optimiz.sgd(0.1),
    "adafactor": lambda: optimiz.adafactor(0.01),
    "sgd_sai": lambda: optimiz.sgd_sai(0.1),
    "lion": lambda: optimiz.lion(1e-4),
    "sophia_g": lambda: optimiz.sophia_g(1e-4, classes=32000),
    "salsa": lambda: optimiz.salsa(),
    "adamw": lambda: optimiz.adamw(1e-4),
}
# Of the parameters and their gradients, and of the optimizer's state.
FORMATS = {
    "float32": (jnp.float32, None),
    "bfloat16": (jnp.bfloat16, optimiz.BFloat16()),
    "int8": (jnp.bfloat16, optimiz.Int8()),
}
MEMORY = 80e9  # bytes, of a device
SOPHIA_INTERVAL = inspect.signature(optimiz.sophia_g).parameters["update_interval"].default

# Every matrix is split along its rows, where 1,024 devices divide these.
RULES = groups.label({P(None, "data"): groups.path("embedding|down"), P("data"): groups.everything})


def layout(name: str, n: int) -> training.Layout:
    """A layout of so many devices."""
    mesh = AbstractMesh((n,), ("data",))
    match name:
        case "data parallel":
            return training.Layout(mesh)
        case "ZeRO-1":
            return training.Layout(mesh, shard_state=True)
        case "split parameters":
            return training.Layout(mesh, RULES)
    raise ValueError(f"there is no layout {name!r}")


LAYOUTS = ("data parallel", "ZeRO-1", "split parameters")


def structs(model: str, dtype: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """A parameter of each shape that a model has."""
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, _) in MODELS[model].items()}


def make(optimizer: str, fmt: Any) -> optax.GradientTransformation:
    """An optimizer, with its state in a format; None for as it is."""
    tx = OPTIMIZERS[optimizer]()
    return tx if fmt is None else optax.chain(optimiz.low_bit(tx, fmt), optimiz.stochastic_rounding(0))


def held(model: str, tree: Any, shardings: Any) -> int:
    """Bytes on each device, of all the parameters of a model, or of all their state."""
    size = 0
    for (path, leaf), place in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(shardings), strict=True
    ):
        of = re.search(r"\['(\w+)'\]$", jax.tree_util.keystr(path))
        size += training.bytes_per_device(leaf, place) * (MODELS[model][of[1]][1] if of else 1)
    return size


def sent(name: str, n: int, size: int) -> float:
    """Bytes that a device sends in a step, for parameters and gradients of one size.

    Args:
        name: of the layout.
        n: devices.
        size: of the parameters, and of their gradients, in bytes.
    """
    passes = {"data parallel": 2, "ZeRO-1": 2, "split parameters": 3}[name]
    return passes * (n - 1) / n * size


def sent_for_curvature(name: str, n: int, size: int) -> float:
    """The same, of one more gradient, which is not followed by an update."""
    passes = {"data parallel": 2, "ZeRO-1": 1, "split parameters": 3}[name]
    return passes * (n - 1) / n * size


def reckon(model: str, fmt: str, name: str, optimizers: Any = OPTIMIZERS) -> dict[str, Any]:
    """What each device holds in a layout, in lists by the number of devices."""
    dtype, of_state = FORMATS[fmt]
    params = structs(model, dtype)
    layouts = [layout(name, n) for n in DEVICES]
    states = {optimizer: jax.eval_shape(make(optimizer, of_state).init, params) for optimizer in optimizers}
    return {
        "parameters": [held(model, params, its.params(params)) for its in layouts],
        "state": {
            optimizer: [held(model, state, its.opt_state(state, params)) for its in layouts]
            for optimizer, state in states.items()
        },
    }


def measure() -> dict[str, Any]:
    """The record."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "devices": DEVICES,
        "models": {
            model: {
                "parameters": sum(math.prod(shape) * times for shape, times in MODELS[model].values()),
                "held": {fmt: {name: reckon(model, fmt, name) for name in LAYOUTS} for fmt in FORMATS},
            }
            for model in MODELS
        },
    }


def in_all(of_format: dict[str, Any], name: str, optimizer: str) -> list[int]:
    """Parameters, gradients and state on a device, by number of devices."""
    its = of_format[name]
    return [
        2 * of_parameters + of_state
        for of_parameters, of_state in zip(its["parameters"], its["state"][optimizer], strict=True)
    ]


def in_words(record: dict[str, Any]) -> str:
    """The sentence in docs/devices.md."""
    model, i = "Llama-2-7B", record["devices"].index(64)
    gigabytes = {
        (name, fmt): in_all(record["models"][model]["held"][fmt], name, "adamw")[i] / 1e9
        for name in LAYOUTS
        for fmt in FORMATS
    }
    return (
        f"On paper {model}'s parameters, gradients and AdamW's state take "
        f"{gigabytes['data parallel', 'float32']:.0f} GB of each of 64 devices, "
        f"{gigabytes['ZeRO-1', 'float32']:.0f} GB with ZeRO-1 and "
        f"{gigabytes['split parameters', 'float32']:.1f} GB where parameters are split too; in bfloat16, with "
        f"the state in eight bits, {gigabytes['data parallel', 'int8']:.0f}, "
        f"{gigabytes['ZeRO-1', 'int8']:.0f} and {gigabytes['split parameters', 'int8']:.1f} GB "
        "([more, up to 70B on 1,024 devices, and the "
        "traffic](../tests/records/scaling.md))."
    )


def render(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    devices = record["devices"]
    lines = [
        "# What a device holds and sends: Llama 2 on 8 to 1,024 devices",
        "",
        f"Calculated on {record['date']}; no such machine was used. GB = 10⁹ bytes. The figures include "
        "parameters, their gradients and the optimizer's state. Activations depend on the batch and come in "
        "addition. With `bfloat16` and `int8`, parameters and gradients are bfloat16, and `low_bit` stores the "
        "state in that format, with `stochastic_rounding` of the updates.",
        "",
        "- **Data parallel**: `Layout(mesh)`. Every device holds everything.",
        "- **ZeRO-1**: `Layout(mesh, shard_state=True)`. Each device holds its part of the state; parameters "
        "and gradients are whole.",
        "- **Split parameters**: `Layout(mesh, rules)` with rules that split each along `data`. Gradients and "
        "state are laid out like their parameters. A parameter is gathered when a layer needs it, and released "
        "afterwards.",
        "",
        "## The arithmetic",
        "",
        "On a ring of n devices, an all-gather of an array sends (n − 1)/n of its bytes from each device. A "
        "reduce-scatter sends as much, and an all-reduce is both. With P the bytes of the parameters and G = P "
        "those of the gradients, a step sends",
        "",
        "| layout | what | bytes per device |",
        "| --- | --- | --- |",
        "| data parallel | all-reduce of the gradients | 2 (n − 1)/n · G |",
        "| ZeRO-1 | reduce-scatter of the gradients, all-gather of the updates | (n − 1)/n · (G + P) |",
        "| split parameters | all-gather of the parameters, forward and again backward, reduce-scatter of the "
        "gradients | (n − 1)/n · (2 P + G) |",
        "",
        "An update itself sends only norms, sums of rows and columns and the like, so that the traffic is the "
        f"same for all optimizers except two kinds. Sophia-G takes one more gradient every {SOPHIA_INTERVAL} "
        "steps. Each trial of a line search is a forward pass: it sends a scalar, and gathers the parameters "
        "where they are split, (n − 1)/n · P.",
        "",
        "A compiler may do worse. On a CPU, XLA all-reduces ZeRO-1's gradients, which makes "
        "(n − 1)/n · (2 G + P) in a step. [A test](../training/distributed/test_sharding.py) counts that in "
        "the compiled program, with AdamW and with AdamW in eight bits.",
    ]
    for model, entry in record["models"].items():
        lines += ["", f"## {model}, {entry['parameters']:,} parameters", "", *_sent(entry, devices)]
        for name in LAYOUTS[1:]:
            lines += ["", f"GB that each device holds, {name}:", "", *_held(entry, name, devices)]
    lines += ["", f"## How many devices it takes, of {MEMORY / 1e9:.0f} GB each", "", *_fewest(record)]
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _header(first: Any, others: Any) -> list[str]:
    return [_row([*first, *map(str, others)]), _row(["---"] * len(first) + ["---:"] * len(others))]


def _sent(entry: dict[str, Any], devices: Any) -> list[str]:
    """What a step sends: by layout and format, over the number of devices."""
    lines = ["GB that each device sends in a step:", "", *_header(["layout", "parameters"], devices)]
    for name in LAYOUTS:
        for fmt in ("float32", "bfloat16"):
            size = entry["held"][fmt]["data parallel"]["parameters"][0]
            cells = [f"{sent(name, n, size) / 1e9:.1f}" for n in devices]
            lines.append(_row([name, fmt, *cells]))
            cells = [
                f"{(sent(name, n, size) + sent_for_curvature(name, n, size) / SOPHIA_INTERVAL) / 1e9:.1f}"
                for n in devices
            ]
            lines.append(_row([f"{name}, `sophia_g`", fmt, *cells]))
    return lines


def _held(entry: dict[str, Any], name: str, devices: Any) -> list[str]:
    """What a device holds, over the number of devices; beside it, data parallel, where that does not matter."""
    lines = _header(["optimizer", "format"], ["data parallel", *devices])
    for optimizer in OPTIMIZERS:
        for fmt, of_format in entry["held"].items():
            alike = in_all(of_format, "data parallel", optimizer)[0]
            cells = [f"{size / 1e9:.2f}" for size in (alike, *in_all(of_format, name, optimizer))]
            lines.append(_row([f"`{optimizer}`", fmt, *cells]))
    return lines


def _fewest(record: dict[str, Any]) -> list[str]:
    """The least number of devices on which it all fits."""
    columns = [(model, name) for model in record["models"] for name in LAYOUTS]
    lines = [
        "The least of these numbers of devices on which parameters, gradients and state fit; – where they do "
        "not, on however many.",
        "",
        *_header(["optimizer", "format"], [f"{model}, {name}" for model, name in columns]),
    ]
    for optimizer in OPTIMIZERS:
        for fmt in FORMATS:
            cells = []
            for model, name in columns:
                sizes = in_all(record["models"][model]["held"][fmt], name, optimizer)
                fits = [n for n, size in zip(record["devices"], sizes, strict=True) if size <= MEMORY]
                cells.append(str(fits[0]) if fits else "–")
            lines.append(_row([f"`{optimizer}`", fmt, *cells]))
    return lines


def main() -> None:
    """Write the record, unless it is only to be rendered, and the page."""
    if "--render" not in sys.argv:
        PATH.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    record = json.loads(PATH.read_text(encoding="utf-8"))
    PATH.with_suffix(".md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
