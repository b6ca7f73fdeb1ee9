"""Counters of energy are read right, or refused in one line."""

import importlib
import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import training
from optimiz.training import Energy, Nvml, Rapl, Reference, StatedPower, Task, Timing, Work
from optimiz.training.budget import energy
from optimiz.training.methods.layer_drop import LayerDrop


def zone(root, path, name, value, highest=1000):
    folder = root / path
    folder.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", value), ("max_energy_range_uj", highest)):
        (folder / file).write_text(f"{text}\n")
    return folder


def test_packages_and_memory_are_counted_once_each(tmp_path):
    counted = [zone(tmp_path, "intel-rapl:0", "package-0", 100), zone(tmp_path, "intel-rapl:0:1", "dram", 7)]
    others = [zone(tmp_path, "intel-rapl:0:0", "core", 50), zone(tmp_path, "intel-rapl:1", "psys", 500)]
    (tmp_path / "intel-rapl").mkdir()
    meter = Rapl(tmp_path)
    assert meter.about == {"source": "RAPL", "zones": ["intel-rapl:0 package-0", "intel-rapl:0:1 dram"]}
    assert meter.joules() == 0
    for folder in (*counted, *others):
        (folder / "energy_uj").write_text(f"{int((folder / 'energy_uj').read_text()) + 30}\n")
    assert meter.joules() == pytest.approx(60e-6)


def test_a_counter_that_starts_again_goes_on(tmp_path):
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    meter = Rapl(tmp_path)
    for value, joules in ((950, 50e-6), (20, 120e-6), (20, 120e-6), (30, 130e-6)):
        (folder / "energy_uj").write_text(f"{value}\n")
        assert meter.joules() == pytest.approx(joules)


def test_counters_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"no energy counter of a processor in .*; virtual machines have none"
    ):
        Rapl(tmp_path)
    folder = zone(tmp_path, "intel-rapl:0", "package-0", "many")
    with pytest.raises(OSError, match="energy_uj is not an energy counter: invalid literal"):
        Rapl(tmp_path)
    (folder / "max_energy_range_uj").unlink()
    with pytest.raises(OSError, match="max_energy_range_uj is not an energy counter"):
        Rapl(tmp_path)

    def forbidden(path):
        raise PermissionError(path)

    monkeypatch.setattr(
        energy.Path, "read_text", lambda path: "package-0" if path.name == "name" else forbidden(path)
    )
    with pytest.raises(PermissionError, match="_uj may only be read by root"):
        Rapl(tmp_path)


class NVMLError(Exception):
    pass


def fake_nvml(monkeypatch, **functions):
    module = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: f"board {handle}",
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1500 + handle,
    )
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(energy.checks, "installed", lambda *_: None)


def test_boards_are_added_up(monkeypatch):
    fake_nvml(monkeypatch)
    meter = Nvml([0, 2])
    assert meter.joules() == pytest.approx(3.002)
    assert meter.about == {"source": "NVML", "devices": ["board 0", "board 2"], "limit_watts": [700.0, 700.0]}


def test_a_board_without_a_counter_is_refused(monkeypatch):
    def unsupported(handle):
        raise NVMLError("Not Supported")

    fake_nvml(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=unsupported)
    with pytest.raises(OSError, match="a GPU has no energy counter: Not Supported"):
        Nvml()
    fake_nvml(monkeypatch, nvmlDeviceGetHandleByIndex=unsupported)
    with pytest.raises(OSError, match=r"NVML cannot be asked about the GPUs \[5\]: Not Supported"):
        Nvml([5])


@pytest.mark.parametrize("watts", [0.0, -1.0, float("nan"), float("inf")])
def test_a_power_that_is_none_is_refused(watts):
    with pytest.raises(ValueError, match="watts must be"):
        StatedPower(watts, "a data sheet")


class Metered:
    """A meter that a test moves."""

    about = {"source": "test"}  # noqa: RUF012

    def __init__(self):
        self.used = 0.0

    def joules(self):
        return self.used


