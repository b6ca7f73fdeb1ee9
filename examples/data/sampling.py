"""How often examples of each class are seen, or count: weights of classes, and a balanced sampler."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from examples.data import shown
from optimiz import training

BALANCED = "balanced"


def class_weights(items: Sequence[str], labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The weight of each class in the mean loss of a batch.

    Args:
        items: `["balanced"]` for N / (C n) of a class with n of N examples, so that all C classes together
            count the same, or `name=weight` of classes; 1 for the others.
        labels: the classes of the training examples, [N].
        names: names of the classes.

    Returns:
        float32 [C].

    Raises:
        ValueError: an item names no class, or a class twice, or its weight is not positive.

    Example:
        >>> class_weights(["balanced"], np.array([0, 0, 0, 0, 1, 1]), ["ham", "spam"]).tolist()
        [0.75, 1.5]
        >>> class_weights(["spam=5"], np.array([0, 1]), ["ham", "spam"]).tolist()
        [1.0, 5.0]
    """
    counts = np.bincount(labels, minlength=len(names))
    if list(items) == [BALANCED]:
        return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)
    weights = dict[str, float]()
    for item in items:
        name, weight = named_weight(item)
        if name not in names:
            raise ValueError(
                f"--class_weights={item}: there is no class {shown.value(name)} among {shown.values(names)}"
            )
        if name in weights:
            raise ValueError(f"--class_weights={item}: the class {shown.value(name)} has two weights")
        weights[name] = weight
    return np.array([weights.get(name, 1.0) for name in names], np.float32)


def named_weight(item: str) -> tuple[str, float]:
    """The class and the weight of an item such as `spam=5`.

    Raises:
        ValueError: it is none.
    """
    name, equals, weight = item.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not (equals and name and 0 < value <= 1e6):
        raise ValueError(f"class_weights {item!r} must be {BALANCED}, or NAME=WEIGHT with a weight in (0, 1e6]")
    return name, value


def balanced(
    arrays: Mapping[str, np.ndarray], labels: np.ndarray, batch_size: int, seed: int, share: tuple[int, int]
) -> Callable[[int], dict[str, np.ndarray]]:
    """An endless stream in which every class comes in turn, each from a shuffled stream of its own.

    Args:
        arrays: name → array [N, …].
        labels: the classes of the examples, [N]; a class without examples is left out.
        batch_size: number of examples in a batch, ≥ 1.
        seed: seed of the streams, ≥ 0.
        share: which part of each batch this process reads, see ``training.Layout.share``.

    Returns:
        A pure function of the step.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 0, 1])
        >>> batch = balanced({"label": labels}, labels, batch_size=4, seed=0, share=(0, 1))
        >>> [batch(step)["label"].tolist() for step in range(2)]
        [[0, 1, 0, 1], [0, 1, 0, 1]]
    """
    rows_of = [np.flatnonzero(labels == one) for one in np.unique(labels)]
    streams = [training.shuffled({"row": rows}, 1, seed + i) for i, rows in enumerate(rows_of)]
    places = np.arange(batch_size)
    training.shuffled({"place": places}, batch_size, seed, share)  # which refuses a share that does not fit
    part, parts = share
    mine = places[part * batch_size // parts : (part + 1) * batch_size // parts]

    def batch(step: int) -> dict[str, np.ndarray]:
        turns = [divmod(int(place), len(streams)) for place in mine + step * batch_size]
        rows = np.array([streams[of](turn)["row"][0] for turn, of in turns])
        return {name: array[rows] for name, array in arrays.items()}

    return batch
