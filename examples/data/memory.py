"""A limit on the memory that data may take: data that would unpack to more are refused before they are read."""

import contextlib
import os
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")  # of a container
_UNKNOWN = 8 * 2**30  # bytes, where the system does not say


def limit() -> int:
    """A quarter of the bytes that this process may have, as data are held twice while they are assembled."""
    known = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ImportError, OSError):
        import resource  # here, because Windows does not have it

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        known += [] if soft == resource.RLIM_INFINITY else [soft]
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        known.append(int(_CONTROL_GROUP.read_text(encoding="ascii")))
    return min(known, default=_UNKNOWN) // 4


def check(size: int, what: str) -> None:
    """Refuse data that would take too much memory.

    Args:
        size: size of the data in bytes.
        what: name of the data, for the message.

    Raises:
        ValueError: the size is above :func:`limit`.
    """
    if size > limit():
        raise ValueError(
            f"{what} would take {size / 2**30:,.1f} GiB of memory; the limit is {limit() / 2**30:,.1f}"
        )
