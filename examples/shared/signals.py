"""SIGTERM, SIGHUP or Ctrl-C outside of a run ends a program at once, with one line and a known exit code.

Within ``training.fit`` the first signal waits until the run is saved, and a second ends the process as here.
Only the standard library is needed, so that this holds while JAX is still being imported. A signal that the
program was started to ignore, as under ``nohup``, stays ignored.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

EXIT_PREEMPTED, EXIT_INTERRUPTED = 75, 130  # the first is ``training.EXIT_PREEMPTED``

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
_children: set[subprocess.Popen[str]] = set()


def exit_at_once() -> None:
    """From now on, exit at once on a signal."""
    if signal.getsignal(signal.SIGTERM) is _exit:
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # see replace_process


def replace_process(*arguments: str) -> NoReturn:
    """Replace this process by another program of ``examples``, which then receives the signals to the process.

    Args:
        *arguments: arguments of Python, such as ``"-m", "examples.finetune_text"``.
    """
    command = [sys.executable, *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "posix":  # elsewhere, it would become a child that nobody waits for
        sys.exit(run(command).returncode)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until that program handles them
    os.execv(command[0], command)


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a child process to its end, like ``subprocess.run``; a signal to this process also ends the child.

    Args:
        command: the child's command line.
        **options: options of ``subprocess.Popen``.
    """
    # In its own process group, so that Ctrl-C reaches it only once, through this process.
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as child:
        _children.add(child)
        try:
            output = child.communicate()
        finally:
            _children.discard(child)
    return subprocess.CompletedProcess(command, child.returncode, *output)


def _exit(number: int, frame: object) -> None:
    for child in _children:
        with contextlib.suppress(ProcessLookupError):
            child.terminate() if os.name != "posix" else os.killpg(child.pid, signal.SIGTERM)
    interrupted = number == signal.SIGINT
    reason = "interrupted" if interrupted else f"preempted ({signal.Signals(number).name})"
    with contextlib.suppress(RuntimeError):  # the signal came during a write
        sys.stdout.flush()
    with contextlib.suppress(OSError):  # the reader is gone
        if os.isatty(1):
            os.write(1, b"\x1b[?25h\n")  # the cursor, which a bar hides
        message = f"{reason}: the same command continues from what is saved, with --resume if it has that flag"
        os.write(2, f"{message}\n".encode())
    # An exception could be lost in a callback, and a thread could delay the exit.
    os._exit(EXIT_INTERRUPTED if interrupted else EXIT_PREEMPTED)
