"""Metrics of a run in TensorBoard, or in Weights & Biases, next to ``metrics.jsonl``.

Both are functions for ``fit(progress=)``. A metric of an update, such as the loss, the gradient norm, the
learning rate or what a probe measures, is ``train/<name>``; one of an evaluation is ``evaluation/<name>``. The
horizontal axis is the number of updates.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optimiz import checks
from optimiz.training.result import Progress


class TensorBoard:
    """Writes metrics as TensorBoard's event files.

    What earlier sessions of a resumed run have written is replaced.

    Args:
        directory: directory of the event files, such as that of the run.

    Raises:
        ModuleNotFoundError: tensorboardX is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        checks.installed("training.TensorBoard", "tensorboard", "tensorboardX")
        import tensorboardX  # imported here, because nothing else needs it

        self._writer = tensorboardX.SummaryWriter(os.fspath(directory), purge_step=0)

    def __call__(self, progress: Progress) -> None:
        """Write what is new."""
        for steps, scalars in by_steps(progress.rows):
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, steps)
        self._writer.flush()

    def note(self, steps: int, text: str) -> None:
        """Write a remark on the run, such as a finding of ``diagnostics.Watch``.

        Args:
            steps: number of updates before it.
            text: the remark.
        """
        self._writer.add_text("notes", text, steps)

    def close(self) -> None:
        """Write what is left, and close the files."""
        self._writer.close()


class WeightsAndBiases:
    """Logs metrics to a run of Weights & Biases.

    If that run was resumed, too (``wandb.init(id=..., resume="allow")``), what it holds is not logged again.

    Args:
        run: what ``wandb.init`` returns.

    Raises:
        TypeError: ``run`` is no such run.
    """

    def __init__(self, run: Any):
        if not callable(getattr(run, "log", None)) or not hasattr(run, "step"):
            raise TypeError(f"run must be what wandb.init() returns, got {type(run).__name__}")
        self._run, self._held = run, run.step

    def __call__(self, progress: Progress) -> None:
        """Log what is new."""
        for steps, scalars in by_steps(progress.rows):
            if steps >= self._held:
                self._run.log(scalars, step=steps)

    def note(self, steps: int, text: str) -> None:
        """Send a remark on the run as an alert.

        Args:
            steps: number of updates before it.
            text: the remark.
        """
        self._run.alert(title=f"after {steps} updates", text=text)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def by_steps(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    """Group the metrics of rows by the number of updates.

    Args:
        rows: rows of ``metrics.jsonl``, in their order.

    Yields:
        The number of updates, and the metrics after them. The items of a list are numbered, those of a mapping
        named.

    Example:
        >>> row = {"step": 0, "loss": 2.0, "share": [0.1, 0.9], "noise": {"trace": 4.0}}
        >>> (scalars,) = dict(by_steps([row, {"steps": 1, "evaluation": {"loss": 1.5}}])).values()
        >>> list(scalars)
        ['train/loss', 'train/share/0', 'train/share/1', 'train/noise/trace', 'evaluation/loss']
    """
    grouped: dict[int, dict[str, float]] = {}
    for row in rows:
        is_update = "step" in row
        steps = row["step"] + 1 if is_update else row["steps"]
        metrics = {k: v for k, v in row.items() if k != "step"} if is_update else row["evaluation"]
        kind = "train" if is_update else "evaluation"
        for name, value in metrics.items():
            grouped.setdefault(steps, {}).update(_scalars(f"{kind}/{name}", value))
    yield from grouped.items()


def _scalars(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, list | Mapping):
        for i, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _scalars(f"{name}/{i}", item)
    else:
        yield name, value
