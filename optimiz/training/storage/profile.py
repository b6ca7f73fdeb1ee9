"""A trace of some updates for JAX's profiler, in the run's directory."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

PROFILE = "profile"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def profiled(directory: Path, updates: tuple[int, int] | None) -> Iterator[Callable[[int, Any], None]]:
    """Trace some of the updates that are made within the body, and warn if none of them was made.

    Args:
        directory: where the trace is written; with several processes, each writes its own.
        updates: index of the first update, and of the one after the last; None for no trace.

    Yields:
        A function to call before every update, with its index and the arrays of the update before.
    """
    tracing = traced = False

    def about_to_update(index: int, before: Any) -> None:
        nonlocal tracing, traced
        if updates is None or tracing == (updates[0] <= index < updates[1]):
            return
        jax.block_until_ready(before)  # of which nothing, or everything, belongs to the trace
        if tracing:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(str(directory))
            traced = True
        tracing = not tracing

    try:
        yield about_to_update
    finally:
        if tracing:  # the run has ended before
            jax.profiler.stop_trace()
    if updates is not None and not traced:
        message = "%s has no trace: none of the updates from %d to %d was made"
        _log.warning(message, directory, updates[0], updates[1] - 1)
