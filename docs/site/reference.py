"""The pages of the reference, written from the public names, the table of methods and the records.

They are MyST pages in ``docs/reference``, which Git ignores: one for every method, schedule, primitive and
public module.
"""

import ast
import inspect
import itertools
import json
import shutil
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import blocks
import chain_pages
import choosing_pictures
import method_pages
import path_pictures
import schedule_pictures

import optimiz
from examples import records as committed
from optimiz import (
    compare,
    diagnostics,
    groups,
    matrix_scales,
    methods,
    newton_schulz,
    plan,
    schedules,
    testing,
    torch_state,
    training,
)

MODULES: Mapping[str, ModuleType] = {
    "optimiz": optimiz,
    "optimiz.groups": groups,
    "optimiz.schedules": schedules,
    "optimiz.matrix_scales": matrix_scales,
    "optimiz.newton_schulz": newton_schulz,
    "optimiz.diagnostics": diagnostics,
    "optimiz.training": training,
    "optimiz.compare": compare,
    "optimiz.testing": testing,
    "optimiz.plan": plan,
    "optimiz.methods": methods,
    "optimiz.torch_state": torch_state,
}
_PAGES = "reference"
_LISTS = ("methods", "schedules", "primitives")  # each a page, and a page for each of its entries
PARTS = {"Reference": [f"{_PAGES}/{page}" for page in (*_LISTS, *MODULES)]}


def public(module: ModuleType) -> dict[str, Any]:
    """The public functions, classes, constants and types of a module, by name, without its modules."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {name: value for name, value in found.items() if _belongs(name, value, module)}


def primitives() -> dict[str, Any]:
    """The public primitives, by name."""
    return {name: value for name, value in public(optimiz).items() if "primitives" in value.__module__}


def _belongs(name: str, value: Any, module: ModuleType) -> bool:
    if inspect.ismodule(value):
        return False
    if typing.get_origin(value) is not None:  # a type with arguments, such as Literal["rate"]
        return True
    origin = getattr(value, "__module__", None)
    if callable(value):
        if not hasattr(module, "__path__"):  # what a file imports is not its own
            return origin == module.__name__
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
    memory = json.loads((root / "tests/records/memory.json").read_text(encoding="utf-8"))
    records = {"memory": memory, "parity": committed.parity()}
    records["reports"] = method_pages.reports(root)
    records["moved"], records["moved_by_steps"] = committed.moved(), committed.moved_by_steps()
    records["grids"] = committed.grids() | committed.default_grids()
    paths = path_pictures.rows(root)
    for name, method in methods.METHODS.items():
        given = paths[name, "bend"]["given"]
        path_pictures.draw(name, paths, folder / f"methods/{name}.png")
        (folder / f"methods/{name}.md").write_text(method_pages.page(method, records, given), encoding="utf-8")
    schedule_pictures.draw_all(folder / "schedules.png")
    for name in schedule_pictures.CURVES:
        schedule_pictures.draw(name, folder / f"schedules/{name}.png")
        (folder / f"schedules/{name}.md").write_text(chain_pages.schedule(name), encoding="utf-8")
    for name, primitive in primitives().items():
        (folder / f"primitives/{name}.md").write_text(chain_pages.primitive(name, primitive), encoding="utf-8")
    choosing_pictures.draw_all(folder)
    (folder / "methods.md").write_text(method_pages.overview(records), encoding="utf-8")
    (folder / "schedules.md").write_text(chain_pages.all_schedules(), encoding="utf-8")
    (folder / "primitives.md").write_text(chain_pages.all_primitives(primitives()), encoding="utf-8")
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
        [
            f"# {name}",
            blocks.directive("py:module", name),
            blocks.directive("automodule", module.__name__, "no-index"),
            *filter(None, [links.get(name)]),
            *entries,
        ]
    )


def _order(item: tuple[str, Any]) -> tuple[bool, str]:
    """Functions before classes and constants, each by name."""
    return not inspect.isroutine(item[1]), item[0].lower()


def _entry(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return blocks.directive("autoclass", name, "members")
    if inspect.isroutine(value):
        return blocks.directive("autofunction", name)
    module, _, constant = name.rpartition(".")
    shown = f"\n   :value: {value!r}" if isinstance(value, int | str) else ""
    said = _said_of(constant, value)
    return f"```{{eval-rst}}\n.. py:data:: {constant}\n   :module: {module}{shown}\n\n   {said}\n```"


def _said_of(name: str, value: Any) -> str:
    """The string below the assignment of a constant, in the module that defines it; "" without one."""
    for module in [module for module in sys.modules.values() if vars(module).get(name) is value]:
        body = ast.parse(inspect.getsource(module)).body
        for node, after in itertools.pairwise(body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(getattr(target, "id", None) == name for target in targets) and isinstance(after, ast.Expr):
                return " ".join(ast.literal_eval(after.value).split())
    return ""
