"""A request to leave (SIGTERM, SIGINT, and SIGHUP where there is one) waits until the run is saved.

The first signal is only noted, and the old handlers are put back at once: a second signal therefore
does what it did before the run, which is to end the process. A signal that the process ignores, such as SIGHUP
under ``nohup`` or SIGINT in the background, stays ignored.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]

EXIT_PREEMPTED = 75
"""Exit code of a run that was asked to leave and saved: EX_TEMPFAIL of sysexits.h, "try again
later"."""


class Preempted(SystemExit):
    """The run was asked to leave, and left saved. Uncaught, it ends the process with code 75."""

    def __init__(self) -> None:
        super().__init__(EXIT_PREEMPTED)


class Request:
    """Whether a signal has come in.

    Attributes:
        received: one that asks to leave.
        was_stopped: whether the process was stopped (SIGSTOP, Ctrl-Z) and has been continued since.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.was_stopped = False

    def honour(self) -> None:
        """Leave, where there is nothing to save, if a signal has come in.

        Raises:
            Preempted: it has.
        """
        if self.received is not None:
            raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Hold SIGTERM, SIGINT and SIGHUP back while the body runs, then honour them.

    Python lets only the main thread handle signals; in any other the body runs as it is.

    Yields:
        The request, to be looked at where the body can stop.

    Raises:
        Preempted: the body came to its end and a signal had come in.
    """
    request = Request()
    handlers = {}

    def restore() -> None:
        for number, handler in handlers.items():
            # None is a handler that was not installed from Python and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: object) -> None:
        request.received = signal.Signals(number)
        restore()

    def note_stop(number: int, frame: object) -> None:
        request.was_stopped = True

    if threading.current_thread() is threading.main_thread():
        if hasattr(signal, "SIGCONT"):
            handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, note_stop)
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
    if request.received is not None:
        raise Preempted
