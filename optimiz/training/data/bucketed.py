"""Batches of examples of similar lengths, in a few shapes, so that little of them is padding.

Every epoch is a permutation of the examples, divided into batches: those of the shortest bucket first, and what
does not fill its last batch goes on into the next bucket. The last batch of the longest one is filled up with
examples of weight 0. Then the order of the batches is shuffled.
"""

import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from optimiz.training.data.batches import checked, permuted, share_of_batch
from optimiz.training.task import WEIGHT

_ORDER = 1  # beside the seed and the epoch: of the order of batches


class Bucketed:
    """Batches of examples of similar lengths as a function of the step, for ``Task(batches=)``.

    ``fit`` compiles one step for each bound that occurs. The batch of a step is computed, not reached by
    iterating. An epoch is ``steps_per_epoch`` batches, and has every example once.

    Args:
        arrays: name → array [N, …], N ≥ 1 examples, the sequences among them padded on the right to at least
            the last bound.
        lengths: number of tokens of each example, [N].
        bounds: lengths of the batches, ascending; the last is at least the largest of ``lengths``.
        batch_size: number of examples in a batch, ≥ 1.
        seed: seed of the permutations, ≥ 0; every epoch has its own.
        share: (i, n) for the i-th of n equal parts of every batch, see ``Layout.share``.
        sequences: names of the arrays that are cut to the bound of a batch, along their second axis.

    Raises:
        ValueError: an argument is outside its domain, or the arrays do not fit it.

    Example:
        >>> ids = np.array([[7, 0, 0, 0], [1, 2, 3, 4], [8, 9, 0, 0]])
        >>> batches = Bucketed({"ids": ids}, [1, 4, 2], [2, 4], batch_size=2, seed=0, sequences=["ids"])
        >>> sorted(batches(step)["ids"].shape for step in range(batches.steps_per_epoch))
        [(2, 2), (2, 4)]
        >>> batches.padding  # the batch of length 4 has one example
        0.125
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        lengths: Sequence[int] | np.ndarray,
        bounds: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        sequences: Collection[str],
    ):
        lengths = np.asarray(lengths)
        self._arrays, examples = checked(arrays, batch_size)
        self._part = share_of_batch(batch_size, seed, share)
        self._bounds, self._batch_size, self._seed = list(bounds), batch_size, seed
        self._sequences = frozenset(sequences)
        if lengths.shape != (examples,):
            raise ValueError(f"lengths must be one number for each of {examples} examples, got {lengths.shape}")
        if not self._bounds or sorted({*self._bounds}) != self._bounds or self._bounds[0] < 1:
            raise ValueError(f"bounds must be lengths of at least 1 that ascend, got {self._bounds}")
        if lengths.max() > self._bounds[-1]:
            raise ValueError(f"bounds must reach the longest example, {lengths.max()}, got {self._bounds}")
        for name in self._sequences:
            shape = self._arrays[name].shape if name in self._arrays else None
            if shape is None or len(shape) < 2 or shape[1] < self._bounds[-1]:
                raise ValueError(
                    f"sequences must name arrays [N, T, …] with T ≥ {self._bounds[-1]}, got {name!r}"
                    f"{'' if shape is None else f' of shape {list(shape)}'}"
                )
        self._bucket = np.searchsorted(self._bounds, lengths)
        self._lengths = lengths
        self._of_batch = self._bounds_of_batches()
        self._epoch = functools.lru_cache(maxsize=2)(self._divided)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches that have every example once."""
        return len(self._of_batch)

    @property
    def bounds(self) -> list[int]:
        """The lengths of the batches, which are those bounds that occur, ascending."""
        return sorted({*self._of_batch})

    @property
    def padding(self) -> float:
        """The share of padding in the tokens of an epoch, without examples of weight 0."""
        size, total = self._batch_size, 0
        left = len(self._lengths)
        for bound in self._of_batch:  # only the last batch is not full
            total += bound * min(size, left)
            left -= size
        return 1 - int(self._lengths.sum()) / total

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step, arrays [batch_size / n, …] with a ``"weight"``."""
        epoch, place = divmod(step, self.steps_per_epoch)
        batches, order = self._epoch(epoch)
        return self._batch(batches, int(order[place]))

    def one_of_each(self) -> list[dict[str, np.ndarray]]:
        """A batch of each length, ascending."""
        batches, _ = self._epoch(0)
        return [self._batch(batches, self._of_batch.index(bound)) for bound in self.bounds]

    def _batch(self, batches: list[np.ndarray], number: int) -> dict[str, np.ndarray]:
        rows, bound = batches[number], self._of_batch[number]
        weight = np.ones(self._batch_size, np.float32)
        weight[len(rows) :] = 0
        rows = np.concatenate([rows, np.repeat(rows[-1:], self._batch_size - len(rows))])[self._part]
        found = {
            name: array[rows, :bound] if name in self._sequences else array[rows]
            for name, array in self._arrays.items()
        }
        weight = weight[self._part] * found.get(WEIGHT, np.float32(1))
        return found | {WEIGHT: weight.astype(np.float32)}

    def _bounds_of_batches(self) -> list[int]:
        """The bound of every batch of an epoch, before their order is shuffled: the same in every epoch."""
        found, left = [], 0
        for bound, count in zip(
            self._bounds, np.bincount(self._bucket, minlength=len(self._bounds)), strict=True
        ):
            full, left = divmod(left + int(count), self._batch_size)
            found += [bound] * full
        if left:
            # The longest of what is left may be shorter than the last bound.
            found.append(self._bounds[int(self._bucket.max())])
        return found

    def _divided(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The rows of every batch of an epoch, and the order of the batches."""
        rows = permuted(len(self._lengths), self._seed, epoch)
        size, batches, left = self._batch_size, [], rows[:0]
        for bucket in range(len(self._bounds)):
            pool = np.concatenate([left, rows[self._bucket[rows] == bucket]])
            full = len(pool) // size * size
            batches += np.split(pool[:full], full // size) if full else []
            left = pool[full:]
        batches += [left] if len(left) else []
        return batches, permuted(len(batches), self._seed, epoch, _ORDER)
