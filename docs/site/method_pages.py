"""The pages of the methods, from the table of methods and the records."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import blocks
import optax
import path_pictures

from examples import choosing
from optimiz import compare, methods

_RATES = {  # whether a method in the picture of a path is a line search → what its rate is
    False: "Each rate is the best of a grid, and decays to zero.",
    True: "Line searches find their steps without a rate.",
}


def reports(root: Path) -> dict[str, list[str]]:
    """Links to the committed reports that mention a method, by its name.

    Args:
        root: root of the repository.
    """
    found: dict[str, list[str]] = {}

    def add(named: Iterable[str], link: str) -> None:
        words = {word for name in named for word in re.findall(r"\w+", name)}
        for name in methods.METHODS.keys() & set(map(choosing.method_of, words)):
            found.setdefault(name, []).append(link)

    for path in sorted((root / "examples").glob("*/**/report.md")):
        record = json.loads((path.parent / "record.json").read_text(encoding="utf-8"))
        rows = [*record.get("runs", ()), *record.get("rows", ())]
        named = {str(row.get("optimizer", row.get("method", row.get("command")))) for row in rows}
        folder = path.parent.relative_to(root / "examples").as_posix()
        words = [word for word in folder.split("/") if word not in ("results", "studies", "benchmarks")]
        add(named, f"[{' '.join(words).replace('_', ' ')}](../../../examples/{folder}/report.md)")
    for name, named in _in_tests(root / "tests/records").items():
        add(named, f"[{name}](../../../tests/records/{name}.md)")
    for name, page in {"parity": "optimizers", "search_parity": "line_search"}.items():
        cases = json.loads((root / f"tests/records/{name}.json").read_text(encoding="utf-8"))["cases"]
        add(cases, f"[parity](../../{page}.md)")
    return found


def _in_tests(folder: Path) -> dict[str, Iterable[str]]:
    """The names in the records of the tests that have a page."""
    contract, layouts, memory, scaling = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("contract", "layouts", "memory", "scaling")
    )
    return {
        "contract": [name for one in contract["outcomes"].values() for name in (*one["kept"], *one["broken"])],
        "layouts": [name for layout in layouts["differences"].values() for name in layout],
        "memory": [name for model in memory["models"].values() for name in model["bytes"]],
        "scaling": [row["optimizer"] for row in (*scaling["updates"], *scaling["steps"])],
    }


def page(method: methods.Method, records: Mapping[str, Any], given: str) -> str:
    """The page of a method.

    Args:
        method: its row.
        records: records of memory and parity, links to the reports that mention each method, the bytes that its
            update moves, and what rates next to the best lose.
        given: how it is given two parameters in the picture of its path.
    """
    name = method.name
    return "\n\n".join(
        [
            f"# {name}",
            blocks.directive("automodule", f"optimiz.optimizers.{method.page}", "no-index"),
            *_path(name, given),
            "## Use",
            blocks.directive("autofunction", f"optimiz.{name}"),
            "## At a glance",
            compare.table(("", ""), list(_facts(method, records)), words=2),
            *_rates(name, records["grids"]),
            "## Bytes of state per parameter",
            _state(method, records["memory"]),
        ]
    )


def _path(name: str, given: str) -> list[str]:
    near = path_pictures.neighbours(name)
    searches = {methods.METHODS[one].kind == "line search" for one in (name, *near)}
    rates = " ".join(_RATES[search] for search in sorted(searches))
    momentum = " SGD has a momentum of 0.9." if "sgd" in (name, *near) else ""
    return [
        f"![Path of {name} on two landscapes]({name}.png)",
        f"100 steps towards the minimum, a cross, on two landscapes, next to `{'` and `'.join(near)}`. "
        f"{rates}{momentum} The picture shows what the method does with scales and curvature, and says nothing "
        f"about training. The method's two parameters are {given}.",
    ]


def _facts(method: methods.Method, records: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "published", method.paper or "not: it is a baseline"
    yield "do not use it", method.avoid
    for name, case in choosing.cases_of(method.name, records["parity"]).items():
        deviation = f"{case['max_relative_deviation']:.0e}, relative, at most"
        variant = f", {name.removeprefix(method.name).strip('_').replace('_', ' ')}" * (name != method.name)
        source = f"`{case['code']}`" if case["code"] else "its equations"
        yield f"deviation from {source}{variant}", deviation
    for text, rate in {
        "peak rate for fine-tuning": method.fine_tuning_rate,
        "peak rate from scratch": method.from_scratch_rate,
    }.items():
        if rate is not None:
            yield text, f"{rate:g}, a starting point"
    yield from _traffic(method, records)
    if method.needs:
        yield "`update` needs", ", ".join(f"`{name}`" for name in method.needs)
    if method.name in records["reports"]:
        yield "measured in", ", ".join(records["reports"][method.name])
    yield "in Optax", _in_optax(method.name)


def _in_optax(name: str) -> str:
    for module in (optax, optax.contrib):
        if hasattr(module, name):
            return f"`{module.__name__}.{name}`"
    return "no optimizer of this name"


def _traffic(method: methods.Method, records: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if method.name in records["moved"]:
        moved = f"{records['moved'][method.name]} bytes per parameter"
        yield f"an update of {choosing.PLANNED} moves", moved
    elif method.name in records["moved_by_steps"]:
        times = records["moved_by_steps"][method.name]
        trial = ", the most with one trial" if method.kind == "line search" else ""
        yield f"a step of {choosing.PLANNED_STEP} moves", f"{times} times what one with `adamw` moves{trial}"
    else:
        yield f"an update of {choosing.PLANNED} moves", choosing.UNMEASURED


def _rates(name: str, grids: Mapping[str, Any]) -> Iterator[str]:
    if own := choosing.grids_of(name, grids):
        yield "## What other rates lose"
        yield "How much worse they end on held-out data than the best one, in the metric's own unit."
        yield choosing.by_tuning(own)


def _state(method: methods.Method, memory: Mapping[str, Any]) -> str:
    models = memory["models"]
    rows = [
        (model, *(f"{size / measured['parameters']:.2f}" for size in measured["bytes"][method.name].values()))
        for model, measured in models.items()
    ]
    formats = next(iter(models.values()))["bytes"][method.name]
    return compare.table(("model", *formats), rows)


def overview(records: Mapping[str, Any]) -> str:
    """The list of all methods."""
    model = next(iter(records["memory"]["models"].values()))
    rows = []
    for name, method in methods.METHODS.items():
        size = f"{model['bytes'][name]['float32'] / model['parameters']:.2f}"
        rows.append((f"[`{name}`](methods/{name}.md)", method.summary, method.kind, size))
    head = ("method", "in one line", "kind", "state, bytes per parameter")
    shown = next(iter(records["memory"]["models"]))
    note = f"State: float32, of {shown}. [When not to use which](../which_optimizer.md#all-methods)."
    tree = blocks.tree("methods", methods.METHODS)
    return "\n\n".join(["# All methods", compare.table(head, rows, words=3), note, tree])
