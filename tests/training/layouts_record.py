"""The record of the layouts: how far the losses of 20 steps are from those of one device, and a device's bytes.

python -m tests.training.layouts_record          measures, and renders
"""

import datetime
import json
import socket
import tempfile
from pathlib import Path

import numpy as np

from optimiz.training import environment
from tests.conftest import ROOT, run_program, run_programs

PATH = ROOT / "tests/records/layouts.json"
OPTIMIZERS = ("adamw", "sgd_sai", "lion", "sophia_g", "salsa", "low_bit adamw")
LAYOUTS = ("pmap", "data parallel", "ZeRO-1", "split parameters", "explicit axes")
DEVICES, PROCESSES = 8, (2, 4)
TOLERANCE = 1e-5
ROWS = (*LAYOUTS, *(f"{n} processes" for n in PROCESSES))


def losses(directory, optimizers, layouts, devices):
    """Layout → optimizer → losses."""
    names = ",".join(optimizers), ",".join(layouts)
    return run_program("tests.training.layouts", directory, *names, devices=devices)


def losses_of_processes(directory, optimizers, processes):
    """Optimizer → losses; the processes agree on them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = directory, ",".join(optimizers), "processes", address, processes
    first, *others = run_programs("tests.training.layouts", *arguments, processes=processes, timeout=600)
    assert all(other == first for other in others)
    return first["processes"]


def difference(its, reference):
    assert len(its) == len(reference) == 20 and reference[-1] < 0.9 * reference[0]
    return float(np.abs(np.subtract(its, reference)).max())


def differences(directory):
    """Layout → optimizer → the largest difference of a loss from that on one device."""
    found = {}
    for layout in ("one device", *LAYOUTS):
        found |= losses(directory / "devices", OPTIMIZERS, [layout], DEVICES)
    alone = found.pop("one device")
    for n in PROCESSES:
        found[f"{n} processes"] = losses_of_processes(directory / f"{n} processes", OPTIMIZERS, n)
    # Under pmap each device draws Sophia's labels for its part of the batch, and so does the reference.
    parts = losses(directory / "parts", ["sophia_g"], ["part by part"], DEVICES)["part by part"]
    return {
        layout: {
            name: difference(its[name], (parts if (layout, name) == ("pmap", "sophia_g") else alone)[name])
            for name in OPTIMIZERS
        }
        for layout, its in found.items()
    }


def in_words(record):
    """The sentence in docs/devices.md."""
    largest = max(max(its.values()) for its in record["differences"].values())
    held = {name: its["ZeRO-1"]["optimizer"][0] for name, its in record["memory"].items()}
    whole = record["memory"]["adamw"]["data parallel"]["optimizer"][0]
    return (
        f"Over {record['steps']} steps the losses of {len(OPTIMIZERS)} optimizers are within {largest:.1e} of "
        f"one device's in each of {len(record['differences'])} layouts, several processes among them "
        "([table](../tests/records/layouts.md)); there AdamW's state takes "
        f"{whole:,} bytes on each of eight devices, {held['adamw']:,} with ZeRO-1 and "
        f"{held['low_bit adamw']:,} with ZeRO-1 in eight bits."
    )


def render(record):
    """The record as Markdown."""
    measured = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    table = [
        "| layout | " + " | ".join(OPTIMIZERS) + " |",
        "| --- |" + " ---: |" * len(OPTIMIZERS),
        *(
            f"| {layout} | "
            + " | ".join(f"{record['differences'][layout][name]:.1e}" for name in OPTIMIZERS)
            + " |"
            for layout in ROWS
        ),
    ]
    held = record["memory"]
    memory = [
        "| layout | parameters | state of " + " | state of ".join(held) + " |",
        "| --- | ---: |" + " ---: |" * len(held),
        *(
            f"| {layout} | {found['parameters'][0]} | "
            + " | ".join(str(its[layout]["optimizer"][0]) for its in held.values())
            + " |"
            for layout, found in held["adamw"].items()
        ),
    ]
    return "\n".join(
        [
            "# One device, many, and several processes",
            "",
            f"The largest difference of a loss, over {record['steps']} steps without dropout, from the run on "
            f"one device; at most {record['tolerance']:g} is allowed. Eight devices of one process, and "
            "processes of one device each. Under `pmap` Sophia's labels are drawn part by part, and so they "
            "are on the one device that it is compared with.",
            "",
            *table,
            "",
            "Bytes on each of the eight devices: matrices of 16 × 32 and 32 × 4, split along `model` in the "
            "last row, and a bias of 32, whole. `low_bit` stores the moments of the first in eight bits.",
            "",
            *memory,
            "",
            f"{record['date'][:10]}, {measured['device']} ({measured['machine']}), Python "
            f"{measured['python']}, {versions}. Measured by `python -m tests.training.layouts_record`.",
            "",
        ]
    )


def main():
    with tempfile.TemporaryDirectory() as directory:
        record = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "environment": environment(),
            "steps": 20,
            "tolerance": TOLERANCE,
            "differences": differences(Path(directory)),
            "memory": run_program("tests.training.on_a_mesh", Path(directory) / "mesh", devices=DEVICES)[
                "memory"
            ],
        }
    PATH.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PATH.with_suffix(".md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
