"""Curves of all schedules, drawn from the code."""

import inspect
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from optimiz import compare, schedules

CURVES = {  # each as it would be written
    "constant": ["constant(1.0)"],
    "linear": ["linear(1.0)", "linear(1.0, floor=0.25)"],
    "cosine": ["cosine(1.0)", "cosine(1.0, floor=0.25)"],
    "exponential": ["exponential(1.0, floor=0.01)", "exponential(1.0, floor=0.25)"],
    "inverse_sqrt": ["inverse_sqrt(1.0, warmup=0.1)", "inverse_sqrt(1.0, warmup=0.02)"],
    "one_minus_sqrt": ["one_minus_sqrt(1.0)"],
    "step": ["step(1.0, {0.5: 0.1, 0.75: 0.1})", "step(1.0, {0.3: 0.5, 0.6: 0.5, 0.9: 0.5})"],
    "warm_up": ["warm_up(linear(1.0), 0.1)", "warm_up(cosine(1.0), 0.3, start=0.3)"],
    "warmup_constant": ["warmup_constant(1.0)", "warmup_constant(1.0, warmup=0.3)"],
    "warmup_linear": ["warmup_linear(1.0)", "warmup_linear(1.0, warmup=0.1, floor=0.25)"],
    "warmup_cosine": ["warmup_cosine(1.0)", "warmup_cosine(1.0, warmup=0.1, floor=0.0)"],
    "wsd": ["wsd(1.0)", "wsd(1.0, warmup=0.1, decay=0.4, floor=0.0, cooldown=one_minus_sqrt(1.0))"],
    "one_cycle": ["one_cycle(1.0)", "one_cycle(1.0, back=0.85, anneal=linear(1.0))"],
}
_STEPS = 500


def shapes() -> list[str]:
    """Names of the public functions that make a shape."""
    found = inspect.getmembers(schedules, inspect.isfunction)
    return [name for name, value in found if value.__annotations__.get("return") is schedules.Shape]


def _curve(axes, expression, **line):
    schedule = schedules.over_steps(eval(expression, vars(schedules)), _STEPS)
    values = schedule(np.arange(_STEPS + 1))
    axes.plot(np.linspace(0, 1, _STEPS + 1), values, label=expression, **line)


def draw(name: str, path: Path) -> None:
    """Draw the curves of a schedule.

    Args:
        name: one of CURVES.
        path: path of the picture.
    """
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for expression in CURVES[name]:
        _curve(axes, expression)
    axes.set(xlabel="progress of the run", ylabel="value", xlim=(0, 1), ylim=(0, 1.05))
    axes.legend(fontsize=8)
    compare.save(figure, path, dpi=110)


def draw_all(path: Path) -> None:
    """Draw the first curve of each schedule in one picture."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    grid = figure.subplots(4, 4, sharex=True, sharey=True)
    for axes, (name, (expression, *_)) in zip(grid.flat, CURVES.items(), strict=False):
        _curve(axes, expression, linewidth=2)
        axes.set_title(name, fontsize=10)
        axes.set(xlim=(0, 1), ylim=(0, 1.05), xticks=[0, 0.5, 1], yticks=[0, 1])
    for axes in list(grid.flat)[len(CURVES) :]:
        axes.set_axis_off()
    compare.save(figure, path, dpi=110)
