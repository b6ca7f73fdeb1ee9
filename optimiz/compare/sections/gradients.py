"""Sections on gradients: how the runs began, and how noisy their gradients were."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from optimiz import diagnostics
from optimiz.compare.markdown import escaped, table
from optimiz.compare.methods import Method
from optimiz.compare.record import Record
from optimiz.compare.run import Run


def beginning(record: Record) -> list[str]:
    """How the runs started."""
    ginis = [gini for run in record.runs if (gini := run.heterogeneity.get("gini_norm")) is not None]
    if not ginis:
        return []
    spans = " to ".join(sorted({f"{gini:.2f}" for gini in (min(ginis), max(ginis))}))
    begun = {(run.seed, run.fingerprint) for run in record.runs}
    alike = len(begun) == len({run.seed for run in record.runs})
    return [
        "## How did they start?",
        "For each seed, the SHA-256 of initial parameters, random key and first batches is "
        f"{'the same' if alike else '**not** the same'} in every run. The norms of the first gradient over the "
        f"parameter tensors have a Gini coefficient of {spans} (0: all are equal; near 1: one is much larger "
        "than the others). If it is high, a single learning rate suits few of the tensors.",
    ]


def noise(record: Record, compared: Sequence[Method]) -> list[str]:
    """How noisy the gradients were."""
    rows = []
    for method in compared:
        found = [_noise_rows(run) for run in method.runs]
        halves = [
            [one for measured in found for one in half(measured)]
            for half in (lambda x: x[: len(x) // 2], lambda x: x[len(x) // 2 :])
        ]
        if not all(any(math.isfinite(one["trace"]) for one in half) for half in halves):
            continue
        early, late = map(diagnostics.noise_level, halves)
        rows.append([escaped(method.name), f"{late.batch_size:g}", _level(early), _level(late)])
    if not rows:
        return []
    return [
        "## How noisy are the gradients?",
        "The simple noise scale, in examples: the trace of the covariance of an example's gradient over the "
        "squared norm of its mean, each averaged over the seeds and over the earlier or the later half of the "
        "measurements, with a 95 % interval where there are enough. It is a guide to the critical batch "
        "size. Below it, a batch twice as large nearly halves the steps; far above it, hardly any are saved. "
        "At a batch of that size, both steps and examples are about twice their least, if the loss is curved "
        "alike in all directions and the optimizer is SGD. Where no gradient shows above the noise, it is "
        "hidden.",
        table(["method", "batch size", "noise scale, earlier", "noise scale, later"], rows),
        *_tails(compared),
    ]


def _noise_rows(run: Run) -> list[dict[str, Any]]:
    """The measurements of the noise in a run, in order of their steps."""
    rows = [row for row in run.rows if "noise" in row]
    return [row["noise"] for row in sorted(rows, key=lambda row: row["step"])]


def _level(level: diagnostics.NoiseLevel) -> str:
    low, scale, high = (
        f"{x:.3g}" if math.isfinite(x) else "hidden" for x in (level.low, level.scale, level.high)
    )
    return f"{scale} ({low} to {high})" if level.low > 0 else scale


def _tails(compared: Sequence[Method]) -> list[str]:
    """How heavy the tails of the noise are, if that was measured."""
    rows = []
    for method in compared:
        last = [_noise_rows(run)[-1:] for run in method.runs]
        found = [one["tails"] for measured in last for one in measured if "tails" in one]
        if found:
            shown = [f"{np.mean([tails[name] for tails in found]):.3g}" for name in diagnostics.Tails._fields]
            rows.append([escaped(method.name), *shown])
    if not rows:
        return []
    header = [
        "method",
        "excess kurtosis",
        "share above 10",
        "tail index, 1 %",
        "0.1 %",
        "99th percentile / median",
    ]
    return [
        "The tails of that noise at the last measurement, over batches, for up to 1,000 entries of the "
        "gradient, each standardised by its own median: the median of their excess kurtosis (0 for a "
        "Gaussian) and the share of them above 10, the tail index from the largest 1 % and 0.1 % (heavy if "
        "both are below 4; a Gaussian has about 9 and 13), and the distance of a batch's gradient from the "
        "mean. Means over seeds.",
        table(header, rows),
    ]
