"""Programs of `examples` that a benchmark runs as a user does, by their commands."""

import subprocess
import sys
from collections.abc import Sequence

from examples.shared import signals


def run(name: str, argv: Sequence[str]) -> None:
    """Run a program to its end.

    Args:
        name: name of what is measured, for the message.
        argv: module of the program and its arguments.

    Raises:
        ValueError: the program failed; the message gives its last line.
    """
    done = signals.run([sys.executable, "-m", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        message = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        raise ValueError(f"{name}: {message[-1]}")
