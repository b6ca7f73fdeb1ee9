"""What each of 16 or 256 TPU v5e holds and sends, as their compiler plans it; the record and its page.

python -m tests.scaling_record            plans what the record lacks (it needs the extra tpu), and renders
python -m tests.scaling_record --render   renders what was planned before

Updates of Llama 2 are planned with every matrix split along both axes of the slice, and whole steps of GPT-2 in
every layout on 16 chips. Beside what the compiler says stands what a page of arithmetic would say.
"""

import itertools
import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

import optimiz
from examples.benchmarks import plan_report
from examples.benchmarks.plan_report import FITS, collectives, gib, planned_in
from examples.models import shapes
from examples.plan import make
from examples.tasks import planned
from optimiz import compare, groups, plan, training
from tests.conftest import ROOT

PATH = ROOT / "tests/records/scaling.json"
SLICES = {"v5e:4x4": 4, "v5e:16x16": 16}  # target → chips of a side
MODELS = {"Llama-2-7B": "llama-2-7b", "Llama-2-70B": "llama-2-70b"}
OPTIMIZERS = ("adamw", "sgd_sai", "lion")
GPT2 = shapes.Gpt2(4, 768, 12)  # four of its twelve layers, which are all alike
# Every matrix is split along its rows, where 256 chips divide these.
RULES = groups.label({P(None, "data"): groups.path("word"), P("data"): groups.everything})
LAYOUTS: dict[str, dict[str, Any]] = {
    "data parallel": {},
    "ZeRO-1": {"shard_state": True},
    "split parameters": {"rules": RULES},
}
# What a device sends of an array that it holds when all is done, on a ring of n devices.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


def update(model: str, target: str, optimizer: str) -> plan.Plan:
    """The plan of an update of Llama 2, with every matrix split along both axes."""
    mesh = {"data": SLICES[target], "model": SLICES[target]}
    described = ",".join(f"{axis}:{size}" for axis, size in mesh.items())
    params = shapes.structs(MODELS[model])
    return plan.update(make(optimizer), params, target, mesh=described, rules=shapes.partition(mesh))


def step(layout: str) -> plan.Plan:
    """The plan of a whole step of GPT-2 with AdamW on 16 chips, one row of 1024 tokens on each."""
    task = planned.task(GPT2, 16)
    return plan.step(task, optimiz.adamw(1e-4), "v5e:4x4", **LAYOUTS[layout])


def measure(record: dict[str, Any]) -> None:
    """Add the plans that a record lacks, and write it after each."""
    for key in itertools.product(MODELS, SLICES, OPTIMIZERS):
        if key not in [(row["model"], row["target"], row["optimizer"]) for row in record["updates"]]:
            size = sum(leaf.size for leaf in jax.tree.leaves(shapes.structs(MODELS[key[0]])))
            record["updates"].append({"model": key[0], **plan_report.row(key[2], update(*key), size)})
            _write(record)
    for layout in LAYOUTS:
        if layout not in [row["layout"] for row in record["steps"]]:
            size = sum(leaf.size for leaf in jax.tree.leaves(shapes.as_structs(GPT2.shapes(), "float32")))
            record["steps"].append({"layout": layout, **plan_report.row("adamw", step(layout), size)})
            _write(record)


def _write(record: Mapping[str, Any]) -> None:
    training.write_whole(PATH, json.dumps(record, indent=1) + "\n")


def chips(planned: plan.Plan) -> int:
    """Number of devices that a plan is for."""
    return SLICES[planned.target] ** 2


def on_paper(layout: str, n: int, size: int) -> float:
    """Bytes that a device sends in a step, by arithmetic.

    Args:
        layout: one of LAYOUTS.
        n: number of devices.
        size: bytes of the parameters, and of their gradients.
    """
    passes = {"data parallel": 2, "ZeRO-1": 2, "split parameters": 3}[layout]
    return passes * (n - 1) / n * size


def sent(planned: plan.Plan) -> float:
    """Bytes that a device sends in a step, from the collectives of the compiled program."""
    n = chips(planned)
    return sum(_SENT[kind](n) * its.bytes for kind, its in planned.collectives.items())


def in_words(record: Mapping[str, Any]) -> str:
    """The sentence in docs/devices.md."""
    peaks = [gib(planned_in(row).peak) for row in record["steps"]]
    llama = {
        row["target"]: planned_in(row)
        for row in record["updates"]
        if (row["model"], row["optimizer"]) == ("Llama-2-7B", "adamw")
    }
    return (
        f"By the compiler of TPU v5e, a step of a small GPT-2 with AdamW takes {peaks[0]} of each of 16 chips, "
        f"{peaks[1]} with ZeRO-1 and {peaks[2]} where parameters are split too; an update of Llama-2-7B, split "
        f"along both axes of the slice, takes {gib(llama['v5e:4x4'].peak)} of each of 16 and "
        f"{gib(llama['v5e:16x16'].peak)} of each of 256 ([more, up to 70B, and the traffic]"
        "(../tests/records/scaling.md))."
    )