def test_the_energy_of_a_unit_is_a_median_over_windows():
    meter, amounts = Metered(), iter([99.0, 2.0, 4.0, 3.0, 3.0, 8.0])

    def work():
        meter.used += next(amounts)
        return 2

    assert energy.energy_of({Work("step"): work}, meter, n=5, seconds=0.0) == {
        Work("step"): Energy(1.5, 0.5, 5)
    }


def test_a_counter_that_does_not_move_is_refused():
    with pytest.raises(OSError, match=r"the energy counter \(test\) did not move in"):
        energy.energy_of({Work("step"): lambda: 1}, Metered(), n=1, seconds=0.0)


def task():
    rows = {"x": np.ones((4, 3), np.float32)}
    return Task(
        init=lambda key: {"w": jnp.ones(3)},
        loss=lambda params, batch, key: jnp.mean((batch["x"] @ params["w"]) ** 2, keepdims=True) * jnp.ones(4),
        batches=lambda step: rows,
    )


def test_a_step_and_a_forward_pass_are_calibrated(monkeypatch):
    monkeypatch.setattr(importlib.import_module("optimiz.training.calibrate"), "_WINDOW", 0.01)
    meter = StatedPower(100.0, "a data sheet")
    found = training.calibrate(task(), optax.sgd(0.1), about={}, n=1, meter=meter)
    assert found.meter == {"source": "estimate", "watts": 100.0, "what": "a data sheet"}
    assert found.energy.keys() == {Work("step", batch=4), Work("forward", batch=4)}
    assert all(one.n == 5 and 1e-4 < one.joules < 10 for one in found.energy.values())


def test_energy_of_methods_is_refused():
    methods = training.Methods(layer_drop=LayerDrop())
    with pytest.raises(ValueError, match="meter must be None with methods"):
        training.calibrate(task(), optax.sgd(0.1), about={}, methods=methods, meter=StatedPower(1.0, "one"))


STEP, FORWARD = Work("step", batch=8), Work("forward", batch=8)
TIMES = {STEP: Timing(0.25, 0.01, 200), FORWARD: Timing(0.08, 0.004, 100)}


def test_a_table_with_energy_comes_back(tmp_path):
    written = Reference(
        times=TIMES, about={}, energy={STEP: Energy(50.0, 1.0, 5)}, meter={"source": "RAPL", "zones": ["a"]}
    )
    written.write(tmp_path / "reference.json")
    assert Reference.read(tmp_path / "reference.json") == written
    assert written.energy_by_kind() == {"step": {"joules": 50.0, "uncertainty": pytest.approx(0.929 / 5**0.5)}}


def test_a_table_of_before_has_no_energy(tmp_path):
    path = tmp_path / "reference.json"
    Reference(times=TIMES, about={}).write(path)
    fields = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: fields[name] for name in fields.keys() - {"energy", "meter"}} | {"schema": 1})
    )
    assert Reference.read(path) == Reference(times=TIMES, about={}, date=fields["date"])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"energy": {Work("hessian"): Energy(1.0, 0.0, 1)}}, "energy has hessian, which times lack"),
        ({"energy": {STEP: Energy(0.0, 0.0, 1)}}, "joules of step"),
        ({"energy": {STEP: Energy(float("nan"), 0.0, 1)}}, "joules of step"),
        ({"energy": {STEP: Energy(1.0, -1.0, 1)}}, "spread of the joules"),
        ({"energy": {STEP: Energy(1.0, 0.0, 0)}}, "n of the joules"),
        ({"energy": {STEP: Energy(1.0, 0.0, 1)}, "meter": {}}, "meter must say the source"),
    ],
)
def test_energy_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Reference(times=TIMES, about={}, **{"meter": {"source": "RAPL"}} | fields)


def test_a_kind_of_several_sizes_has_no_energy():
    twice = {Work("step", batch=16): Timing(0.5, 0.0, 1)}
    reference = Reference(
        times=TIMES | twice, about={}, energy={STEP: Energy(1.0, 0.0, 1)}, meter={"source": "RAPL"}
    )
    assert reference.energy_by_kind() == {}
