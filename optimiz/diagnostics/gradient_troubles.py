"""Problems of a run that its gradients show: exploding or dead blocks, clipping, and too little noise.

Each function returns its finding, or None if the rows do not show the problem clearly.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimiz import groups
from optimiz.diagnostics.finding import Finding
from optimiz.diagnostics.loss_curve import EARLY, LEAST_LOSSES
from optimiz.diagnostics.noise import NoiseLevel, noise_level
from optimiz.groups.kinds import kind
from optimiz.groups.rules import Leaf

# Clipped more often than not, gradients are in effect normalized.
MOST = 0.5

# Relative to the median block; about the accuracy of a float32 sum of millions of entries.
DEAD = 1e-6

# Relative to the first quarter of the run: no schedule or warm-up explains two decades. Blocks that were almost
# zero at first, such as those behind a layer that starts at zero, do not count.
EXPLODED = 100.0
NEXT_TO_NOTHING = 1e-3

# At ten times the noise scale, examples cost 11 times their least, and steps 1.1 times theirs; at a tenth of
# it, the other way round.
BEYOND = 10.0

# Fewer measurements in a row may be due to a batch.
LEAST_PROBES = 3


def _probes(rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[str], np.ndarray]:
    """Steps, names of the blocks, and norms [probes, blocks] of the finite measurements."""
    rows = [row for row in rows if row.get("block_norms")]
    names = list(rows[-1]["block_norms"]) if rows else []
    rows = [row for row in rows if row["block_norms"].keys() == set(names)]
    norms = np.array([[float(row["block_norms"][name]) for name in names] for row in rows])
    norms = norms.reshape(len(rows), len(names))
    finite = np.flatnonzero(np.isfinite(norms).all(axis=1))
    return [int(rows[i]["step"]) for i in finite], names, norms[finite]


def exploding_blocks(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    """The gradient norm of a block has grown beyond what schedules explain."""
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


def dead_blocks(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    """A block gets no gradient, measurement after measurement."""
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
        "Check that these parameters are used and not cut off by stop_gradient; dead ReLUs want a smaller "
        "learning rate or another activation; leave out of the optimizer what is frozen on purpose.",
        steps[half],
    )


def clipping(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    """Most gradients are clipped."""
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


def batch_beyond_noise_scale(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    """The batch is far larger than the noise scale."""
    step, level = _noise(rows)
    if level is None or not level.batch_size > BEYOND * max(level.high, 1.0):
        return None
    return Finding(
        "batch_beyond_noise_scale",
        f"the batch of {level.batch_size:g} is far above the noise scale, {_examples(level)}",
        "A smaller batch needs hardly more steps: divide the batch by up to "
        f"{level.batch_size / max(level.high, 1.0):.2g}, and the learning rate with it.",
        step,
    )


def batch_below_noise_scale(rows: Sequence[Mapping[str, Any]]) -> Finding | None:
    """The batch is far smaller than the noise scale."""
    step, level = _noise(rows)
    if level is None or not level.low > BEYOND * level.batch_size:
        return None
    return Finding(
        "batch_below_noise_scale",
        f"the batch of {level.batch_size:g} is far below the noise scale, {_examples(level)}",
        "If the device has room, a batch that is twice as large needs about half the steps, and hardly more "
        "examples: raise it, and the learning rate with it.",
        step,
    )


def _examples(level: NoiseLevel) -> str:
    """A noise scale in words, with its interval where that says more."""
    scale = f"about {level.scale:.2g} examples" if math.isfinite(level.scale) else "which no batch here shows"
    if not level.low > 0:  # too few measurements for an interval
        return scale
    low, high = (f"{x:.2g}" if math.isfinite(x) else "any number" for x in (level.low, level.high))
    return f"{scale} (95 % interval {low} to {high})"


def _noise(rows: Sequence[Mapping[str, Any]]) -> tuple[int, NoiseLevel | None]:
    """The noise scale in the later half of the measurements, and the step of the first of these.

    Few measurements have no interval. The largest of their scales then counts as its upper bound, which is a
    bound where the gradient is far above its noise, and nothing is known of the lower one.
    """
    rows = [row for row in rows if "noise" in row]
    rows = [row for row in rows if math.isfinite(row["noise"]["trace"] + row["noise"]["squared_norm"])]
    if not rows:
        return 0, None
    later = rows[len(rows) // 2 :]
    level = noise_level([row["noise"] for row in later])
    if level.low > 0:
        return int(later[0]["step"]), level
    largest = max(noise_level([row["noise"]]).scale for row in rows)
    return int(rows[0]["step"]), noise_level([row["noise"] for row in rows])._replace(low=0.0, high=largest)
