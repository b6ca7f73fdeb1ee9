"""Processes find each other before they are joined, so that what is wrong is said in one line, and soon.

``jax.distributed`` waits for five minutes and then aborts the process, with a trace. So the processes meet here
first, through a plain socket on the coordinator's port: the first listens, the others come and say which they
are, of how many; it tells all whether each came once, and lets go of the port, on which JAX listens then.
"""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

import jax

from optimiz.training.errors import RunError

_GREETING, _MOST_BYTES = "optimiz", 4096
_AGAIN, _PATIENCE = 0.2, 5.0  # seconds until the next try, and for one line

_Told = Mapping[str, Any]


def address(coordinator: str) -> tuple[str, int]:
    """The host and the port of an address such as ``"10.0.0.1:1234"`` or ``"[::1]:1234"``.

    Raises:
        ValueError: it is not of that form.

    Example:
        >>> address("[::1]:1234")
        ('::1', 1234)
    """
    found = re.fullmatch(r"\[([\w:.%]+)\]:([0-9]{1,5})|([^\s:\[\]]+):([0-9]{1,5})", coordinator)
    host, port = [part for part in found.groups() if part is not None] if found else ("", "0")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f'coordinator must be "host:port", with a port in [1, 65535], got {coordinator!r}')
    return host, int(port)


def meet(coordinator: str, processes: int, index: int, seconds: float) -> None:
    """Return once all processes are there, each once.

    Args:
        coordinator: address and port of the first.
        processes: how many there are.
        index: of this one.
        seconds: to wait for the others at the most.

    Raises:
        ValueError: the address is none.
        RunError: they do not come in time; the port is in use; or two differ in what they were told.
    """
    host, port = address(coordinator)
    deadline = time.monotonic() + seconds
    told = {"processes": processes, "index": index, "jax": jax.__version__}
    if index == 0:
        _receive(port, told, deadline, seconds)
    else:
        _come(host, port, told, deadline, seconds)


def _receive(port: int, told: _Told, deadline: float, seconds: float) -> None:
    """As the first: wait for the others, and tell each what has come of it."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as open_sockets:
        server = open_sockets.enter_context(_listening(port))
        wrong = None
        while wrong is None and len(came) < told["processes"] - 1:
            server.settimeout(_left(deadline))
            try:
                guest = open_sockets.enter_context(server.accept()[0])
            except TimeoutError:
                missing = _named(set(range(1, told["processes"])) - came.keys())
                wrong = (
                    f"of {told['processes']} processes {missing} did not come to process 0, at port {port}, "
                    f"within {seconds:.0f} s"
                )
                break
            said = _heard(guest, min(deadline, time.monotonic() + _PATIENCE))
            if not isinstance(said, dict):  # none of ours: whoever looks which ports are open
                guest.close()
                continue
            wrong = _what_differs(told, said, came)
            came.setdefault(said["index"], guest)
            if came[said["index"]] is not guest:
                _say(guest, wrong)
        for guest in came.values():
            _say(guest, wrong or "")
        for guest in came.values():
            _heard(guest, time.monotonic() + 1)  # they close first, so that the port is free at once
    if wrong is not None:
        raise RunError(wrong)


def _come(host: str, port: int, told: _Told, deadline: float, seconds: float) -> None:
    """As another: go to the first, and hear what has come of it."""
    while True:
        try:
            with socket.create_connection((host, port), timeout=_left(deadline)) as first:
                _say(first, told)
                answer = _heard(first, deadline + _PATIENCE)  # it may wait until then itself
            if isinstance(answer, str):
                break
            reason = "whoever listens there is not process 0, or is joined already"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() + _AGAIN > deadline:
            raise RunError(
                f"process {told['index']} found no process 0 at {host}:{port} within {seconds:.0f} s: {reason}"
            )
        time.sleep(_AGAIN)
    if answer:
        raise RunError(answer)


def _listening(port: int) -> socket.socket:
    """A socket that listens on all addresses of this machine."""
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # IPv6 may be off; a port that is taken is so below
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunError(f"process 0 cannot listen on port {port}: {reason}") from error


def _what_differs(told: _Told, said: _Told, came: Mapping[int, Any]) -> str | None:
    for name in ("processes", "jax"):
        if said[name] != told[name]:
            return (
                f"process {said['index']} was started with {name}={said[name]}, process 0 with "
                f"{name}={told[name]}: all need the same"
            )
    if said["index"] in came or said["index"] == 0:
        return f"two processes were started with index {said['index']}"
    return None


def _say(to: socket.socket, what: Any) -> None:
    with contextlib.suppress(OSError):  # it has gone; who waits for it finds out
        to.sendall(json.dumps({_GREETING: what}).encode() + b"\n")


def _heard(of: socket.socket, deadline: float) -> Any:
    """What is said, one line of it; None where it is nothing that these processes say."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _MOST_BYTES:
            of.settimeout(_left(deadline))
            part = of.recv(_MOST_BYTES)
            if not part:
                return None
            line += part
        said = json.loads(line)[_GREETING]
        if isinstance(said, dict):
            said = {name: said[name] for name in ("processes", "index", "jax")}
        return said
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1e-3)


def _named(indices: set[int]) -> str:
    listed = ", ".join(map(str, sorted(indices)[:8]))
    return listed + (" …" if len(indices) > 8 else "")
