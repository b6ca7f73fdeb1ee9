"""How much memory data may take: what unpacks to more is refused before it is read."""

import contextlib
import os
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")  # of a container
_UNKNOWN = 8 * 2**30  # where the system does not say


def limit() -> int:
    """A quarter of the bytes that this process may have: data are there twice while they are put together."""
    known = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ImportError, OSError):
        import resource  # here, because Windows has none

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        known += [] if soft == resource.RLIM_INFINITY else [soft]
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        known.append(int(_CONTROL_GROUP.read_text(encoding="ascii")))
    return min(known, default=_UNKNOWN) // 4


def check(size: int, what: str) -> None:
    """Refuse what would take more memory than there is for it.

    Args:
        size: bytes.
        what: takes them, for the message.

    Raises:
        ValueError: it is above :func:`limit`.
    """
    if size > limit():
        raise ValueError(
            f"{what} would take {size / 2**30:,.1f} GiB of memory, of at most {limit() / 2**30:,.1f}"
        )
