"""The pages of the schedules and of the primitives, of which optimizers are chains."""

import inspect
import re
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import blocks
import schedule_pictures

from optimiz import compare, methods, schedules


def schedule(name: str) -> str:
    """The page of a schedule, with its curves."""
    return "\n\n".join(
        [
            f"# {name}",
            f"![Values of {name} over a run]({name}.png)",
            blocks.directive("autofunction", f"optimiz.schedules.{name}"),
            "[How shapes are bound to steps](../../schedules.md), and [all of them](../schedules.md).",
        ]
    )


def all_schedules() -> str:
    """The list of all schedules."""
    rows = [
        (
            f"[`{name}`](schedules/{name}.md)",
            blocks.first_line(getattr(schedules, name)).removeprefix("Shape: "),
        )
        for name in schedule_pictures.CURVES
    ]
    return "\n\n".join(
        [
            "# All schedules",
            "![Every schedule over a run, at its defaults](schedules.png)",
            compare.table(("shape", "in one line"), rows, words=2),
            "[How they are bound to steps](../schedules.md).",
            blocks.tree("schedules", schedule_pictures.CURVES),
        ]
    )


def primitive(name: str, value: Any) -> str:
    """The page of a primitive, with the optimizers that use it."""
    used = [
        f"[`{method.name}`](../methods/{method.name}.md)"
        for method in methods.METHODS.values()
        if _uses(sys.modules[method.factory.__module__], name, value)
    ]
    by = ", ".join(used) or "no optimizer; it goes around or behind one."
    return "\n\n".join(
        [
            f"# {name}",
            blocks.directive("automodule", value.__module__, "no-index"),
            "## Use",
            blocks.directive("autofunction", f"optimiz.{name}"),
            "## Used by",
            by,
        ]
    )


def _uses(module: ModuleType, name: str, primitive: Any) -> bool:
    """Whether a module imports a primitive under its name, and calls it."""
    called = re.search(rf"(?<![\w.]){name}\(", inspect.getsource(module))
    return vars(module).get(name) is primitive and called is not None


def all_primitives(found: Mapping[str, Any]) -> str:
    """The list of all primitives."""
    rows = [(f"[`{name}`](primitives/{name}.md)", blocks.first_line(value)) for name, value in found.items()]
    return "\n\n".join(
        [
            "# Primitives",
            "Optimizers are chains of them: condition, direction, decay, step. "
            "[How they are chained](../../WORKSPACE.md#the-grammar-of-a-chain).",
            compare.table(("primitive", "in one line"), rows, words=2),
            blocks.tree("primitives", found),
        ]
    )
