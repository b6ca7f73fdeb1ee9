"""What is shown is never fatal: not a reader that has gone, a full disk, a closed stream, an ASCII locale.

    python -m examples.finetune_text --output=runs/topics | head -2

trains to the end. What cannot be written is dropped.
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
    """Let standard output and standard error outlast whoever reads them."""
    if isinstance(getattr(getattr(sys.stdout, "buffer", None), "raw", None), _Lasting):
        return
    # Else the next file to be opened takes the number of one that is closed, and libraries print into it.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, _lasting(number, getattr(sys, name)))


def _lasting(number: int, stream: io.TextIOBase | None) -> io.TextIOWrapper:
    file = _Lasting(number, "w", closefd=False)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968"):
        encoding = "utf-8"  # which holds ASCII; nothing else could be shown
    at_once = number == 2 or file.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=at_once
    )
