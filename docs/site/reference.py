"""The pages of the reference, written from the public names, the table of methods and the records.

They are MyST pages in ``docs/reference``, which Git ignores: one for every method, schedule, primitive and
public module.
"""

import ast
import inspect
import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import choosing_pictures
import path_pictures
import schedule_pictures

import optimiz
from examples import choosing
from optimiz import compare, diagnostics, groups, methods, plan, schedules, testing, training

MODULES: Mapping[str, ModuleType] = {
    "optimiz": optimiz,
    "optimiz.groups": groups,
    "optimiz.schedules": schedules,
    "optimiz.diagnostics": diagnostics,
    "optimiz.training": training,
    "optimiz.compare": compare,
    "optimiz.testing": testing,
    "optimiz.plan": plan,
    "optimiz.methods": methods,
}
_PAGES = "reference"
_PATH = (
    "100 steps on two landscapes, next to SGD with a momentum of 0.9 and AdamW, each at the best of a grid of "
    "rates that decay to zero. It shows what the method does with scales and curvature, and says nothing about "
    "training."
)
_LISTS = ("methods", "schedules", "primitives")  # each a page, and a page for each of its entries
PARTS = {"Reference": [f"{_PAGES}/{page}" for page in (*_LISTS, *MODULES)]}


def public(module: ModuleType) -> dict[str, Any]:
    """The public functions, classes and constants of a module, by name, without its modules."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if _belongs(name, value, module)}


def primitives() -> dict[str, Any]:
    """The public primitives, by name."""
    return {name: value for name, value in public(optimiz).items() if "primitives" in value.__module__}


def _belongs(name: str, value: Any, module: ModuleType) -> bool:
    if inspect.ismodule(value):
        return False
    origin = getattr(value, "__module__", None)
    if callable(value):
        return origin is not None and origin.startswith(module.__name__.partition(".")[0])
    return name.isupper()


def write(root: Path) -> None:
    """Write all pages.

    Args:
        root: root of the repository.
    """
    folder = root / "docs" / _PAGES
    shutil.rmtree(folder, ignore_errors=True)
    for entries in _LISTS:
        (folder / entries).mkdir(parents=True)
    records = {
        name: json.loads((root / f"tests/records/{name}.json").read_text(encoding="utf-8"))
        for name in ("memory", "parity")
    }
    paths = path_pictures.rows(root)
    for name, method in methods.METHODS.items():
        has_path = (name, "bend") in paths
        if has_path:
            path_pictures.draw(name, paths, folder / f"methods/{name}.png")
        (folder / f"methods/{name}.md").write_text(_method(method, records, has_path), encoding="utf-8")
    schedule_pictures.draw_all(folder / "schedules.png")
    for name in schedule_pictures.CURVES:
        schedule_pictures.draw(name, folder / f"schedules/{name}.png")
        (folder / f"schedules/{name}.md").write_text(_schedule(name), encoding="utf-8")
    for name, primitive in primitives().items():
        (folder / f"primitives/{name}.md").write_text(_primitive(name, primitive), encoding="utf-8")
    choosing_pictures.draw_all(folder)
    (folder / "methods.md").write_text(_all_methods(records), encoding="utf-8")
    (folder / "schedules.md").write_text(_all_schedules(), encoding="utf-8")
    (folder / "primitives.md").write_text(_all_primitives(), encoding="utf-8")
    for name, module in MODULES.items():
        (folder / f"{name}.md").write_text(_module(name, module), encoding="utf-8")


def _module(name: str, module: ModuleType) -> str:
    elsewhere = {"optimiz": {*methods.METHODS, *primitives()}, "optimiz.schedules": {*schedule_pictures.CURVES}}
    own = {item: value for item, value in public(module).items() if item not in elsewhere.get(name, ())}
    entries = [_entry(f"{name}.{item}", value) for item, value in sorted(own.items(), key=_order)]
    links = {
        "optimiz": "[Optimizers](methods.md) and [primitives](primitives.md) have pages of their own.",
        "optimiz.schedules": "[Shapes](schedules.md) have pages of their own.",
    }
    return "\n\n".join(
        [f"# {name}", _directive("automodule", name, "no-index"), *filter(None, [links.get(name)]), *entries]
    )


def _schedule(name: str) -> str:
    return "\n\n".join(
        [
            f"# {name}",
            f"![Values of {name} over a run]({name}.png)",
            _directive("autofunction", f"optimiz.schedules.{name}"),
            "[How shapes are bound to steps](../../schedules.md), and [all of them](../schedules.md).",
        ]
    )


def _all_schedules() -> str:
    rows = [
        (f"[`{name}`](schedules/{name}.md)", _first_line(getattr(schedules, name)).removeprefix("Shape: "))
        for name in schedule_pictures.CURVES
    ]
    return "\n\n".join(
        [
            "# All schedules",
            "![Every schedule over a run, at its defaults](schedules.png)",
            compare.table(("shape", "in one line"), rows, words=2),
            "[How they are bound to steps](../schedules.md).",
            _tree("schedules", schedule_pictures.CURVES),
        ]
    )


def _primitive(name: str, primitive: Any) -> str:
    used = [
        f"[`{method.name}`](../methods/{method.name}.md)"
        for method in methods.METHODS.values()
        if re.search(rf"\b{name}\(", inspect.getsource(sys.modules[method.factory.__module__]))
    ]
    by = ", ".join(used) or "no optimizer; it goes around or behind one."
    return "\n\n".join(
        [
            f"# {name}",
            _directive("automodule", primitive.__module__, "no-index"),
            "## Use",
            _directive("autofunction", f"optimiz.{name}"),
            "## Used by",
            by,
        ]
    )


def _all_primitives() -> str:
    rows = [
        (f"[`{name}`](primitives/{name}.md)", _first_line(primitive))
        for name, primitive in primitives().items()
    ]
    return "\n\n".join(
        [
            "# Primitives",
            "Optimizers are chains of them: condition, direction, decay, step. "
            "[How they are chained](../../WORKSPACE.md#the-grammar-of-a-chain).",
            compare.table(("primitive", "in one line"), rows, words=2),
            _tree("primitives", primitives()),
        ]
    )


def _first_line(value: Any) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0]


def _tree(folder: str, names: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *(f"{folder}/{name}" for name in names), "```"])


def _order(item: tuple[str, Any]) -> tuple[bool, str]:
    """Functions before classes and constants, each by name."""
    return not inspect.isroutine(item[1]), item[0].lower()


def _entry(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return _directive("autoclass", name, "members")
    if callable(value):
        return _directive("autofunction", name)
    return f"```{{eval-rst}}\n.. py:data:: {name}\n\n   {_said_of(name.rpartition('.')[2], value)}\n```"


def _said_of(name: str, value: Any) -> str:
    """The string below the assignment of a constant, in the module that defines it; "" without one."""
    for module in [module for module in sys.modules.values() if vars(module).get(name) is value]:
        body = ast.parse(inspect.getsource(module)).body
        for node, after in itertools.pairwise(body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(getattr(target, "id", None) == name for target in targets) and isinstance(after, ast.Expr):
                return " ".join(ast.literal_eval(after.value).split())
    return ""


def _method(method: methods.Method, records: Mapping[str, Any], has_path: bool) -> str:
    name = method.name
    return "\n\n".join(
        [
            f"# {name}",
            _directive("automodule", f"optimiz.optimizers.{method.page}", "no-index"),
            *([f"![Path of {name} on two landscapes]({name}.png)", _PATH] if has_path else []),
            "## Use",
            _directive("autofunction", f"optimiz.{name}"),
            "## Known of it",
            compare.table(("", ""), list(_facts(method, records)), words=2),
            *_state(method, records["memory"]),
        ]
    )


def _facts(method: methods.Method, records: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "published", method.paper or "not: it is a baseline"
    yield "do not use it", method.avoid
    for case in choosing.cases_of(method.name, records["parity"]):
        deviation = f"{case['max_relative_deviation']:.0e}, relative, at most"
        yield f"deviation from {'`' + case['code'] + '`' if case['code'] else 'its equations'}", deviation
    for text, rate in {
        "peak rate for fine-tuning": method.fine_tuning_rate,
        "peak rate from scratch": method.from_scratch_rate,
    }.items():
        if rate is not None:
            yield text, f"{rate:g}, a starting point"
    if method.needs:
        yield "`update` needs", ", ".join(f"`{name}`" for name in method.needs)
    twin = method.optax_twin
    yield "in Optax", f"`optax.{method.name}`" if twin is not None else "no optimizer of this name"


def _state(method: methods.Method, memory: Mapping[str, Any]) -> Iterator[str]:
    held = {model: measured["bytes"].get(method.name, {}) for model, measured in memory["models"].items()}
    formats = list(dict.fromkeys(kind for sizes in held.values() for kind in sizes))
    parameters = {model: measured["parameters"] for model, measured in memory["models"].items()}
    rows = [
        (model, *(f"{sizes[kind] / parameters[model]:.2f}" for kind in formats))
        for model, sizes in held.items()
        if sizes
    ]
    if rows:  # variants of a method are not measured on their own
        yield "## Bytes of state per parameter"
        yield compare.table(("model", *formats), rows)


def _all_methods(records: Mapping[str, Any]) -> str:
    model = next(iter(records["memory"]["models"].values()))
    rows = []
    for name, method in methods.METHODS.items():
        held = model["bytes"].get(name)
        size = "" if held is None else f"{held['float32'] / model['parameters']:.2f}"
        rows.append((f"[`{name}`](methods/{name}.md)", method.summary, method.kind, size))
    head = ("method", "in one line", "kind", "state, bytes per parameter")
    shown = next(iter(records["memory"]["models"]))
    note = f"State: float32, of {shown}. [When not to use which](../which_optimizer.md#all-methods)."
    tree = _tree("methods", methods.METHODS)
    return "\n\n".join(["# All methods", compare.table(head, rows, words=3), note, tree])


def _directive(kind: str, name: str, *options: str) -> str:
    body = "\n".join([f".. {kind}:: {name}", *(f"   :{option}:" for option in options)])
    return f"```{{eval-rst}}\n{body}\n```"
