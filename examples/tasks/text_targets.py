"""Loss and metrics of each kind of label of a text."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.data import baseline, measures, shown, targets
from examples.data.text import TextExamples


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be predicted of a text.

    Attributes:
        losses: (logits [B, C], labels) → losses [B].
        measure: (logits [N, C], labels) → metrics.
        metrics: the names of these.
        ranked_by: the metric that ranks optimizers.
    """

    losses: Callable[[jax.Array, jax.Array], jax.Array]
    measure: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    metrics: tuple[str, ...]
    ranked_by: str


TARGETS = {
    targets.CLASS: Target(
        optax.softmax_cross_entropy_with_integer_labels,
        lambda logits, labels: baseline.metrics(labels, logits.argmax(-1)),
        baseline.METRICS,
        "accuracy",
    ),
    targets.LABELS: Target(
        lambda logits, labels: jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels), -1),
        lambda logits, labels: measures.of_labels(labels, logits),
        measures.LABEL_METRICS,
        "micro_f1",
    ),
    targets.NUMBER: Target(
        lambda logits, numbers: (logits[:, 0] - numbers) ** 2,
        lambda logits, numbers: measures.of_numbers(numbers, logits[:, 0]),
        measures.NUMBER_METRICS,
        "pearson",
    ),
}
METRICS = tuple(dict.fromkeys(metric for target in TARGETS.values() for metric in target.metrics))


def scale(train: TextExamples) -> tuple[float, float]:
    """Mean and standard deviation of the numbers to be predicted; 0 and 1 without numbers.

    Raises:
        ValueError: all numbers are the same.
    """
    if train.problem != targets.NUMBER:
        return 0.0, 1.0
    wide = train.labels.astype(np.float64)
    mean, deviation = float(wide.mean()), float(wide.std())
    if not deviation > 1e-6 * abs(mean):
        column = shown.value(train.label_names[0])
        raise ValueError(
            f"train ({train.source}): all numbers in {column} are {mean:g}; nothing can be learned"
        )
    return mean, deviation


def check(parts: Mapping[str, TextExamples]) -> None:
    """Refuse parts of different kinds, and empty ones.

    Raises:
        ValueError: a part has no examples, or other classes or another number of texts than "train".
    """
    train = parts["train"]
    for name, part in parts.items():
        if not part.texts:
            raise ValueError(f"{name} ({part.source}) has no examples")
        if part.label_names != train.label_names:
            raise ValueError(
                f"{name} ({part.source}) must have the classes of train, {shown.values(train.label_names)}, "
                f"got {shown.values(part.label_names)}"
            )
        if (part.pairs is None) != (train.pairs is None):
            one, two = ("pairs of texts", "single texts")[:: 1 if train.pairs is not None else -1]
            raise ValueError(f"train has {one}, but {name} ({part.source}) has {two}")
