"""What the record of a study keeps of its runs: one list per metric instead of a row per update."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from examples.shared import strict_json
from optimiz import compare, training


def in_columns(runs: Iterable[compare.Run], *metrics: str) -> list[compare.Run]:
    """Replace the history of runs by lists in ``extra``, with one entry per update.

    Args:
        runs: runs as ``compare.run_matrix`` returns them.
        *metrics: names of the metrics to keep; metrics that a run lacks are skipped.

    Returns:
        The runs; a number that is not finite is None.
    """

    def columns(run: compare.Run) -> dict[str, Any]:
        rows = [row for row in run.history if "loss" in row]
        return {name: [_shortest(row[name]) for row in rows] for name in metrics if rows and name in rows[0]}

    return [dataclasses.replace(run, history=[], extra={**run.extra, **columns(run)}) for run in runs]


def column(run: compare.Run, name: str) -> np.ndarray:
    """Return a list of a run as an array, with NaN for values that are not finite."""
    return np.array(run.extra[name], float)


def mean_over_runs(columns: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean of several arrays over the updates that all of them reached."""
    columns = list(columns)
    reached = min(map(len, columns))
    return np.mean([values[:reached] for values in columns], axis=0)


def with_safe_names(runs: Iterable[compare.Run]) -> list[compare.Run]:
    """Return runs whose optimizer names can be written into Markdown as they are."""
    return [dataclasses.replace(run, optimizer=compare.escaped(run.optimizer)) for run in runs]


def measured_once(path: Path, measure: Callable[[], Any]) -> Any:
    """Return a measurement that belongs to no run from a JSON file; it is made and written if it is missing.

    Args:
        path: file in the directory of the study.
        measure: function that makes the measurement, as plain JSON.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: the file is not JSON; the message names it.
    """
    if not path.exists():
        training.write_whole(path, json.dumps(measure()))
    return strict_json.parse(path.read_bytes(), str(path))


def _shortest(value: Any) -> Any:
    """A float32 number with the fewest digits that identify it."""
    if isinstance(value, list):
        return [_shortest(item) for item in value]
    return float(str(np.float32(value))) if isinstance(value, float) else value
