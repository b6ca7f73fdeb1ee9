"""The record of state sizes: every optimizer in every format for the shapes of known models, and its page.

    python -m tests.memory_record METHOD ...    measures these, which allocates nothing, and merges them
    python -m tests.memory_record               measures all

``python -m examples.records`` renders the page.

A layer's arrays recur, and a state's size is a sum over arrays: each shape of a model is measured once, and
counted as often as the model has it. test_memory_record.py compares that with a whole model.
"""

import datetime
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import optimiz
from examples.models import shapes
from optimiz.groups import Matrix
from optimiz.methods import METHODS
from tests.contract.table import TABLE

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests/records/memory.json"
FORMATS = {
    "float32": None,
    "BFloat16": optimiz.BFloat16(),
    "Float8": optimiz.Float8(),
    "Int8": optimiz.Int8(),
    "Int4": optimiz.Int4(),
}
# The source's table of optimizer states, in what it calls GB: arXiv 2412.11768, section on memory.
SOURCE = {"GPT-2 1.5B": {"sgd_sai": 5.93, "adamw": 11.86}, "Llama-2-7B": {"sgd_sai": 25.15, "adamw": 49.48}}


NAMES = {
    "GPT-2 124M": "gpt2",
    "GPT-2 355M": "gpt2-medium",
    "GPT-2 774M": "gpt2-large",
    "GPT-2 1.5B": "gpt2-xl",
    "ViT-S/16": "vit-s",
    "ViT-B/16": "vit-b",
    "Llama-2-7B": "llama-2-7b",
    "Llama-2-13B": "llama-2-13b",
}
MODELS = {title: shapes.counted(shapes.MODELS[name].shapes()) for title, name in NAMES.items()}


def _hidden(params: Any) -> Any:
    """The hidden matrices of the models, whose embeddings and heads are AdamW's."""
    names = {name: re.search("embedding|positions|head", name) is None for name in params}
    return {name: Matrix() if names[name] and p.ndim == 2 else None for name, p in params.items()}


def _whole(params: Any) -> Any:
    """The same with embeddings and heads, as SOAP has it."""
    return {name: Matrix() if p.ndim == 2 else None for name, p in params.items()}


def optimizer(name: str, fmt: Any) -> Any:
    """An optimizer of the suite, and its state in a format; None for as it is."""
    method = METHODS[name]
    given: dict[str, Any] = {"matrices": _hidden} if method.takes("matrices") else {}
    if method.takes("max_precond_dim"):
        given = {"matrices": _whole, "max_precond_dim": 10_000}
    # What reproduces an author's code is not in the table, and has defaults for all arguments.
    tx = TABLE[name].make(0.1, **given) if name in TABLE else method.factory()
    return tx if fmt is None else optimiz.low_bit(tx, fmt)


def parameters(model: str) -> int:
    """How many entries the model's parameters have."""
    return sum(jax.ShapeDtypeStruct(shape, jnp.float32).size * times for shape, times in MODELS[model].values())


def total(model: str, name: str, fmt: Any) -> int:
    """Bytes of the optimizer's state for the model."""
    structs = {array: jax.ShapeDtypeStruct(shape, jnp.float32) for array, (shape, _) in MODELS[model].items()}
    size = 0
    for path, each in optimiz.state_bytes(optimizer(name, fmt), structs).arrays.items():
        of = re.search(r"\['(\w+)'\]$", path)
        size += each * (MODELS[model][of[1]][1] if of else 1)
    return size


def measure(names: list[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Bytes by model, optimizer and format."""
    return {
        model: {name: {label: total(model, name, fmt) for label, fmt in FORMATS.items()} for name in names}
        for model in MODELS
    }


def render(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "# Size of the optimizers' states",
        "",
        f"Bytes per parameter, and in total in GB = 10⁹ bytes, for float32 parameters, {record['date']}. The "
        "sizes are exact and follow from shapes alone. Arrays of fewer than 4,096 entries stay in float32 in "
        "every format. Rendered from [memory.json](memory.json) by [memory_record.py](../memory_record.py).",
        "",
        "## Compared with the paper of SGD-SaI",
        "",
        "| model | optimizer | paper, “GB” | here, GB | here, GiB |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for model, stated in SOURCE.items():
        for name, size in stated.items():
            ours = record["models"][model]["bytes"][name]["float32"]
            lines.append(f"| {model} | `{name}` | {size} | {ours / 1e9:.2f} | {ours / 2**30:.2f} |")
    lines += [
        "",
        "In both, SGD-SaI keeps one float32 number per parameter and AdamW two. The paper does not say what it "
        "counts. Its two figures for Llama-2-7B do not differ by a factor of two. No unit and parameter count "
        "that we tried, with tied or untied heads, reproduces the figures of both models exactly.",
    ]
    for model, entry in record["models"].items():
        count = entry["parameters"]
        lines += [
            "",
            f"## {model}, {count:,} parameters",
            "",
            f"| optimizer |{''.join(f' {label} |' for label in FORMATS)}",
            f"| --- |{' ---: |' * len(FORMATS)}",
        ]
        for name, sizes in entry["bytes"].items():
            cells = [f"{sizes[label] / count:.3f} ({sizes[label] / 1e9:.2f} GB)" for label in FORMATS]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_TRAINED = {  # with AdamW → bytes of a parameter and of its gradient, format of the state
    "float32": (4, "float32"),
    "float32, `Int8`": (4, "Int8"),
    "bfloat16 with stochastic rounding, `Int8`": (2, "Int8"),
    "bfloat16 with stochastic rounding, `Int4`": (2, "Int4"),
}
_PUBLISHED = "FlashOptim’s AdamW (arXiv 2602.23349), 24-bit parameters and 8-bit state"


def in_words(record: dict[str, Any]) -> str:
    """What training with AdamW takes in all, next to what others publish."""
    lines = ["| AdamW, bytes per parameter | parameters | state | both | with gradients |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    entry = record["models"]["Llama-2-7B"]
    for name, (size, label) in _TRAINED.items():
        state = entry["bytes"]["adamw"][label] / entry["parameters"]
        lines.append(f"| {name} | {size} | {state:.2f} | {size + state:.2f} | {2 * size + state:.2f} |")
    lines += [
        f"| {_PUBLISHED} | 3 | 2 | 5 | 7 |",
        "",
        f"Of Llama-2-7B, {record['date']}; gradients have the dtype of the parameters. What others publish is "
        "in their words: 7 bytes, and 5 with gradient release, that is without gradients in memory.",
    ]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Measure optimizers and merge them into the record; without names all of them."""
    if unknown := [name for name in names if name not in METHODS]:
        raise SystemExit(f"METHOD must be one of {', '.join(METHODS)}, got {unknown[0]}")
    record: dict[str, Any] = {"models": {}}
    if RECORD.exists():
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    measured = measure(names or list(METHODS))
    models = {}
    for model, added in measured.items():
        before = record["models"].get(model, {"bytes": {}})["bytes"]
        kept = {name: sizes for name, sizes in sorted((before | added).items()) if name in METHODS}
        models[model] = {"parameters": parameters(model), "bytes": kept}
    record = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "models": models}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
