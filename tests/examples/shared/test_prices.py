"""Energy that is asked for is measured, or refused in one line."""

import pytest

from examples.shared.prices import energy_meter, energy_of, of_each
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


def priced(step, forward=0.1, spread=0.0, **more):
    """A function that counts its calls, and returns these prices."""
    times = {
        STEP: training.Timing(step, spread, 25),
        STEP._replace(name="forward"): training.Timing(forward, 0.0, 25),
    }
    times |= {STEP._replace(name=name): training.Timing(price, 0.0, 25) for name, price in more.items()}

    def measure():
        measure.calls += 1
        return training.Reference(times=times, about={})

    measure.calls = 0
    return measure


def test_each_optimizer_is_charged_its_own_step_and_noise_gives_none_more_updates(tmp_path):
    measure = {
        "adamw": priced(0.30),
        "lion": priced(0.295),  # within 3 %
        "noisy": priced(0.35, spread=0.2),  # three standard errors are 0.11
        "muon": priced(0.45, forward=0.2),
        "sophia_g": priced(0.30, hessian=0.7),
    }
    found = of_each(measure, tmp_path / "reference.json")
    assert {name: own.seconds("step", batch=8) for name, own in found.items()} == {
        "adamw": 0.30, "lion": 0.30, "noisy": 0.30, "muon": 0.45, "sophia_g": 0.30,
    }  # fmt: skip
    assert {own.seconds("forward", batch=8) for own in found.values()} == {0.1}
    assert found["sophia_g"].seconds("hessian", batch=8) == 0.7
    assert of_each(measure, tmp_path / "reference.json") == found  # from the files
    assert {function.calls for function in measure.values()} == {1}
    assert training.Reference.read(tmp_path / "reference_noisy.json").seconds("step", batch=8) == 0.35
