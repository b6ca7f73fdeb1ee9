"""The health of a run: its metrics go in, its troubles come out, each with evidence and a remedy.

A row is a dict, as a trainer writes it to ``metrics.jsonl``:

- ``{"step", "loss", "gradient_norm"}`` of the update of that 0-based index, beside which there may stand
  ``learning_rate`` and ``clipped_share``, the share of the updates since the last row that were clipped;
- ``{"steps", "evaluation": {"loss", …}}`` of an evaluation after that many updates;
- ``{"step", "block_norms": {block: norm}}``, alone or as part of the first; see ``diagnostics.readings``.

All but ``step`` and ``steps`` may be missing; what cannot be judged is not reported. Losses are compared as
means over parts of the run, with the standard error that comes from batches that differ: the noisier a run, the
longer it has to be before something is said of it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimiz import checks, groups
from optimiz.groups.kinds import kind
from optimiz.groups.rules import Leaf

# With fewer losses there is no trend to speak of; a part of the run still has five.
LEAST_LOSSES = 40

# Differences of means are told from noise at this many standard errors: one in 15,000 by chance.
SIGNIFICANT = 4.0

# A loss above the first by a quarter, and by twice what batches differ by, is no bad batch: a running median of
# five is within one such deviation in 96 of 100 cases.
SPIKE = 1.25
SPIKE_DEVIATIONS = 2.0

# A transient is over after the first quarter; usual warm-ups are 1 to 10 % of a run.
EARLY = 0.25

# A run that ends having lost a quarter of what it had gained has not merely met a few hard batches.
LOST_SHARE = 0.25

# A loss that falls exponentially falls in the second half by 0.7 of what it did in the first when it has come
# half of its way. Where it is below half of the first loss, something was learnt, whatever the curve's shape.
# One that falls far more in the second half was held up in the first, as by a rate that had to decay.
STRAIGHT, BENT = 0.7, 2.0
HARDLY_LOWER = 0.5

# A change by less than this share of the loss, from the first quarter of the run to the last or from the third.
STUCK = 0.03
PLATEAU = 0.01

# A loss at a twentieth of the first has little left to fall.
SOLVED = 0.05

# The correlation of losses half a period apart is -1 for a pure oscillation, about 0 for independent batches.
# A swing of a twentieth of the loss does no harm.
OSCILLATES = -0.5
SWING = 0.05

# Evaluations on some thousand examples differ by a few percent from each other.
OVER_FITTING = 1.10

# Clipped more often than not, the gradient's norm no longer counts: it is normalized.
MOST = 0.5

# Against the median block. In float32 a sum of millions of entries is exact to about this.
DEAD = 1e-6

# Times its norm in the first quarter of the run: two decades are more than any schedule or warm-up explains, in
# a block that was not next to nothing at first, as those behind a layer that starts at zero are.
EXPLODED = 100.0
NEXT_TO_NOTHING = 1e-3

# So many measurements in a row are no accident of a batch.
LEAST_PROBES = 3

# A run that stands still may be warming up until half of it is done.
HALF = 0.5

TOO_LOW = (
    "Multiply the learning rate by 3 to 10. If the loss still does not move, see that gradients reach the "
    "parameters and that the optimizer is given all of them."
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A trouble of a run.

    Attributes:
        name: of the trouble, in snake case.
        evidence: what the rows show, in numbers.
        remedy: what to try.
        step: where it began, or was first seen.
    """

    name: str
    evidence: str
    remedy: str
    step: int

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} (step {self.step}): {self.evidence}. {self.remedy}"


