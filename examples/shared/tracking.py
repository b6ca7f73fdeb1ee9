"""What a run tells TensorBoard and Weights & Biases, besides the files in its directory."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optimiz import diagnostics, training

Tracker = training.TensorBoard | training.WeightsAndBiases
_log = logging.getLogger(__name__)


def _tensorboard(output: Path, name: str, config: Mapping[str, Any]) -> Tracker:
    return training.TensorBoard(output / "tensorboard" / name)


def _wandb(output: Path, name: str, config: Mapping[str, Any]) -> Tracker:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('wandb is not installed: pip install "optimiz-jax[wandb]"') from error
    kept = output / "wandb" / f"{name}.id"  # so that a resumed run goes on in the same place
    kept.parent.mkdir(parents=True, exist_ok=True)
    before = kept.read_text().strip() if kept.exists() else None
    try:
        run = wandb.init(
            project="optimiz", name=name, dir=output, config=dict(config), id=before, resume="allow"
        )
    except Exception as error:  # no network, no login, and whatever else
        raise ValueError(f"wandb cannot begin: {' '.join(str(error).split())}") from error
    kept.write_text(run.id)
    return training.WeightsAndBiases(run)


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


@contextlib.contextmanager
def tracked(
    names: Sequence[str],
    output: Path,
    name: str,
    config: Mapping[str, Any],
    show: Callable[[training.Progress], object],
) -> Iterator[Callable[[training.Progress], None]]:
    """Tell trackers what a run reports, and what is found about its health.

    Args:
        names: keys of ``TRACKERS``.
        output: directory of several runs, for what the trackers keep.
        name: name of the run.
        config: what decides the run, for its description.
        show: function that is called first.

    Yields:
        The ``progress`` callback of ``training.fit``. A tracker that fails is told nothing more.

    Raises:
        ModuleNotFoundError: a tracker is not installed.
        ValueError: a tracker cannot begin.
    """
    trackers = [TRACKERS[tracker](output, name, config) for tracker in names if training.is_first()]
    working, watch = [*trackers], diagnostics.Watch()

    def without_it(tracker: Tracker, error: Exception) -> None:
        _log.warning("%s goes on without %s, which raised %r", name, type(tracker).__name__, error)

    def tell(progress: training.Progress) -> None:
        show(progress)
        findings = [str(finding) for finding in watch(progress.rows, progress.share)] if working else []
        for tracker in [*working]:
            try:
                tracker(progress)
                for finding in findings:
                    tracker.note(progress.steps, finding)
            except Exception as error:  # the run matters more
                without_it(tracker, error)
                working.remove(tracker)

    try:
        yield tell
    finally:
        for tracker in trackers:
            try:
                tracker.close()
            except Exception as error:  # a trained model must not be lost for it
                without_it(tracker, error)
