"""The pages of the reference, written from the public names, the table of methods and the records.

They are MyST pages in ``docs/reference``, which Git ignores: one for every method and every public module.
"""

import ast
import inspect
import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import path_pictures

import optimiz
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
PARTS = {
    "Methods": [f"{_PAGES}/methods", *(f"{_PAGES}/methods/{name}" for name in methods.METHODS)],
    "Reference": [f"{_PAGES}/{module}" for module in MODULES],
}


def public(module: ModuleType) -> dict[str, Any]:
    """The public functions, classes and constants of a module, by name, without its modules."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if _belongs(name, value, module)}


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
    (folder / "methods").mkdir(parents=True)
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
    (folder / "methods.md").write_text(_all_methods(records), encoding="utf-8")
    for name, module in MODULES.items():
        (folder / f"{name}.md").write_text(_module(name, module), encoding="utf-8")


def _module(name: str, module: ModuleType) -> str:
    own = public(module)
    if module is optimiz:  # the methods have pages of their own
        own = {name: value for name, value in own.items() if name not in methods.METHODS}
    entries = [_entry(f"{name}.{item}", value) for item, value in sorted(own.items(), key=_order)]
    return "\n\n".join([f"# {name}", _directive("automodule", name, "no-index"), *entries])


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
    for case in records["parity"]["cases"].values():
        if case["method"] == method.name:
            deviation = f"{case['max_relative_deviation']:.0e}, relative, at most"
            yield f"deviation from `{case['code']}`", deviation
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
    note = f"State: float32, of {shown}. [How they compare with Optax's](../optimizers.md#relative-to-optax)."
    return "\n\n".join(["# All methods", compare.table(head, rows, words=3), note])


def _directive(kind: str, name: str, *options: str) -> str:
    body = "\n".join([f".. {kind}:: {name}", *(f"   :{option}:" for option in options)])
    return f"```{{eval-rst}}\n{body}\n```"
