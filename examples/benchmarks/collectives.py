"""Plan what the devices of a TPU exchange in an update of methods for matrices, next to Optax's Muon.

    python -m examples.benchmarks.collectives --output=runs/collectives
    python -m examples.benchmarks.collectives --targets=cpu --output=runs/collectives

A CPU has 8 devices with XLA_FLAGS=--xla_force_host_platform_device_count=8 in the environment. The model is 8
layers of six matrices, query, key, value and out of 256 × 256, up of 256 × 1024 and down of 1024 × 256, each an
array of its own, in float32: 6.3 million parameters. Every matrix is split over all devices, or over those of
an axis called ``model`` as Megatron does, or is whole on each. The updates are compiled by the device's own
compiler, see ``optimiz.plan``; nothing runs. Rows that are already in the record of --output are kept.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

import optimiz
from examples.benchmarks import collectives_report, plan_report
from examples.shared import command, markdown, program_flags, terminal
from optimiz import compare, plan

LAYERS, WIDTH = 8, 256
OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "muon": lambda: optimiz.muon(2e-3, scale=optimiz.matrix_scales.match_adam()),
    "optax.contrib.muon": lambda: optax.contrib.muon(2e-3),
    "soap": lambda: optimiz.soap(3e-3, max_precond_dim=WIDTH),
    "adamw": lambda: optimiz.adamw(3e-4),
}


def _line(devices: int) -> str:
    return f"data:{devices}"


def _plane(devices: int) -> str:
    """The most equal sides of so many devices."""
    side = next(n for n in range(math.isqrt(devices), 0, -1) if devices % n == 0)
    return f"data:{devices // side},model:{side}"


def _megatron(name: str) -> P:
    return P("model", None) if name in ("out", "down") else P(None, "model")


# Name → axes of the mesh, for a number of devices, and how the matrix of a name is split over them.
SPLITS: dict[str, tuple[Callable[[int], str], Callable[[str], P]]] = {
    "rows": (_line, lambda _: P("data", None)),
    "rows and columns": (_plane, lambda _: P("data", "model")),
    "tensor parallel": (_plane, _megatron),
    "nothing": (_line, lambda _: P()),
}

FLAGS = program_flags.Flags()
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", list(OPTIMIZERS), "Optimizers to plan.")
_TARGETS = FLAGS.DEFINE_list("targets", ["v5e:4x4", "v5e:16x16"], "Devices, see examples.plan.")
_SPLITS = FLAGS.DEFINE_list("splits", list(SPLITS), f"How matrices are split, some of {', '.join(SPLITS)}.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_among(OPTIMIZERS, _OPTIMIZERS)
program_flags.check_among(SPLITS, _SPLITS)


def parameters() -> dict[str, Any]:
    """The shapes of the model's parameters."""
    layer = dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH))
    layer |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    kernels = {name: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)} for name, shape in layer.items()}
    return {f"layers_{i}": kernels for i in range(LAYERS)}


def planned(name: str, target: str, split: str) -> dict[str, Any]:
    """The row of an optimizer.

    Args:
        name: one of OPTIMIZERS.
        target: the devices.
        split: one of SPLITS.
    """
    mesh_of, spec_of = SPLITS[split]
    params = parameters()
    specs = {layer: {name: {"kernel": spec_of(name)} for name in each} for layer, each in params.items()}
    found = plan.update(
        OPTIMIZERS[name](),
        params,
        target,
        mesh=mesh_of(len(plan.target(target).devices)),
        rules=lambda _: specs,
    )
    entries = sum(x.size for x in jax.tree.leaves(params))
    return plan_report.row(name, found, entries) | {"split": split}


def main() -> None:
    """Plan what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    record: dict[str, Any] = {"environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, collectives_report.report)
    for case in itertools.product(_TARGETS.value, _SPLITS.value, _OPTIMIZERS.value):
        if case not in ((row["target"], row["split"], row["optimizer"]) for row in record["rows"]):
            target, split, name = case
            record["rows"].append(planned(name, target, split))
            record["rows"].sort(key=lambda row: (row["target"], row["split"], row["optimizer"]))
            markdown.write_record(record, path, collectives_report.report)
    terminal.show(collectives_report.table(record))


if __name__ == "__main__":
    command.run(main, FLAGS)
