"""Several processes, on one machine or many, as one run.

They run the same program, meet before the first array is made, and share the directory of the run. The first
writes it: metrics, timings, manifest and log once; of a checkpoint's arrays each process writes what it holds.
What one process finds and all must know, such as the checkpoint to go on with, is found by the first and told
to the others; what each brings along, such as its settings, is compared before they begin.

A process that dies takes the others with it: the next time they need it they find its connection closed, or its
heart no longer beating, and end with an exit code that is not 0. The run is resumed from its newest checkpoint.

On CPU give each process one device: several of one process, which begin steps ahead of each other, have been
seen to wait for one another for ever.
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
    """Join the processes of a run; the first thing that a program does with JAX.

    Args:
        coordinator: address and port of the first process, such as ``"10.0.0.1:1234"``; None, as the two below,
            for what the environment of a cluster that JAX knows says (Slurm, Open MPI, Kubernetes, Cloud TPU).
        processes: how many there are, ≥ 1.
        index: of this one, from 0.
        seconds: to wait for the others at the most.

    Raises:
        ValueError: some of the arguments are given and not all, the index is not below their number, or the
            coordinator is no address with a port.
        RunError: the processes do not find each other in time, or two were told otherwise; or the environment
            says nothing of them.
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
        # JAX holds SIGTERM up for a service of its own, which nothing here asks.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def from_first(find: Callable[[], Any]) -> Any:
    """What the first process finds, on every process.

    Args:
        find: called on the first process alone; it returns plain JSON.

    Raises:
        RunError: the one that was raised on the first process, on every process.
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
    """Compare what the processes bring along.

    Args:
        value: of this process, plain JSON.

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


def any_process(flag: bool) -> bool:
    """Whether it holds on any process: the same answer on all."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def _from_first_process(text: str) -> str:
    """The text that the first process has."""
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.array(len(data))))
    data = data if is_first() else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(data)).astype(np.uint8).tobytes().decode()
