"""Preemption: SIGTERM, SIGINT and, where it exists, SIGHUP end a run only after it has been saved.

The first signal is only recorded, and the previous handlers are restored at once: a second signal therefore
does what it did before the run, which is to end the process. A signal that the process ignores, such as SIGHUP
under ``nohup`` or SIGINT in the background, stays ignored.
"""

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]

EXIT_PREEMPTED = 75
"""Exit code of a run that was preempted and saved: EX_TEMPFAIL of sysexits.h, "try again later"."""


class Preempted(SystemExit):
    """The run was preempted, and has been saved. If uncaught, it ends the process with exit code 75."""

    def __init__(self) -> None:
        super().__init__(EXIT_PREEMPTED)


class Request:
    """The signals received.

    Attributes:
        received: the signal that preempts the run; None if there was none.
        was_stopped: whether the process was stopped (SIGSTOP, Ctrl-Z) and has been continued since.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.was_stopped = False

    def honour(self) -> None:
        """Exit if a signal has been received; call it where there is nothing to save.

        Raises:
            Preempted: a signal has been received.
        """
        if self.received is not None:
            raise Preempted


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Hold back SIGTERM, SIGINT and SIGHUP while the body runs, then honour them.

    Python handles signals only in the main thread; in any other the body runs unchanged.

    Yields:
        The request, which the body checks where it can stop.

    Raises:
        Preempted: the body has finished, and a signal had been received.
    """
    request = Request()
    handlers = {}

    def restore(numbers: Iterable[signal.Signals]) -> None:
        for number in numbers:
            # None is a handler that was not installed from Python and cannot be restored from it.
            handler = handlers[number]
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: object) -> None:
        request.received = signal.Signals(number)
        # Not that of SIGCONT, which `timeout` and Slurm send at once with SIGTERM: Python may print an error.
        restore([each for each in handlers if each in _SIGNALS])

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
        restore(handlers)
    if request.received is not None:
        raise Preempted
