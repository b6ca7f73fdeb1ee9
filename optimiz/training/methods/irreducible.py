"""Irreducible losses: the loss of a model trained on held-out data on each training example, by example id.

They are computed once, with a model that has not seen the examples, and stored in a file; that work is not
charged. :meth:`IrreducibleLosses.joined` adds them to the batches, from which ``RhoLoss`` reads them.

The file is NumPy's ``.npz``: ``ids`` int64 [N], ``losses`` float32 [N], and ``about``, JSON that describes the
model.

Source: arXiv 2206.07137 (Mindermann et al.).
"""

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from optimiz.training.methods.selection import IRREDUCIBLE
from optimiz.training.storage.whole_file import write_whole
from optimiz.training.task import WEIGHT, Batch

ID = "id"
"""The name of the batch entry with the ids of the examples."""


@dataclasses.dataclass(frozen=True)
class IrreducibleLosses:
    """Losses by example id.

    Args:
        ids: unique integers [N].
        losses: finite losses [N].
        about: description of the model that computed them, such as its data and steps; plain JSON.

    Raises:
        ValueError: a shape differs from [N], an id occurs twice, or a loss is not finite.

    Example:
        >>> table = IrreducibleLosses(ids=np.array([7, 3]), losses=np.array([0.5, 0.25]), about={})
        >>> table.of(np.array([3, 7, 3])).tolist()
        [0.25, 0.5, 0.25]
    """

    ids: np.ndarray
    losses: np.ndarray
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        ids, losses = np.asarray(self.ids), np.asarray(self.losses)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or losses.shape != ids.shape:
            raise ValueError(
                f"ids must be integers [N] and losses [N], got {ids.dtype}{list(ids.shape)} and "
                f"{losses.dtype}{list(losses.shape)}"
            )
        order = np.argsort(ids, kind="stable")
        ids, losses = ids[order].astype(np.int64), losses[order].astype(np.float32)
        for problem, found in (
            ("twice", ids[1:][ids[1:] == ids[:-1]]),
            ("with a loss that is not finite", ids[~np.isfinite(losses)]),
        ):
            if found.size:
                raise ValueError(f"ids must each have one finite loss; {_some(found)} is there {problem}")
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "losses", losses)

    @classmethod
    def measure(
        cls,
        loss: Callable[[Any, Any, None], jax.Array],
        params: Any,
        batches: Iterable[Batch],
        about: Mapping[str, Any],
    ) -> "IrreducibleLosses":
        """Compute the losses of a model.

        Args:
            loss: the loss of the task; it is called in evaluation mode.
            params: the parameters of the model trained on held-out data.
            batches: every training example once, with its ``"id"``; an example of weight 0 is padding.
            about: description of the model; plain JSON.

        Raises:
            ValueError: a batch has no ids, or as for the constructor.
        """
        compute = jax.jit(lambda params, batch: loss(params, batch, None))
        ids, losses = [], []
        for batch in batches:
            real = batch[WEIGHT] != 0 if WEIGHT in batch else np.ones(len(_ids(batch)), bool)
            ids.append(_ids(batch)[real])
            losses.append(np.asarray(compute(params, jax.device_put(dict(batch))))[real])
        return cls(np.concatenate(ids), np.concatenate(losses), about)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The losses of examples, float32, in the order of the ids.

        Raises:
            ValueError: some examples have no loss; the message names the first of them.
        """
        places = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        lacking = np.asarray(ids)[self.ids[places] != ids] if len(self.ids) else np.asarray(ids)
        if lacking.size:
            raise ValueError(f"there are no irreducible losses for the examples {_some(lacking)}")
        return self.losses[places]

    def joined(self, batches: Callable[[int], Batch]) -> Callable[[int], dict[str, np.ndarray]]:
        """Add an entry ``"irreducible"`` to each batch of a stream, looked up by its ``"id"``.

        Args:
            batches: step → batch, as in a task.

        Returns:
            The stream, which raises a ValueError for a batch without ids, or with an id that has no loss. An
            example of weight 0 needs no loss.
        """

        def joined(step: int) -> dict[str, np.ndarray]:
            batch = batches(step)
            losses, ids = np.zeros(len(_ids(batch)), np.float32), _ids(batch)
            real = np.asarray(batch[WEIGHT]) != 0 if WEIGHT in batch else np.ones(ids.shape, bool)
            losses[real] = self.of(ids[real])
            return {**batch, IRREDUCIBLE: losses}

        return joined

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the losses; an existing file is replaced only once the new one is complete."""
        file = io.BytesIO()
        np.savez(file, ids=self.ids, losses=self.losses, about=json.dumps(self.about, allow_nan=False))
        write_whole(path, file.getvalue())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "IrreducibleLosses":
        """Read losses back.

        Raises:
            ValueError: the file does not exist, is truncated, or does not hold irreducible losses.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["ids"], arrays["losses"], json.loads(arrays["about"].item()))
        except FileNotFoundError:
            raise ValueError(
                f"there are no irreducible losses at {path}: IrreducibleLosses.measure computes them, with a "
                "model trained on held-out data"
            ) from None
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} does not hold irreducible losses: {error}") from None


def _ids(batch: Batch) -> np.ndarray:
    if ID not in batch:
        raise ValueError(
            f"the batches must have an entry {ID!r} with the ids of the examples, got {sorted(batch)}"
        )
    return np.asarray(batch[ID])


def _some(ids: np.ndarray) -> str:
    shown = ", ".join(str(i) for i in ids[:5].tolist())
    return shown + (f" and {ids.size - 5} more" if ids.size > 5 else "")