def health(rows: Sequence[Mapping[str, Any]], *, share: float = 1.0) -> list[Finding]:
    """Name the troubles of a run.

    Args:
        rows: of its metrics, in the order in which they were written.
        share: of the run that is done, in [0, 1]. The run meant below is what there is of it; that a loss
            stands still is a trouble from half of the run on, and that it falls in a straight line at its end.

    Returns:
        Findings, the gravest first; none for a healthy run. Their names are ``not_finite``,
        ``learning_rate_too_high``, ``learning_rate_too_low``, ``warm_up_too_short``, ``oscillation``,
        ``plateau``, ``over_fitting``, ``exploding_blocks``, ``dead_blocks`` and ``clipping_most_steps``.

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
    curve = _Curve.of(rows)
    findings = [_not_finite(rows)]
    if len(curve.loss) >= LEAST_LOSSES:
        # What explains the loss is named in place of what it looks like.
        tests = [_too_high]
        tests += [_stands_still] if share >= HALF else []
        tests += [_falls_straight] if share == 1 else []
        tests += [_warm_up_too_short, _oscillation]
        tests += [_plateau] if share >= HALF else []
        findings.append(next(filter(None, (test(curve) for test in tests)), None))
        findings.append(_over_fitting(rows, curve))
    findings += [_exploding_blocks(rows), _dead_blocks(rows), _clipping(rows)]
    return [finding for finding in findings if finding is not None]


@dataclasses.dataclass(frozen=True)
class _Curve:
    """The training losses up to the first that is not finite, each [N]."""

    step: np.ndarray
    loss: np.ndarray
    rate: np.ndarray | None  # learning rates, where all rows have one

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "_Curve":
        rows = [row for row in rows if "loss" in row]
        loss = np.array([float(row["loss"]) for row in rows])
        finite = int(np.argmin(np.append(np.isfinite(loss), False)))
        step = np.array([row["step"] for row in rows], int)
        rate = [row.get("learning_rate") for row in rows[:finite]]
        return cls(step[:finite], loss[:finite], None if None in rate else np.array(rate, float))

    def part(self, start: float, end: float) -> "_Part":
        """The losses between two shares of the run's rows."""
        return _Part(self.loss[round(start * len(self.loss)) : round(end * len(self.loss))])

    @property
    def progress(self) -> np.ndarray:
        """How far the updates had gone before each row: the sum of the learning rates, or of the steps."""
        lengths = np.ones(len(self.loss)) if self.rate is None else self.rate
        return (np.cumsum(lengths) - lengths / 2) / max(lengths.sum(), np.finfo(float).tiny)

    @property
    def rates(self) -> str:
        return "" if self.rate is None else f", at learning rates up to {self.rate.max():.3g}"


@dataclasses.dataclass(frozen=True)
class _Part:
    """Losses of a part of a run."""

    loss: np.ndarray

    @property
    def level(self) -> float:
        return float(np.mean(self.loss))

    @property
    def deviation(self) -> float:
        """Of one batch from another, by their differences: a trend is no noise."""
        return float(np.std(np.diff(self.loss)) / math.sqrt(2))

    @property
    def error(self) -> float:
        """Standard error of the level."""
        return self.deviation / math.sqrt(len(self.loss))


def _error(one: _Part, other: _Part) -> float:
    """Standard error of the difference of two levels."""
    return math.hypot(one.error, other.error)


