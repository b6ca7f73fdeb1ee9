"""Batches from a dataset that is read in order, such as one of Grain, which need not fit into memory.

A task's batches are a function of the step, but such a dataset has only a next batch. For the batch of a step
it is read from the last known position before it: within a run from where it is, in a resumed run from the
position that the checkpoint holds, and otherwise from the start.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from optimiz import checks

_KEPT = 1024  # positions of the newest steps: a step beyond a milestone of a budget is drawn again


class Streamed:
    """Batches of a dataset as a function of the step, for ``Task(batches=)``.

    ``fit`` saves the position with every checkpoint, one for each process, and a resumed run goes on from
    there, to the bit. With another number of processes no position applies: all that came before is read again.

    Args:
        dataset: an iterable of batches, dicts of arrays [B, …] of the same shapes. Every iteration yields the
            same batches, and its iterator has ``get_state`` and ``set_state``. Grain's ``IterDataset`` and
            ``DataLoader`` have these; of a ``MapDataset``, use ``to_iter_dataset()``, or, as it has random
            access, ``Task(batches=dataset.__getitem__)``. It should not end: a run that needs more batches is
            refused there. In a run of several processes, each has a dataset of its own part of the batches, see
            ``Layout.share``.

    Raises:
        TypeError: the dataset is an iterator, cannot be iterated over, or its iterator lacks these methods.

    Example:
        >>> import grain
        >>> rows = grain.MapDataset.range(5).map(lambda i: {"x": np.float32(i)})
        >>> batches = Streamed(rows.repeat().to_iter_dataset().batch(2))
        >>> [batches(step)["x"].tolist() for step in (0, 1, 2, 1)]
        [[0.0, 1.0], [2.0, 3.0], [4.0, 0.0], [2.0, 3.0]]
    """

    def __init__(self, dataset: Iterable[Mapping[str, Any]]):
        checks.kinds({"dataset": (dataset, Iterable, "an iterable of batches, such as a grain.IterDataset")})
        if isinstance(dataset, Iterator):
            raise TypeError(f"dataset must start anew when iterated over, got a {type(dataset).__name__}")
        self._dataset = dataset
        self._iterator: Any = None
        self._start()
        lacking = [name for name in ("get_state", "set_state") if not hasattr(self._iterator, name)]
        if lacking:
            raise TypeError(
                f"the iterator of dataset must have get_state and set_state, as those of Grain do; "
                f"{type(self._iterator).__name__} has no {' and no '.join(lacking)}"
            )
        self._positions: dict[int, str] = {}  # of the newest steps, each before its batch is read
        self._last: tuple[int, dict[str, np.ndarray]] | None = None

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step.

        Args:
            step: 0-based index, ≥ 0.

        Raises:
            ValueError: the dataset has ended before.
        """
        if self._last is None or self._last[0] != step:
            self._go_to(step)
            self._last = step, self._read()
        return self._last[1]

    def position(self, step: int) -> str:
        """The position before a step, for :meth:`resume`.

        Args:
            step: the step after the one that was read last, or a recent one.
        """
        if step not in self._positions:
            self._go_to(step)
        return self._positions[step]

    def resume(self, step: int, position: str) -> None:
        """Go on at a step from a position that was saved before it.

        Args:
            step: the step.
            position: what :meth:`position` gave for it.

        Raises:
            ValueError: the dataset refuses the position.
        """
        self._start()
        try:
            self._iterator.set_state(_read_back(position))
        except Exception as error:  # whatever the dataset raises
            raise ValueError(f"the dataset cannot go to its saved position {position!r}: {error}") from error
        self._next, self._last, self._positions = step, None, {step: position}

    def _start(self) -> None:
        if hasattr(self._iterator, "close"):  # its threads and processes end
            self._iterator.close()
        self._iterator, self._next = iter(self._dataset), 0

    def _go_to(self, step: int) -> None:
        known = [before for before in self._positions if before <= step]
        if not self._next <= step or (known and max(known) > self._next):
            self._start()
            if known:
                self._next = max(known)
                self._iterator.set_state(_read_back(self._positions[self._next]))
        while self._next < step:
            self._read()
        self._note()

    def _note(self) -> None:
        """Remember the position before the next batch."""
        self._positions[self._next] = _written(self._iterator.get_state())
        if len(self._positions) > _KEPT:
            del self._positions[min(self._positions)]

    def _read(self) -> dict[str, np.ndarray]:
        try:
            batch = dict(next(self._iterator))
        except StopIteration:
            raise ValueError(
                f"dataset ends after {self._next} batches, but the run needs more: repeat it, as with "
                "repeat(), or train for fewer steps"
            ) from None
        self._next += 1
        return batch


def _written(state: Any) -> str:
    """A position as text: it cannot change with the iterator, and a manifest can hold it."""
    if isinstance(state, bytes):
        state = {"base64": base64.b64encode(state).decode()}
    return json.dumps(state)


def _read_back(position: str) -> Any:
    state = json.loads(position)
    if isinstance(state, dict) and list(state) == ["base64"]:
        return base64.b64decode(state["base64"])
    return state
