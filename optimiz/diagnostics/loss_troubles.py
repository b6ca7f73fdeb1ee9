"""Problems of a run that its losses show, one function each.

Each returns its finding, or None if the curve does not show the problem clearly.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimiz.diagnostics.finding import Finding
from optimiz.diagnostics.loss_curve import EARLY, LEAST_LOSSES, SIGNIFICANT, LossCurve, Part, error_between

# A loss above the first by a quarter, and by two deviations between batches, is not due to a bad batch: a
# running median of five is within one deviation in 96 of 100 cases.
SPIKE = 1.25
SPIKE_DEVIATIONS = 2.0

# A run that loses a quarter of what it had gained has not merely met a few hard batches.
LOST_SHARE = 0.25

# An exponential decay that is half done falls in the second half by 0.7 of its fall in the first. Below half of
# the first loss something was learnt, whatever the shape of the curve. A loss that falls far more in the second
# half was held up in the first, for example by a rate that had to decay.
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

TOO_LOW = (
    "Multiply the learning rate by 3 to 10. If the loss still does not move, check that gradients reach the "
    "parameters and that the optimizer is given all of them."
)


def too_high(curve: LossCurve) -> Finding | None:
    """The loss ends far above its start, or far above its minimum."""
    tenths = [curve.part(i / 10, (i + 1) / 10) for i in range(10)]
    best = min(range(10), key=lambda i: tenths[i].level)
    least, last, first = tenths[best], tenths[-1], curve.loss[0]
    above = last.level > (SPIKE + SPIKE_DEVIATIONS * last.deviation / last.level) * first
    rise = last.level - least.level
    lost = rise > max(
        LOST_SHARE * (first - least.level), SIGNIFICANT * error_between(last, least), SWING * least.level
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


def stands_still(curve: LossCurve) -> Finding | None:
    """The loss of the last quarter is that of the first."""
    first, last = curve.part(0, 0.25), curve.part(0.75, 1)
    fall, error = first.level - last.level, error_between(first, last)
    start = curve.part(0, 0.05)  # has it been here before the first quarter?
    stayed = start.level - last.level < STUCK * start.level + SIGNIFICANT / 2 * error_between(start, last)
    if not stayed or abs(fall) + SIGNIFICANT / 2 * error >= STUCK * first.level:
        return None
    evidence = (
        f"from the first quarter of the run to its last the loss fell by {fall / first.level:.2%}, "
        f"from {first.level:.4g} to {last.level:.4g}{curve.rates}"
    )
    return Finding("learning_rate_too_low", evidence, TOO_LOW, int(curve.step[0]))


def falls_straight(curve: LossCurve) -> Finding | None:
    """The loss falls as fast in the second half of the way as in the first, and has not come far."""
    progress = curve.progress
    start, middle, end = (Part(curve.loss[np.abs(progress - x) <= 0.1]) for x in (0.1, 0.5, 0.9))
    if min(len(part.loss) for part in (start, middle, end)) < LEAST_LOSSES // 8:
        return None
    before, after = start.level - middle.level, middle.level - end.level
    straight = STRAIGHT * before <= after <= BENT * before and after >= SIGNIFICANT * error_between(middle, end)
    if not straight or end.level < HARDLY_LOWER * curve.loss[0]:
        return None
    evidence = (
        f"the loss fell by {before:.3g} in the first half and by {after:.3g} in the second, "
        f"from {start.level:.4g} to {end.level:.4g}: it was still falling as fast{curve.rates}"
    )
    return Finding("learning_rate_too_low", evidence, TOO_LOW, int(curve.step[0]))


def warm_up_too_short(curve: LossCurve) -> Finding | None:
    """The loss rises at first and comes back."""
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


def oscillation(curve: LossCurve) -> Finding | None:
    """In the second half the loss swings with a period."""
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


def plateau(curve: LossCurve) -> Finding | None:
    """From the third quarter to the last the loss does not fall, and is not near zero."""
    before, last = curve.part(0.5, 0.75), curve.part(0.75, 1)
    fall, error = before.level - last.level, error_between(before, last)
    if last.level < SOLVED * curve.loss[0] or abs(fall) + SIGNIFICANT / 2 * error > PLATEAU * before.level:
        return None
    return Finding(
        "plateau",
        f"from the third quarter of the run to the last the loss fell by {fall / before.level:.2%}, from "
        f"{before.level:.4g} to {last.level:.4g}{curve.rates}",
        "Let the learning rate decay; if it has, stop earlier, or give the model more capacity or better data.",
        int(curve.step[len(curve.step) // 2]),
    )


def over_fitting(rows: Sequence[Mapping[str, Any]], curve: LossCurve) -> Finding | None:
    """The loss on held-out data rises while that of training falls.

    Args:
        rows: rows of the run's metrics.
        curve: loss curve of the same rows.
    """
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
    then, now = (Part(curve.loss[end - window : end]) for end in ends)
    if now.level > min(curve.loss[0], then.level - SIGNIFICANT / 2 * error_between(now, then)):
        return None
    return Finding(
        "over_fitting",
        f"the evaluation loss was least, {best:.4g}, after {best_steps} steps and is {last:.4g} after "
        f"{last_steps}, while the training loss fell from {then.level:.4g} to {now.level:.4g}",
        f"Keep the parameters of step {best_steps}: a run does so with Settings(keep_best='loss', "
        "lower_is_better=True), and training.load_params(directory, 'best') reads them. Decay weights more, "
        "drop out more, or bring more data.",
        best_steps,
    )
