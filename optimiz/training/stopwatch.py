"""The seconds that a run spends on its updates, without what it does beside them."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Stopwatch:
    """Runs from ``start`` on, and stands still while paused.

    Args:
        seconds: that it showed at the last lap; those of earlier sessions to begin with.
    """

    seconds: float = 0.0
    _since: float = 0.0

    def start(self) -> None:
        """Begin a lap."""
        self._since = time.perf_counter()

    def lap(self) -> float:
        """End a lap: its seconds, which ``seconds`` then includes."""
        taken = time.perf_counter() - self._since
        self.seconds += taken
        return taken

    @contextlib.contextmanager
    def paused(self) -> Iterator["Pause"]:
        """Stand still while the body runs.

        Yields:
            The pause, which says afterwards how long it was.
        """
        started, pause = time.perf_counter(), Pause()
        yield pause
        pause.seconds = time.perf_counter() - started
        self._since += pause.seconds


@dataclasses.dataclass
class Pause:
    """How long a stopwatch stood still."""

    seconds: float = 0.0
