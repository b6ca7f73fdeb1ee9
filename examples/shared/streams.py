"""Output that cannot be written does not end a program.

Reasons are a reader that is gone, a full disk, a closed stream or an ASCII locale:

    python -m examples.finetune_text --output=runs/topics | head -2

trains to the end. Text that cannot be written is dropped.
"""

import io
import os
import sys


class _Lasting(io.FileIO):
    """A file whose writes do not fail."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def keep() -> None:
    """Let standard output and standard error survive the loss of their reader."""
    if isinstance(getattr(getattr(sys.stdout, "buffer", None), "raw", None), _Lasting):
        return
    # Otherwise the next file to be opened takes the number of a closed stream, and libraries print into it.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, _lasting(number, getattr(sys, name)))


def _lasting(number: int, stream: io.TextIOBase | None) -> io.TextIOWrapper:
    file = _Lasting(number, "w", closefd=False)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968"):
        encoding = "utf-8"  # which contains ASCII
    at_once = number == 2 or file.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=at_once
    )
