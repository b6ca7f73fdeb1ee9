"""Processes find one another before JAX joins them, so that errors are reported early and in one line.

``jax.distributed`` waits for five minutes and then aborts the process with a trace. Therefore the processes
first meet here, over a plain socket on the coordinator's port: the first process listens, the others connect
and send their index and the number of processes. The first then reports to all of them whether each index
connected once, and releases the port, on which JAX listens next.
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
_AGAIN, _PATIENCE = 0.2, 5.0  # seconds until the next attempt, and for one line

_Description = Mapping[str, Any]  # of a process: how many there are, its index, its version of JAX


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
    """Wait until every process has connected, each of them once.

    Args:
        coordinator: address and port of the first process.
        processes: number of processes.
        index: index of this process.
        seconds: maximum time to wait for the others.

    Raises:
        ValueError: the address is malformed.
        RunError: a process does not connect in time, the port is in use, or two processes were started with
            contradicting arguments.
    """
    host, port = address(coordinator)
    deadline = time.monotonic() + seconds
    own = {"processes": processes, "index": index, "jax": jax.__version__}
    if index == 0:
        _wait_for_others(port, own, deadline, seconds)
    else:
        _connect(host, port, own, deadline, seconds)


def _wait_for_others(port: int, own: _Description, deadline: float, seconds: float) -> None:
    """On the first process: wait for the others, and send each the outcome."""
    connected: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as open_sockets:
        server = open_sockets.enter_context(_listening(port))
        wrong = None
        while wrong is None and len(connected) < own["processes"] - 1:
            server.settimeout(_left(deadline))
            try:
                client = open_sockets.enter_context(server.accept()[0])
            except TimeoutError:
                missing = _named(set(range(1, own["processes"])) - connected.keys())
                wrong = (
                    f"of {own['processes']} processes, {missing} did not connect to process 0, at port {port}, "
                    f"within {seconds:.0f} s"
                )
                break
            other = _receive(client, min(deadline, time.monotonic() + _PATIENCE))
            if not isinstance(other, dict):  # not one of these processes, such as a port scanner
                client.close()
                continue
            wrong = _what_differs(own, other, connected)
            connected.setdefault(other["index"], client)
            if connected[other["index"]] is not client:
                _send(client, wrong)
        for client in connected.values():
            _send(client, wrong or "")
        for client in connected.values():
            _receive(client, time.monotonic() + 1)  # they close first, so that the port is free at once
    if wrong is not None:
        raise RunError(wrong)


def _connect(host: str, port: int, own: _Description, deadline: float, seconds: float) -> None:
    """On any other process: connect to the first, and wait for the outcome."""
    while True:
        try:
            with socket.create_connection((host, port), timeout=_left(deadline)) as first:
                _send(first, own)
                answer = _receive(first, deadline + _PATIENCE)  # process 0 may itself wait until then
            if isinstance(answer, str):
                break
            reason = "what listens there is not process 0, or has been joined already"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() + _AGAIN > deadline:
            raise RunError(
                f"process {own['index']} found no process 0 at {host}:{port} within {seconds:.0f} s: {reason}"
            )
        time.sleep(_AGAIN)
    if answer:
        raise RunError(answer)


def _listening(port: int) -> socket.socket:
    """A socket that listens on all addresses of this machine."""
    try:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # IPv6 may be off; a port in use fails below too
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunError(f"process 0 cannot listen on port {port}: {reason}") from error


def _what_differs(own: _Description, other: _Description, connected: Mapping[int, Any]) -> str | None:
    for name in ("processes", "jax"):
        if other[name] != own[name]:
            return (
                f"process {other['index']} was started with {name}={other[name]}, process 0 with "
                f"{name}={own[name]}: they must agree"
            )
    if other["index"] in connected or other["index"] == 0:
        return f"two processes were started with index {other['index']}"
    return None


def _send(to: socket.socket, message: Any) -> None:
    with contextlib.suppress(OSError):  # the other has gone; whoever waits for it will notice
        to.sendall(json.dumps({_GREETING: message}).encode() + b"\n")


def _receive(of: socket.socket, deadline: float) -> Any:
    """Receive one line; None if it does not come from one of these processes."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < _MOST_BYTES:
            of.settimeout(_left(deadline))
            part = of.recv(_MOST_BYTES)
            if not part:
                return None
            line += part
        message = json.loads(line)[_GREETING]
        if isinstance(message, dict):
            message = {name: message[name] for name in ("processes", "index", "jax")}
        return message
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1e-3)


def _named(indices: set[int]) -> str:
    listed = ", ".join(map(str, sorted(indices)[:8]))
    return listed + (" …" if len(indices) > 8 else "")
