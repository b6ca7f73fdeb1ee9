"""Whether a compiled step fits the memory of a device, before any update is made."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax

from optimiz.training.errors import DoesNotFit


def needed(step: jax.stages.Compiled) -> int | None:
    """Bytes on a device of a step's arguments, results and temporaries; None if they are not known."""
    memory: Any = step.memory_analysis()
    if memory is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


def available() -> int | None:
    """Bytes that this process may use on each of its devices; None if that is not known.

    A CPU has the memory of the machine, which its devices share.
    """
    devices = jax.local_devices()
    if statistics := devices[0].memory_stats():
        return statistics.get("bytes_limit")
    if devices[0].platform != "cpu" or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(devices)


def check(step: jax.stages.Compiled) -> dict[str, int]:
    """What a step needs and what a device has, as bytes by name, as far as they are known.

    Raises:
        DoesNotFit: it needs more than there is.
    """
    found = {"peak_bytes": needed(step), "device_bytes": available()}
    known = {name: size for name, size in found.items() if size is not None}
    if len(known) == 2 and known["peak_bytes"] > known["device_bytes"]:
        raise DoesNotFit(known["peak_bytes"], known["device_bytes"])
    return known


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Compile a step in the body; some compilers refuse one that does not fit.

    Raises:
        DoesNotFit: the compiler found too little memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(None, available()) from error
