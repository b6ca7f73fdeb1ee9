"""Batches from arrays in memory: shuffled for training, padded for evaluation.

Training uses an endless stream: one permutation of the examples after another, cut into batches regardless of
where a permutation ends, so that no example is dropped and every batch is full. The batch of a step is
computed, not reached by iterating: a run resumed at step 10,000 starts as fast as one at step 0.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from optimiz.training.task import WEIGHT


def shuffled(
    arrays: Mapping[str, np.ndarray], batch_size: int, seed: int, share: tuple[int, int] = (0, 1)
) -> Callable[[int], dict[str, np.ndarray]]:
    """Make an endless shuffled stream with random access.

    Args:
        arrays: name → array [N, …], N ≥ 1 examples.
        batch_size: number of examples in a batch, ≥ 1; it may exceed N.
        seed: seed of the permutations, ≥ 0; every epoch has its own permutation.
        share: (i, n) for the i-th of n equal parts of every batch; in a run of several processes, each process
            reads its ``Layout.share``.

    Returns:
        A pure function of the step, ≥ 0, that returns arrays [batch_size / n, …].

    Raises:
        ValueError: there are no arrays or no examples, lengths differ, or a number is outside its range.

    Example:
        >>> batch = shuffled({"x": np.arange(3)}, batch_size=2, seed=0)
        >>> sorted(int(i) for step in range(3) for i in batch(step)["x"])  # two epochs
        [0, 0, 1, 1, 2, 2]
    """
    arrays, examples = checked(arrays, batch_size)
    part = share_of_batch(batch_size, seed, share)

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return permuted(examples, seed, epoch)

    def batch(step: int) -> dict[str, np.ndarray]:
        epochs, offsets = np.divmod(np.arange(part.start, part.stop) + step * batch_size, examples)
        rows = np.concatenate(
            [permutation(int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
        )
        return {name: array[rows] for name, array in arrays.items()}

    return batch


def padded(arrays: Mapping[str, np.ndarray], batch_size: int) -> list[dict[str, np.ndarray]]:
    """Cut all examples, in order, into batches of the same shape.

    The last batch is padded with copies of its last example at weight 0 rather than with zeros, so that what
    the model computes on padding is as finite as on that example.

    Args:
        arrays: name → array [N, …], N ≥ 1 examples; an entry ``"weight"`` is kept.
        batch_size: number of examples in a batch, ≥ 1.

    Returns:
        Batches of arrays [batch_size, …], each with a ``"weight"`` [batch_size].

    Raises:
        ValueError: there are no arrays or no examples, lengths differ, or ``batch_size`` < 1.

    Example:
        >>> [batch["weight"].tolist() for batch in padded({"x": np.arange(3)}, batch_size=2)]
        [[1.0, 1.0], [1.0, 0.0]]
    """
    arrays, examples = checked(arrays, batch_size)
    weight = arrays.get(WEIGHT, np.ones(examples, np.float32))
    batches = []
    for start in range(0, examples, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), examples - 1)
        real = np.arange(start, start + batch_size) < examples
        batch = {name: array[rows] for name, array in arrays.items()}
        batches.append(batch | {WEIGHT: np.where(real, weight[rows], 0).astype(weight.dtype)})
    return batches


def permuted(count: int, *seeds: int) -> np.ndarray:
    """A permutation of the numbers below a count, the same on every machine.

    Args:
        count: the count, ≥ 1.
        *seeds: what decides the permutation, numbers ≥ 0.
    """
    # Across versions NumPy guarantees the raw bits of a bit generator, but not Generator.permutation:
    # sorting raw bits keeps a resumed run on the same data.
    bits = np.random.Philox(np.random.SeedSequence(seeds)).random_raw(count)
    return np.argsort(bits, kind="stable")


def share_of_batch(batch_size: int, seed: int, share: tuple[int, int]) -> slice:
    """Which examples of every batch a process reads.

    Args:
        batch_size: number of examples in a batch, ≥ 1.
        seed: seed of the permutations, which is checked.
        share: (i, n) for the i-th of n equal parts.

    Raises:
        ValueError: the seed is negative, or there is no such part.
    """
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    part, parts = share
    if not 0 <= part < parts or batch_size % parts:
        raise ValueError(f"share must be (i, n) with i < n and n a divisor of {batch_size}, got {share}")
    return slice(part * batch_size // parts, (part + 1) * batch_size // parts)


def checked(arrays: Mapping[str, np.ndarray], batch_size: int) -> tuple[dict[str, np.ndarray], int]:
    """The arrays, and their number of examples.

    Raises:
        ValueError: there are no arrays or no examples, lengths differ, or ``batch_size`` < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if not arrays:
        raise ValueError("arrays must hold at least one array, got none")
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays must have the same length, got {lengths}")
    examples = next(iter(lengths.values()))
    if examples == 0:
        raise ValueError(f"arrays must hold at least one example, got none in {list(arrays)}")
    return arrays, examples