def not_finite(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row that are not finite, by name."""
    figures = {name: row[name] for name in ("loss", "gradient_norm") if name in row}
    figures |= row.get("block_norms", {})
    figures |= {f"evaluation {name}": value for name, value in row.get("evaluation", {}).items()}
    return {name: float(x) for name, x in figures.items() if not math.isfinite(float(x))}


def _not_finite(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    first = next((row for row in rows if not_finite(row)), None)
    if first is None:
        return None
    figures: dict[str, float] = {}
    for row in rows:  # a probe may write a row of its own
        if row.get("step") == first.get("step") and row.get("steps") == first.get("steps"):
            figures |= not_finite(row)
    step = first.get("step", first.get("steps"))
    losses = _Curve.of(rows).loss
    last = f"; the loss was {losses[0]:.4g} at first and {losses[-1]:.4g} at last" if len(losses) else ""
    return Finding(
        "not_finite",
        f"at step {step}: " + ", ".join(f"{name} {x}" for name, x in figures.items()) + last,
        "If the loss rose before, lower the learning rate or warm it up; if not, look at the batch of that "
        "step, and for a division, a logarithm or low precision in the model. optimiz.guard skips such steps.",
        int(step),
    )


def _too_high(curve: _Curve) -> Finding | None:
    tenths = [curve.part(i / 10, (i + 1) / 10) for i in range(10)]
    best = min(range(10), key=lambda i: tenths[i].level)
    least, last, first = tenths[best], tenths[-1], curve.loss[0]
    above = last.level > (SPIKE + SPIKE_DEVIATIONS * last.deviation / last.level) * first
    rise = last.level - least.level
    lost = rise > max(
        LOST_SHARE * (first - least.level), SIGNIFICANT * _error(last, least), SWING * least.level
    )
    if not (above or lost):
        return None
    row = np.argmax(curve.loss > SPIKE * first) if above else (best + 1) * len(curve.loss) // 10
    means = ", ".join(f"{tenth.level:.3g}" for tenth in tenths)
    return Finding(
        "learning_rate_too_high",
        f"the loss began at {first:.4g}; its means over the tenths of the run are {means}{curve.rates}",
        "Divide the learning rate by 3, and again if need be; let it decay towards the end.",
        int(curve.step[row]),
    )


def _stands_still(curve: _Curve) -> Finding | None:
    first, last = curve.part(0, 0.25), curve.part(0.75, 1)
    fall, error = first.level - last.level, _error(first, last)
    start = curve.part(0, 0.05)  # has it been here before the first quarter?
    stayed = start.level - last.level < STUCK * start.level + SIGNIFICANT / 2 * _error(start, last)
    if not stayed or abs(fall) + SIGNIFICANT / 2 * error >= STUCK * first.level:
        return None
    evidence = (
        f"from the first quarter of the run to its last the loss fell by {fall / first.level:.2%}, "
        f"from {first.level:.4g} to {last.level:.4g}{curve.rates}"
    )
    return Finding("learning_rate_too_low", evidence, TOO_LOW, int(curve.step[0]))


def _falls_straight(curve: _Curve) -> Finding | None:
    progress = curve.progress
    start, middle, end = (_Part(curve.loss[np.abs(progress - x) <= 0.1]) for x in (0.1, 0.5, 0.9))
    if min(len(part.loss) for part in (start, middle, end)) < LEAST_LOSSES // 8:
        return None
    before, after = start.level - middle.level, middle.level - end.level
    straight = STRAIGHT * before <= after <= BENT * before and after >= SIGNIFICANT * _error(middle, end)
    if not straight or end.level < HARDLY_LOWER * curve.loss[0]:
        return None
    evidence = (
        f"the loss fell by {before:.3g} in the first half and by {after:.3g} in the second, "
        f"from {start.level:.4g} to {end.level:.4g}: it was still falling as fast{curve.rates}"
    )
    return Finding("learning_rate_too_low", evidence, TOO_LOW, int(curve.step[0]))


def _warm_up_too_short(curve: _Curve) -> Finding | None:
    early = curve.loss[: round(EARLY * len(curve.loss))]
    running = np.median(np.lib.stride_tricks.sliding_window_view(early, 5), axis=1)
    rest = curve.part(EARLY, 1)
    peak = int(np.argmax(running))
    if running[peak] <= (SPIKE + SPIKE_DEVIATIONS * rest.deviation / rest.level) * curve.loss[0]:
        return None
    step = int(curve.step[peak + 2])
    at = "" if curve.rate is None else f", where the learning rate is {curve.rate[peak + 2]:.3g}"
    return Finding(
        "warm_up_too_short",
        f"the loss began at {curve.loss[0]:.4g}, rose to {early.max():.4g} around step {step}{at}, and came "
        f"back to {curve.part(0.9, 1).level:.4g}",
        "Let the learning rate rise over more of the run, see optimiz.schedules.warm_up, or lower its peak.",
        step,
    )


def _oscillation(curve: _Curve) -> Finding | None:
    half = len(curve.loss) // 2
    loss = curve.loss[half:]
    at = np.arange(len(loss))
    around = loss - np.polyval(np.polyfit(at, loss, 1), at)
    swing = np.std(around) / np.mean(loss)
    if not swing > SWING:
        return None
    energy = np.sum(around**2)
    lags = range(1, len(loss) // 8 + 1)
    correlations = [np.sum(around[lag:] * around[:-lag]) / energy for lag in lags]
    lag = int(np.argmin(correlations))
    if correlations[lag] > OSCILLATES:
        return None
    return Finding(
        "oscillation",
        f"in the second half of the run the loss swings by {swing:.0%} of its mean with a period of about "
        f"{2 * lags[lag]} rows (correlation {correlations[lag]:.2f} at half of that){curve.rates}",
        "Lower the learning rate; at long periods, the momentum. With batches in a fixed order, shuffle them.",
        int(curve.step[half]),
    )


def _plateau(curve: _Curve) -> Finding | None:
    before, last = curve.part(0.5, 0.75), curve.part(0.75, 1)
    fall, error = before.level - last.level, _error(before, last)
    if last.level < SOLVED * curve.loss[0] or abs(fall) + SIGNIFICANT / 2 * error > PLATEAU * before.level:
        return None
    return Finding(
        "plateau",
        f"from the third quarter of the run to the last the loss fell by {fall / before.level:.2%}, from "
        f"{before.level:.4g} to {last.level:.4g}{curve.rates}",
        "Let the learning rate decay; if it has, stop earlier, or give the model more capacity or better data.",
        int(curve.step[len(curve.step) // 2]),
    )


def _over_fitting(rows: Sequence[Mapping[str, Any]], curve: _Curve) -> Finding | None:
    pairs = [(row["steps"], row["evaluation"].get("loss", math.nan)) for row in rows if "evaluation" in row]
    pairs = [(int(steps), float(loss)) for steps, loss in pairs if math.isfinite(float(loss))]
    if len(pairs) < 3:
        return None
    best_steps, best = min(pairs, key=lambda pair: pair[1])
    (_, before), (last_steps, last) = pairs[-2:]
    if min(before, last) < OVER_FITTING * best:
        return None
    window = len(curve.loss) // 10
    ends = (max(window, int(np.searchsorted(curve.step, steps))) for steps in (best_steps, last_steps))
    then, now = (_Part(curve.loss[end - window : end]) for end in ends)
    if now.level > min(curve.loss[0], then.level - SIGNIFICANT / 2 * _error(now, then)):
        return None
    return Finding(
        "over_fitting",
        f"the evaluation loss was least, {best:.4g}, after {best_steps} steps and is {last:.4g} after "
        f"{last_steps}, while the training loss fell from {then.level:.4g} to {now.level:.4g}",
        f"Keep the parameters of step {best_steps}. Decay weights more, drop out more, or bring more data.",
        best_steps,
    )


def _probes(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[str], np.ndarray]:
    """Steps, names of the blocks, and norms [probes, blocks] of the finite measurements."""
    rows = [row for row in rows if row.get("block_norms")]
    names = list(rows[-1]["block_norms"]) if rows else []
    rows = [row for row in rows if row["block_norms"].keys() == set(names)]
    norms = np.array([[float(row["block_norms"][name]) for name in names] for row in rows])
    norms = norms.reshape(len(rows), len(names))
    finite = np.flatnonzero(np.isfinite(norms).all(axis=1))
    return [int(rows[i]["step"]) for i in finite], names, norms[finite]


def _exploding_blocks(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    steps, names, norms = _probes(rows)
    early = round(EARLY * len(steps))
    if early < LEAST_PROBES:
        return None
    first = np.median(norms[:early], axis=0)
    last = norms[-1]
    exploded = (last > EXPLODED * first) & (first > NEXT_TO_NOTHING * np.median(first))
    if not exploded.any():
        return None
    shown = ", ".join(f"{names[b]} (from {first[b]:.3g} to {last[b]:.3g})" for b in np.flatnonzero(exploded))
    since = int(np.argmax((norms[:, exploded] > EXPLODED * first[exploded]).any(axis=1)))
    return Finding(
        "exploding_blocks",
        f"since the first quarter of the run the gradient norm grew more than {EXPLODED:g}-fold in {shown}",
        "Clip by global norm; decay these blocks, or lower their learning rate, see optimiz.scale_by_groups.",
        steps[since],
    )


def _dead_blocks(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    steps, names, norms = _probes(rows)
    half = len(steps) // 2
    if len(steps) - half < LEAST_PROBES:
        return None
    dead = (norms <= DEAD * np.median(norms, axis=1, keepdims=True))[half:].all(axis=0)
    # Attention does not depend on the bias of its keys: adding one number to all scores changes no softmax.
    dead_names = [
        names[b]
        for b in np.flatnonzero(dead)
        if not (kind(names[b]) == "k" and groups.biases.test(Leaf(names[b], ())))
    ]
    if not dead_names:
        return None
    return Finding(
        "dead_blocks",
        f"in the last {len(steps) - half} measurements, from step {steps[half]} on, the gradient is zero, or "
        f"at most {DEAD:g} of the median block's, in {', '.join(dead_names)}",
        "See that these parameters are used and not cut off by stop_gradient; dead ReLUs want a smaller "
        "learning rate or another activation; leave out of the optimizer what is frozen on purpose.",
        steps[half],
    )


def _clipping(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    rows = [row for row in rows if "clipped_share" in row]
    rows = rows[len(rows) // 10 :]  # the first steps may well be clipped
    share = np.mean([float(row["clipped_share"]) for row in rows]) if rows else 0.0
    if len(rows) < LEAST_LOSSES // 2 or share <= MOST:
        return None
    return Finding(
        "clipping_most_steps",
        f"{share:.0%} of the updates from step {rows[0]['step']} on were clipped",
        "Raise the threshold to a high percentile of the gradient norms, or lower the learning rate; as it is, "
        "the length of the gradient does not count.",
        int(rows[0]["step"]),
    )
