"""The health of a run: its problems, from its metrics, each with evidence and a remedy.

A row is a dict, as trainers write it to ``metrics.jsonl``:

- ``{"step", "loss", "gradient_norm"}`` of the update with that 0-based index, optionally with
  ``learning_rate`` and ``clipped_share``, the share of the updates since the last row that were clipped;
- ``{"steps", "evaluation": {"loss", …}}`` of an evaluation after that many updates;
- ``{"step", "block_norms": {block: norm}}``, alone or as part of the first; see ``diagnostics.readings``.
- ``{"step", "noise": {"trace", "squared_norm", "batch_size"}}``, likewise; see ``diagnostics.gradient_noise``.
  Training in micro-batches writes it at every step.

Everything except ``step`` and ``steps`` may be missing; problems that the rows cannot show are not reported.
Rows of steps that ``optimiz.guard`` has skipped are left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optimiz import checks
from optimiz.diagnostics import loss_troubles
from optimiz.diagnostics.finding import Finding
from optimiz.diagnostics.gradient_troubles import (
    batch_below_noise_scale,
    batch_beyond_noise_scale,
    clipping,
    dead_blocks,
    exploding_blocks,
)
from optimiz.diagnostics.loss_curve import LEAST_LOSSES, LossCurve
from optimiz.hyperparams import skipped_in_a_row

# A loss that stands still in the first half may be due to the warm-up.
HALF = 0.5


def health(rows: Sequence[Mapping[str, Any]], *, share: float = 1.0) -> list[Finding]:
    """Find the problems of a run.

    Args:
        rows: rows of metrics, in the order in which they were written.
        share: fraction of the run that is done, in [0, 1]. A loss that stands still, and a batch that is far
            from the noise scale, are problems from half of the run on; a loss that falls in a straight line,
            only at its end.

    Returns:
        Findings, the most serious first; none for a healthy run. Their names are ``not_finite``,
        ``learning_rate_too_high``, ``learning_rate_too_low``, ``warm_up_too_short``, ``oscillation``,
        ``plateau``, ``over_fitting``, ``exploding_blocks``, ``dead_blocks``, ``clipping_most_steps``,
        ``batch_beyond_noise_scale`` and ``batch_below_noise_scale``.

    Raises:
        TypeError: a row is not a mapping, or the share not a number.
        ValueError: a row has neither ``step`` nor ``steps``, or the share is outside its domain.

    Example:
        >>> losses = [1.0, 0.5, float("nan")]
        >>> (finding,) = health([{"step": step, "loss": loss} for step, loss in enumerate(losses)])
        >>> finding.name, finding.step, finding.evidence
        ('not_finite', 2, 'at step 2: loss nan; the loss was 1 at first and 0.5 at last')
    """
    checks.number("share", share, ge=0, le=1)
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"a row must be a mapping, got {row!r}")
        if "step" not in row and "steps" not in row:
            raise ValueError(f"a row must have step or steps, got {dict(row)}")
    rows = [row for row in rows if not any(skipped_in_a_row(row))]
    curve = LossCurve.of(rows)
    findings = [_not_finite(rows)]
    if len(curve.loss) >= LEAST_LOSSES:
        # Only the first that applies, ordered from cause to symptom.
        tests = [loss_troubles.too_high]
        tests += [loss_troubles.stands_still] if share >= HALF else []
        tests += [loss_troubles.falls_straight] if share == 1 else []
        tests += [loss_troubles.warm_up_too_short, loss_troubles.oscillation]
        tests += [loss_troubles.plateau] if share >= HALF else []
        findings.append(next(filter(None, (test(curve) for test in tests)), None))
        findings.append(loss_troubles.over_fitting(rows, curve))
    findings += [exploding_blocks(rows), dead_blocks(rows), clipping(rows)]
    if share >= HALF:  # the noise scale is small at first, and grows
        findings += [batch_beyond_noise_scale(rows), batch_below_noise_scale(rows)]
    return [finding for finding in findings if finding is not None]


def not_finite(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row that are not finite, by name."""
    metrics = {name: row[name] for name in ("loss", "gradient_norm") if name in row}
    metrics |= row.get("block_norms", {})
    metrics |= {f"evaluation {name}": value for name, value in row.get("evaluation", {}).items()}
    return {name: float(x) for name, x in metrics.items() if not math.isfinite(float(x))}


def _not_finite(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    first = next((row for row in rows if not_finite(row)), None)
    if first is None:
        return None
    metrics: dict[str, float] = {}
    for row in rows:  # a probe may write a separate row
        if row.get("step") == first.get("step") and row.get("steps") == first.get("steps"):
            metrics |= not_finite(row)
    step = first.get("step", first.get("steps"))
    losses = LossCurve.of(rows).loss
    last = f"; the loss was {losses[0]:.4g} at first and {losses[-1]:.4g} at last" if len(losses) else ""
    return Finding(
        "not_finite",
        f"at step {step}: " + ", ".join(f"{name} {x}" for name, x in metrics.items()) + last,
        "If the loss rose before, lower the learning rate or warm it up; if not, look at the batch of that "
        "step, and for a division, a logarithm or low precision in the model. optimiz.guard skips such steps.",
        int(step),
    )
