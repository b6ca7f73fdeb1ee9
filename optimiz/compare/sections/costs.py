"""The section on what the methods cost: work, memory, time, money and energy."""

import math
from collections.abc import Sequence

from optimiz.compare.markdown import decimal, escaped, measured, table, three_digits
from optimiz.compare.methods import Method, common_target
from optimiz.compare.record import Record


def cost(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """What the methods cost."""
    target, sign = common_target(record, compared, metric), record.sign(metric)
    unit = "reference seconds" if record.runs[0].budget is not None else "updates"
    header = ["method", "forward passes / update", "compilation, s", "temporary MB"]
    reached = decimal(sign * target) if math.isfinite(target) else "that all reach"
    header += [f"{unit} to {escaped(metric)} {reached}"]
    if record.price:
        header.append(f"{escaped(record.price['currency'])} / run")
    if record.energy:
        header.append("J / run, estimated" if record.energy["meter"]["source"] == "estimate" else "J / run")
    rows = []
    for method in compared:
        spent = method.time_to(record, metric, target) if math.isfinite(target) else math.inf
        temporary = method.runs[0].temporary_bytes
        compilations = [run.compile_seconds for run in method.runs if run.compile_seconds is not None]
        rows.append(
            [
                escaped(method.name),
                measured(method.forwards_per_step(), ".2f"),
                measured(max(compilations, default=None), ".1f"),
                "not known" if temporary is None else three_digits(temporary / 1e6),
                three_digits(spent) if math.isfinite(spent) else "never",
            ]
        )
        if record.price:
            rents = [rent for run in method.runs if (rent := record.rent(run)) is not None]
            rows[-1].append(measured(sum(rents) / len(rents) if rents else None, ".3g"))
        if record.energy:
            rows[-1].append(_joules(record, method))
    means = [text(record) for text, given in ((_price, record.price), (_energy, record.energy)) if given]
    return [
        "## What did it cost?",
        "Work is counted in forward passes. A backward pass counts 2, so a plain update counts 3; further "
        "evaluations by the optimizer are added. Temporary memory is what the compiler plans for a training "
        "step in addition to parameters, state and batch. "
        f"The {unit} are those after which an evaluation of each method first reached the validation level "
        "that every run reaches in the end (median over seeds). The schedules were made for whole runs; "
        "stopping earlier would need a different one.",
        *means,
        *[f"![Test {escaped(metric)} against the cost of a run](cost.png)"] * (len(compared) > 1),
        table(header, rows),
    ]


def _price(record: Record) -> str:
    """What the money of a run is computed from."""
    price = record.price
    time = "its own time" if record.runs[0].budget is None else "reference time"
    return (
        f"The price of a run is that of {price['devices']} device(s) at {price['per_device_hour']:g} "
        f"{escaped(price['currency'])} an hour ({escaped(price['what'])}), for {time} without compilation and "
        "evaluation."
    )


def _joules(record: Record, method: Method) -> str:
    """The mean energy of the runs of a method, with its standard uncertainty."""
    energies = [record.joules(run) for run in method.runs]
    known = [energy for energy in energies if energy is not None]
    if len(known) < len(energies):
        return "not known"
    joules, uncertainty = (sum(numbers) / len(known) for numbers in zip(*known, strict=True))
    return f"{joules:.4g} ± {uncertainty:.2g}"


def _energy(record: Record) -> str:
    """What the energy of a run is computed from."""
    meter = record.energy["meter"]
    if meter["source"] == "estimate":
        return (
            f"Energy was not measured: it is the time of the work at a stated power of {meter['watts']:g} W "
            f"({escaped(meter['what'])}), and orders runs as time does."
        )
    per_unit = record.energy["per_unit"]
    units = ", ".join(f"{escaped(name)} {one['joules']:.3g} J" for name, one in per_unit.items())
    return (
        f"Energy is that of the work of a run on the reference, by {escaped(meter['source'])} ({units}): "
        "gross, with the power at rest and with all else that ran; without fans, power supply and network. ± "
        "is the standard uncertainty from that of a unit, which is the same in all runs."
    )
