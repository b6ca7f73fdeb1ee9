"""What a compiled program costs on each of its devices."""

import dataclasses
from collections.abc import Mapping

from optimiz.plan.traffic import Collective, Traffic


@dataclasses.dataclass(frozen=True)
class Plan:
    """A program compiled for its devices; all bytes are per device. As a string, a table.

    Attributes:
        target: the devices, such as ``"v5e:4x4"``.
        mesh: axis → size.
        arguments: argument of the program → bytes in the device's memory; an update has ``parameters``,
            ``state`` and ``gradients``, a step ``parameters``, ``state`` and ``batch``, and ``frozen`` if its
            task has frozen arrays.
        temporary: bytes that the program holds besides its arguments and results, such as the activations and
            gradients of a step; None if the compiler found the program too large.
        peak: the most bytes held at any time, including arguments; None likewise.
        memory: bytes of memory that the device has; None if unknown.
        traffic: what one run of the program moves; None if the program was not compiled.
        bound: bytes that any such program must move: its inputs are read once and its outputs written once.
        bandwidth: bandwidth of the device's memory, in bytes per second; None if unknown.
        compile_seconds: compile time on this machine.
        failure: the compiler's message if the program does not fit; None if it was compiled.
        flops: floating-point operations of one run, as the compiler counts them; None if it does not.
        host: bytes of the arguments that lie in the host's memory.
        link: bandwidth between the host and the device's memory in each direction, in bytes per second; None if
            unknown.
        padding: argument of the program → bytes that the device holds besides those of its arrays, as a TPU
            fills up its tiles of 8 × 128; None if the program was not compiled.
    """

    target: str
    mesh: Mapping[str, int]
    arguments: Mapping[str, int]
    temporary: int | None
    peak: int | None
    memory: int | None
    traffic: Traffic | None
    bound: int
    bandwidth: int | None
    compile_seconds: float
    failure: str | None = None
    flops: float | None = None
    host: int = 0
    link: int | None = None
    padding: Mapping[str, int] | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the program fits in the device's memory; None if unknown."""
        if self.failure is not None:
            return False
        return None if self.memory is None or self.peak is None else self.peak <= self.memory

    @property
    def collectives(self) -> Mapping[str, Collective]:
        """Collectives by kind; empty if the program was not compiled."""
        return {} if self.traffic is None else self.traffic.collectives

    @property
    def link_seconds_at_least(self) -> float | None:
        """Time of the copies from and to the host, both directions at once; None if that is unknown."""
        if self.traffic is None or self.link is None:
            return None
        return max(self.traffic.from_host, self.traffic.to_host) / self.link

    @property
    def seconds_at_least(self) -> float | None:
        """The bytes moved divided by the bandwidth, or the time of the copies from and to the host if longer.

        None if the bytes or the bandwidth is unknown.
        """
        if self.traffic is None or self.bandwidth is None:
            return None
        return max(self.traffic.greatest / self.bandwidth, self.link_seconds_at_least or 0)

    def __str__(self) -> str:
        mesh = ", ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        rows = [("target", self.target), ("mesh", mesh)]
        rows += [(name, _size(size)) for name, size in self.arguments.items()]
        rows += [("on the host", _size(self.host))] if self.host else []
        rows += [(f"padding of {name}", _size(size)) for name, size in (self.padding or {}).items() if size]
        rows += [
            ("temporary", _size(self.temporary)),
            ("peak", _size(self.peak)),
            ("memory", _size(self.memory)),
        ]
        rows.append(("fits", {True: "yes", False: "no", None: "unknown"}[self.fits]))
        if self.traffic is not None:
            rows += [("moved", _range(self.traffic)), ("moved at least", _size(self.bound))]
            if self.host:
                rows += [
                    ("from the host", _size(self.traffic.from_host)),
                    ("to it", _size(self.traffic.to_host)),
                ]
            rows.append(("kernels", str(self.traffic.kernels)))
            rows += [(kind, f"{its.count}, {_size(its.bytes)}") for kind, its in self.collectives.items()]
        if self.flops is not None:
            rows.append(("operations", f"{self.flops:.3g}"))
        if self.seconds_at_least is not None:
            rows.append(("at least", f"{1e3 * self.seconds_at_least:.3g} ms"))
        rows.append(("compiled in", f"{self.compile_seconds:.1f} s"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _size(size: int | None) -> str:
    if size is None:
        return "unknown"
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"


def _range(moved: Traffic) -> str:
    if moved.least == moved.greatest:
        return _size(moved.greatest)
    return f"{_size(moved.least)} to {_size(moved.greatest)}"
