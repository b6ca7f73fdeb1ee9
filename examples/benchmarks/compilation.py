"""Measure the time to compile an update for a CPU, a TPU and a GPU, compared with Optax.

    python -m examples.benchmarks.compilation --output=runs/compilation
    python -m examples.benchmarks.compilation --methods=lamb,lars --targets=v5e --leaves=28 --output=runs/lamb

An update is ``update`` and ``optax.apply_updates`` in one function with donated parameters and state, on a
number of equal matrices. It is traced, lowered and compiled by the device's own compiler on this machine; no
device is needed, see ``optimiz.plan``. In each round, both implementations are compiled in turn, without JAX's
caches. The time is that of all threads on the CPU, which other programs do not stretch. Rows that are already
in the record of --output are kept, so that the table can be filled in several calls.
"""

import datetime
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import optax

from examples.benchmarks import compilation_report, update_speed
from examples.models import shapes
from examples.shared import command, markdown, program_flags, terminal
from optimiz import compare, plan, training

MATRIX = (256, 256)
# Every method that Optax has too, and state in 8 bits, whose counterpart is the state as it is.
PEERS = {name: theirs for name, (_, theirs, _) in update_speed.METHODS.items() if theirs is not None}
PEERS |= {"adamw in Int8": PEERS["adamw"]}

FLAGS = program_flags.Flags()
_METHODS = FLAGS.DEFINE_list("methods", list(PEERS), "Methods to compile.")
_TARGETS = FLAGS.DEFINE_list("targets", ["cpu", "v5e", "h200"], "Devices, see examples.plan.")
_LEAVES = FLAGS.DEFINE_list("leaves", ["28", "100", "400"], "Numbers of matrices.")
_ROUNDS = FLAGS.DEFINE_integer("rounds", 5, "Compilations of each method.", lower_bound=3)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_among(PEERS, _METHODS)
program_flags.check_among(plan.DEVICES, _TARGETS)
program_flags.check(lambda items: all(n.isdecimal() and int(n) for n in items), "must be numbers ≥ 1", _LEAVES)


def seconds_to_compile(tx: optax.GradientTransformation, target: plan.Target, leaves: int) -> float:
    """The processor time that it takes to trace, lower and compile an update.

    Args:
        tx: the optimizer.
        target: the devices, of which the first one is used.
        leaves: number of matrices.
    """
    layout = training.Layout(training.make_mesh("data:1", target.devices[:1]))
    params = shapes.as_structs([MATRIX] * leaves, "float32")
    params, state = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.whole), tree)
        for tree in (params, jax.eval_shape(tx.init, params))
    )

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    begin = time.process_time()
    jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile(target.device.options)
    return time.process_time() - begin


def measured(name: str, target: str, leaves: int, rounds: int) -> dict[str, Any]:
    """The row of a method.

    Args:
        name: one of PEERS.
        target: the device.
        leaves: number of matrices.
        rounds: how often each implementation is compiled.
    """
    implementations = {"optimiz": update_speed.METHODS[name][0], "optax": PEERS[name]}
    seconds: dict[str, list[float]] = {who: [] for who in implementations}
    devices = plan.target(target)
    seconds_to_compile(optax.sgd(0.1), devices, 1)  # what is loaded once
    for _ in range(rounds):
        for who, tx in implementations.items():
            seconds[who].append(seconds_to_compile(tx, devices, leaves))
    return {
        "method": name,
        "target": target,
        "leaves": leaves,
        "date": str(datetime.date.today()),
        "seconds": seconds,
    }


def _key(row: dict[str, Any]) -> tuple[str, int, str]:
    """What tells a row from the others."""
    return row["target"], row["leaves"], row["method"]


def main() -> None:
    """Measure what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    record: dict[str, Any] = {"environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, compilation_report.report)
    jax.config.update("jax_enable_compilation_cache", False)
    for target, leaves, name in itertools.product(_TARGETS.value, map(int, _LEAVES.value), _METHODS.value):
        if (target, leaves, name) not in map(_key, record["rows"]):
            record["rows"].append(measured(name, target, leaves, _ROUNDS.value))
            record["rows"].sort(key=_key)
            markdown.write_record(record, path, compilation_report.report)
    terminal.show(compilation_report.table(record))


if __name__ == "__main__":
    command.run(main, FLAGS)
