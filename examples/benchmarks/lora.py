"""Plan a step of LoRA of a large model for devices that are not there: the memory that it takes.

    python -m examples.benchmarks.lora --output=runs/lora
    python -m examples.benchmarks.lora --cases=h200 --output=runs/lora

The step is the one that ``examples.finetune_lm`` compiles: AdamW on adapters of rank 16 of all linear maps of a
Llama-2-7B, whose own parameters are frozen in bfloat16, with layers computed again in the backward pass. On
several devices the frozen matrices are split over them, and adapters and their state are on each. The devices'
own compilers compile it here, and nothing runs. Rows that are already in the record of --output are kept.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import optimiz
from examples.benchmarks import lora_report, plan_report
from examples.models import llama, llama_files, shapes
from examples.models.adapters import Keys, from_nnx
from examples.models.lora import Lora
from examples.shared import command, markdown, program_flags, terminal
from examples.shared.precisions import PRECISIONS
from examples.tasks.language_modeling import PackedModel
from optimiz import compare, plan, training

LLAMA_2_7B = llama.LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    layers=32,
    heads=32,
    key_heads=32,
    head_size=128,
    intermediate_size=11008,
    max_positions=4096,
    remat="layers",
)
LORA = Lora(16, 32.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A step on devices.

    Attributes:
        target: the devices.
        batch: rows of a step, on all of them.
        length: tokens of a row.
    """

    target: str
    batch: int
    length: int


CASES = {"h200": Case("h200", 8, 2048), "v5e": Case("v5e:2x4", 8, 2048)}

FLAGS = program_flags.Flags()
_CASES = FLAGS.DEFINE_list("cases", list(CASES), "Steps to plan.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_among(CASES, _CASES)


def task(config: Any, lora: Lora, batch: int, length: int) -> training.Task:
    """The task of LoRA of a model of the Llama kind, with shapes for parameters and batches.

    Args:
        config: configuration of the model, whose matrices are frozen in bfloat16.
        lora: its adapters.
        batch: rows of a step.
        length: tokens of a row.
    """
    family = llama_files.LLAMA
    model = PackedModel(family, config, lora)
    assert model.adapted is not None
    names = ("ids_BT", "targets", "segments_BT", "positions_BT")
    rows = {name: jax.ShapeDtypeStruct((batch, length), jnp.int32) for name in names}
    rows["weight"] = jax.ShapeDtypeStruct((batch,), jnp.float32)

    def frozen(key: jax.Array) -> Any:
        return from_nnx(family.model(config, rngs=Keys(key)))[0]

    made = training.Task(init=model.adapted.init, loss=model.losses, batches=lambda step: rows, frozen=frozen)
    return PRECISIONS["mixed"].task(made)


def planned(case: Case) -> dict[str, Any]:
    """The row of a case."""
    made = task(LLAMA_2_7B, LORA, case.batch, case.length)
    key = jax.random.key(0)
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(make, key)))
        for name, make in (("frozen", made.frozen), ("adapters", made.init))
    }
    devices = len(plan.target(case.target).devices)
    rules = shapes.partition({"data": devices})
    found = plan.step(made, optimiz.adamw(1e-4), case.target, frozen_rules=rules)
    row = plan_report.row("adamw", found, counts["adapters"])
    return {**dataclasses.asdict(case), "rank": LORA.rank, "frozen_parameters": counts["frozen"], **row}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a row from the others."""
    return row["target"], row["batch"], row["length"]


def main() -> None:
    """Plan what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    record: dict[str, Any] = {"environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, lora_report.report)
    for name in _CASES.value:
        case = CASES[name]
        if _key(dataclasses.asdict(case)) not in [_key(row) for row in record["rows"]]:
            record["rows"].append(planned(case))
            markdown.write_record(record, path, lora_report.report)
    terminal.show(lora_report.summary(record))


if __name__ == "__main__":
    command.run(main, FLAGS)
