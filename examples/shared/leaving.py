"""A program that is asked to leave outside of a run ends at once, with one line, a known exit code, no trace.

Within ``training.fit`` the first request waits until the run is saved, and a second ends the process as here.
It needs nothing but the standard library, so that it holds while JAX is still being imported. What the program
was started to ignore, as under ``nohup``, it goes on to ignore.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

EXIT_PREEMPTED, EXIT_INTERRUPTED = 75, 130  # the one is ``training.EXIT_PREEMPTED``

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
_children: set[subprocess.Popen[str]] = set()


def at_once() -> None:
    """From now on, leave at once when a signal asks for it."""
    if signal.getsignal(signal.SIGTERM) is _leave:
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # see go_on_as


def go_on_as(*arguments: str) -> NoReturn:
    """Become another program of this folder: what asks this process to leave asks that one, and no other.

    Args:
        *arguments: of Python, such as ``"-m", "examples.finetune_text"``.
    """
    command = [sys.executable, *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "posix":  # elsewhere it would be a child all the same, for which nobody waits
        sys.exit(run(command).returncode)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until that program is ready for them
    os.execv(command[0], command)


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a child to its end, as ``subprocess.run``; asked to leave, this process asks the child too.

    Args:
        command: the child's.
        **options: as of ``subprocess.Popen``.
    """
    # In a group of its own, so that Ctrl-C reaches it once: through this process.
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as child:
        _children.add(child)
        try:
            said = child.communicate()
        finally:
            _children.discard(child)
    return subprocess.CompletedProcess(command, child.returncode, *said)


def _leave(number: int, frame: object) -> None:
    for child in _children:
        with contextlib.suppress(ProcessLookupError):
            child.terminate() if os.name != "posix" else os.killpg(child.pid, signal.SIGTERM)
    interrupted = number == signal.SIGINT
    asked = "interrupted" if interrupted else f"asked to leave ({signal.Signals(number).name})"
    with contextlib.suppress(RuntimeError):  # the signal came within a write
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # whoever watched has gone
        if os.isatty(1):
            os.write(1, b"\x1b[?25h\n")  # the cursor, which a bar hides
        os.write(2, f"{asked}: what was saved of a run goes on with --resume\n".encode())
    # An exception could be lost in a callback, and a thread could hold the end up.
    os._exit(EXIT_INTERRUPTED if interrupted else EXIT_PREEMPTED)