def render(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    versions = record["environment"]["versions"]
    dates = sorted({row["date"] for row in (*record["updates"], *record["steps"])})
    lines = [
        "# What each of 16 or 256 TPU v5e holds and sends",
        "",
        f"Planned by the devices' compiler on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, jax "
        f"{versions['jax']}; no such machine was used. Sizes are per chip, in float32; 1 GiB = 2³⁰ bytes, and "
        "a chip has 16.",
        "",
        "## Updates of Llama 2",
        "",
        "Every matrix is split along both axes of the slice, `data` and `model`, and gradients and state like "
        "their parameters. On paper an update holds parameters, gradients and state; the compiler adds what it "
        "needs besides.",
        "",
        compare.table(
            ["model", "optimizer", "chips", "on paper", "temporary", "peak", "fits", "collectives"],
            [_update(row) for row in record["updates"]],
            words=2,
        ),
        "",
        "## Whole steps of GPT-2",
        "",
        "Forward, backward and update of a GPT-2 with four of its twelve layers, 68 million parameters, with "
        "AdamW, one row of 1,024 tokens on each of 16 chips, and `data` as the only axis.",
        "",
        "- **Data parallel**: `Layout(mesh)`. Every chip holds everything.",
        "- **ZeRO-1**: `Layout(mesh, shard_state=True)`. Each chip holds its part of the state; parameters are "
        "whole.",
        "- **Split parameters**: `Layout(mesh, rules)` with rules that split each along `data`. Gradients and "
        "state are laid out like their parameters.",
        "",
        compare.table(
            ["layout", "parameters", "state", "temporary", "peak", "fits"],
            [_step(row) for row in record["steps"]],
        ),
        "",
        "## Paper and compiler",
        "",
        "On a ring of n devices, an all-gather of an array sends (n − 1)/n of its bytes from each device. A "
        "reduce-scatter sends as much, and an all-reduce is both. With P the bytes of the parameters and G = P "
        "those of the gradients, on paper a step sends",
        "",
        "| layout | what | bytes per device |",
        "| --- | --- | --- |",
        "| data parallel | all-reduce of the gradients | 2 (n − 1)/n · G |",
        "| ZeRO-1 | reduce-scatter of the gradients, all-gather of the updates | (n − 1)/n · (G + P) |",
        "| split parameters | all-gather of the parameters, forward and again backward, reduce-scatter of the "
        "gradients | (n − 1)/n · (2 P + G) |",
        "",
        "What the compiled programs of the steps above send, each collective on a ring of all chips:",
        "",
        compare.table(
            ["layout", "collectives", "on paper", "compiled", "ratio"],
            [_traffic(row) for row in record["steps"]],
            words=2,
        ),
        "",
        "Data parallel, the gradient of the table is reduced twice, as that of the embeddings and as that of "
        "the head. Where parameters are split along the axis of the batch, XLA does not gather them for each "
        "layer: it multiplies by each part, and then gathers and reduces activations, logits among them. That "
        "sends more and holds more.",
    ]
    return "\n".join(lines) + "\n"


def _update(row: Mapping[str, Any]) -> list[str]:
    found = planned_in(row)
    cells = [row["model"], f"`{row['optimizer']}`", str(chips(found)), gib(sum(found.arguments.values()))]
    cells += [gib(found.temporary), gib(found.peak), FITS[found.fits]]
    return [*cells, collectives(found) if found.traffic else ""]


def _step(row: Mapping[str, Any]) -> list[str]:
    found = planned_in(row)
    sizes = (found.arguments["parameters"], found.arguments["state"], found.temporary, found.peak)
    return [row["layout"], *map(gib, sizes), FITS[found.fits]]


def _traffic(row: Mapping[str, Any]) -> list[str]:
    found = planned_in(row)
    paper, compiled = on_paper(row["layout"], chips(found), 4 * row["parameters"]), sent(found)
    # A loop of unknown length is counted once.
    least = "at least " if found.traffic and found.traffic.unknown_loops else ""
    cells = [row["layout"], collectives(found), gib(paper), least + gib(compiled)]
    return [*cells, f"{least}{compiled / paper:.2f}"]


def main() -> None:
    """Plan what the record lacks, unless it is only to be rendered, and write the page."""
    record: dict[str, Any] = {"environment": compare.environment(), "updates": [], "steps": []}
    if PATH.exists():
        record = json.loads(PATH.read_text(encoding="utf-8"))
    if "--render" not in sys.argv:
        measure(record)
    PATH.with_suffix(".md").write_text(render(record), encoding="utf-8")


if __name__ == "__main__":
    main()
