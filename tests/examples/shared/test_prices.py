"""Energy that is asked for is measured, or refused in one line."""

import pytest

from examples.shared.prices import energy_meter, energy_of
from optimiz import training

STEP = training.Work("step", batch=8)


def test_a_power_in_watts_is_stated():
    meter = energy_meter("65")
    assert isinstance(meter, training.StatedPower)
    assert meter.about == {"source": "estimate", "watts": 65.0, "what": "as given by --energy"}
    assert energy_meter(None) is None


@pytest.mark.parametrize("asked", ["", "wall", "-65", "0", "nan"])
def test_what_is_no_meter_is_refused(asked):
    with pytest.raises(ValueError, match=f"--energy={asked}: must be rapl, nvml or a power in watts"):
        energy_meter(asked)


def test_prices_without_the_energy_that_is_asked_for_are_refused():
    times = {STEP: training.Timing(0.5, 0.0, 1)}
    without = training.Reference(times=times, about={})
    assert energy_of(without, None) == {}
    with pytest.raises(ValueError, match=r"^--energy=rapl: the prices in --output are without it"):
        energy_of(without, "rapl")
    energy = {STEP: training.Energy(2.0, 0.0, 1)}
    metered = training.Reference(times=times, about={}, energy=energy, meter={"source": "RAPL"})
    per_unit = {"step": {"joules": 2.0, "uncertainty": 0.0}}
    assert energy_of(metered, None) == {"per_unit": per_unit, "meter": {"source": "RAPL"}}
