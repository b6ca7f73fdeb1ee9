"""Several processes, on one machine or many, as one run.

The processes execute the same program, join before the first array is created, and share the run's directory.
The first process writes metrics, timings, manifest and log; each process writes its own parts of a checkpoint's
arrays. Decisions that all must share, such as which checkpoint to resume, are made by the first process and
broadcast; what every process has, such as its settings, is compared before the run starts.

If a process dies, so do the others: the next time they need it, its connection is closed or its heartbeat has
stopped, and they exit with a nonzero code. The run can be resumed from its newest checkpoint.

On CPU, give each process one device: several devices of one process, which start steps ahead of one another,
can deadlock.
"""

import hashlib
import json
import math
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from optimiz import checks
from optimiz.training.distributed import rendezvous
from optimiz.training.errors import RunError

_HEARTBEAT_SECONDS, _SHUTDOWN_SECONDS = 20, 10


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    index: int | None = None,
    *,
    seconds: float = 60.0,
) -> None:
    """Join the processes of a run; call this before anything else that uses JAX.

    Args:
        coordinator: address and port of the first process, such as ``"10.0.0.1:1234"``. None, together with the
            next two arguments, if the environment of a cluster known to JAX provides them (Slurm, Open MPI,
            Kubernetes, Cloud TPU).
        processes: number of processes, ≥ 1.
        index: index of this process, from 0.
        seconds: maximum time to wait for the other processes.

    Raises:
        ValueError: only some of the arguments are given, the index is not below the number of processes, or the
            coordinator is not an address with a port.
        RunError: the processes do not find one another in time, or were started with contradicting arguments;
            or the environment does not describe them.
    """
    given = {"coordinator": coordinator, "processes": processes, "index": index}
    lacking = [name for name, value in given.items() if value is None]
    if lacking and len(lacking) < len(given):
        raise ValueError(f"coordinator, processes and index go together, got no {' and no '.join(lacking)}")
    checks.number("seconds", seconds, gt=0)
    if coordinator is not None and processes is not None and index is not None:
        checks.integer("processes", processes, ge=1)
        checks.integer("index", index, ge=0)
        if index >= processes:
            raise ValueError(f"index must be in [0, {processes - 1}], got {index}")
        rendezvous.meet(coordinator, processes, index, seconds)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            index,
            initialization_timeout=math.ceil(seconds),
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the processes of the run cannot be joined: {error}") from error
    finally:
        # JAX intercepts SIGTERM for a service of its own, which is not used here.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def is_first() -> bool:
    """Whether this is the first process, which writes everything that is written only once."""
    return jax.process_index() == 0


def from_first(find: Callable[[], Any]) -> Any:
    """Call a function on the first process, and return its result on every process.

    Args:
        find: a function that returns plain JSON.

    Raises:
        RunError: the function raised it; it is then raised on every process.
    """
    if jax.process_count() == 1:
        return find()
    found: dict[str, Any] = {}
    if is_first():
        try:
            found["value"] = find()
        except RunError as error:
            found["error"] = str(error)
    found = json.loads(_from_first_process(json.dumps(found)))
    if "error" in found:
        raise RunError(found["error"])
    return found["value"]


def differing(value: Any) -> tuple[list[int], Any]:
    """Compare a value between the processes.

    Args:
        value: the value on this process, plain JSON.

    Returns:
        The indices of the processes whose value differs from that of the first, and the value of the first.
    """
    if jax.process_count() == 1:
        return [], value
    text = json.dumps(value, sort_keys=True)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    indices = np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()
    return indices, (json.loads(_from_first_process(text)) if indices else value)


def from_each(value: Any) -> list[Any]:
    """Collect a value from every process, on every process.

    Args:
        value: the value on this process, plain JSON.

    Returns:
        The values, in the order of the processes.
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, lengths.max() - len(text))))
    rows = zip(texts, lengths, strict=True)
    return [json.loads(row[:length].astype(np.uint8).tobytes()) for row, length in rows]


def any_process(flag: bool) -> bool:
    """Whether a flag is set on any process; the same result on all."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def _from_first_process(text: str) -> str:
    """Broadcast a text from the first process."""
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.array(len(data))))
    data = data if is_first() else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(data)).astype(np.uint8).tobytes().decode()
