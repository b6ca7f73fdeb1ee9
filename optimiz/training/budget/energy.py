"""Energy: counters of a processor and of a graphics card, and a stated power where there is no counter.

A counter is read before and after a window of work. One unit of work is far too short for it: a window lasts
many updates of the counter, and windows are repeated, which gives a median and a spread.

What a counter holds is gross, with the power that the device draws at rest, and covers all that runs on the
device. It leaves out fans, the power supply, the network and, without a zone of its own, memory.

Source: the Linux power capping framework (powercap sysfs); NVML, ``nvmlDeviceGetTotalEnergyConsumption``.
"""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from optimiz import checks
from optimiz.training.budget.price_table import Energy, Work

_MICRO, _MILLI = 1e-6, 1e-3


class Meter(Protocol):
    """What tells how much energy has been used."""

    about: Mapping[str, Any]
    """Where the numbers come from, as plain JSON with ``source`` and what the source has to say."""

    def joules(self) -> float:
        """Joules used since some moment, which never become less.

        Raises:
            OSError: the counter cannot be read any more.
        """
        ...


class Rapl:
    """The energy counters of an Intel or AMD processor as Linux shows them: all packages and their memory.

    A virtual machine usually has none, and a usual system lets only root read them. A counter starts again at
    its range, which is noticed once between two readings: read it at least every minute.

    Args:
        root: directory of the power capping framework.

    Raises:
        OSError: there is no counter, or it may not be read.

    Example:
        >>> Rapl("/nowhere")
        Traceback (most recent call last):
        FileNotFoundError: no energy counter of a processor in /nowhere; virtual machines have none
    """

    def __init__(self, root: str | Path = "/sys/class/powercap"):
        self._zones = {
            name: path for path in sorted(Path(root).glob("intel-rapl:*")) if (name := _counted(path))
        }
        if not self._zones:
            raise FileNotFoundError(f"no energy counter of a processor in {root}; virtual machines have none")
        self._ranges = {name: _number(path / "max_energy_range_uj") for name, path in self._zones.items()}
        self._last, self._used = self._read(), 0
        self.about = {"source": "RAPL", "zones": list(self._zones)}

    def joules(self) -> float:
        """Joules used by all zones since this object was made."""
        now = self._read()
        for name, value in now.items():
            moved = value - self._last[name]
            self._used += moved if moved >= 0 else moved + self._ranges[name]
        self._last = now
        return self._used * _MICRO

    def _read(self) -> dict[str, int]:
        return {name: _number(path / "energy_uj") for name, path in self._zones.items()}


class Nvml:
    """The energy counters of NVIDIA GPUs, of the whole boards (Volta and newer).

    Args:
        devices: indices of the GPUs, as ``nvidia-smi`` numbers them.

    Raises:
        ModuleNotFoundError: the package ``nvidia-ml-py`` is missing.
        OSError: there is no such GPU, or it has no counter.
    """

    def __init__(self, devices: Sequence[int] = (0,)):
        checks.installed("training.Nvml", "energy", "pynvml")
        pynvml = importlib.import_module("pynvml")
        self._nvml, self._handles = pynvml, []
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in devices]
            names = [pynvml.nvmlDeviceGetName(handle) for handle in self._handles]
            limits = [pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) * _MILLI for handle in self._handles]
        except pynvml.NVMLError as error:
            raise OSError(f"NVML cannot be asked about the GPUs {list(devices)}: {error}") from None
        self.joules()  # a board without a counter is refused here
        self.about = {"source": "NVML", "devices": names, "limit_watts": limits}

    def joules(self) -> float:
        """Joules used by all boards since their driver was loaded."""
        try:
            return _MILLI * sum(map(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handles))
        except self._nvml.NVMLError as error:
            raise OSError(f"a GPU has no energy counter: {error}") from None


class StatedPower:
    """No measurement: a power that somebody stated, times seconds.

    Args:
        watts: power of all devices together while they work, > 0.
        what: where the number is from, such as ``"data sheet, thermal design power"``.

    Raises:
        TypeError: the power is not a number.
        ValueError: it is not positive and finite.
    """

    def __init__(self, watts: float, what: str):
        checks.number("watts", watts, gt=0)
        self._watts = watts
        self.about = {"source": "estimate", "watts": float(watts), "what": what}

    def joules(self) -> float:
        """Joules at the stated power since some moment."""
        return self._watts * time.monotonic()


def energy_of(
    windows: Mapping[Work, Callable[[], int]], meter: Meter, *, n: int, seconds: float
) -> dict[Work, Energy]:
    """The energy of one unit of each work.

    Args:
        windows: for each work, a function that performs some of it, waits for it, and returns the number of
            units.
        meter: the meter.
        n: number of windows of each work, which take turns, ≥ 1.
        seconds: least length of a window.

    Raises:
        OSError: the counter cannot be read, or does not move.
    """
    samples: dict[Work, list[float]] = {work: [] for work in windows}
    for perform in windows.values():
        perform()  # the first one compiles
    for _ in range(n):
        for work, perform in windows.items():
            units, begun, before = 0, time.monotonic(), meter.joules()
            while not units or time.monotonic() - begun < seconds:
                units += perform()
            used = meter.joules() - before
            if used <= 0:
                took = time.monotonic() - begun
                raise OSError(f"the energy counter ({meter.about['source']}) did not move in {took:.3g} s")
            samples[work].append(used / units)
    return {work: _energy(taken) for work, taken in samples.items()}


def _energy(samples: Sequence[float]) -> Energy:
    first, median, third = np.quantile(samples, [0.25, 0.5, 0.75]).tolist()
    return Energy(median, third - first, len(samples))


def _counted(path: Path) -> str | None:
    """The name of a zone that is counted: a whole package, or memory, which no package contains."""
    try:
        name = (path / "name").read_text().strip()
    except OSError:
        return None
    return f"{path.name} {name}" if name.startswith("package") or name == "dram" else None


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except PermissionError:
        raise PermissionError(f"{path} may only be read by root") from None
    except (OSError, ValueError) as error:
        raise OSError(f"{path} is not an energy counter: {error}") from None
