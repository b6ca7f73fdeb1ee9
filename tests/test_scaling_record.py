"""The record of scaling has every plan, what they hold is what layouts say, and sums are done by hand."""

import importlib.util
import json

import jax
import pytest
from jax.sharding import AbstractMesh

from examples.benchmarks.plan_report import planned_in
from examples.tasks import planned
from optimiz import plan, training
from tests import scaling_record
from tests.scaling_record import LAYOUTS, MODELS, OPTIMIZERS, SLICES

RECORD = json.loads(scaling_record.PATH.read_text(encoding="utf-8"))
PARAMETERS = {"Llama-2-7B": 6_738_415_616, "Llama-2-70B": 68_976_648_192}  # as their authors count them


def test_every_update_and_every_step_is_in_the_record():
    updates = {(row["model"], row["target"], row["optimizer"]) for row in RECORD["updates"]}
    assert updates == {(m, t, o) for m in MODELS for t in SLICES for o in OPTIMIZERS}
    assert [row["layout"] for row in RECORD["steps"]] == list(LAYOUTS)


def test_updates_hold_what_their_matrices_weigh():
    """AdamW holds sixteen bytes of a parameter, gradient and moments; only vectors are whole on every chip."""
    for row in RECORD["updates"]:
        held, n = planned_in(row).arguments, SLICES[row["target"]] ** 2
        part = 4 * PARAMETERS[row["model"]] / n
        assert row["parameters"] == PARAMETERS[row["model"]]
        assert part <= held["parameters"] <= 1.02 * part and held["gradients"] == held["parameters"]
        if row["optimizer"] == "adamw":
            assert 2 * held["parameters"] <= held["state"] <= 2 * held["parameters"] + 64


def test_steps_hold_what_layouts_say():
    task = planned.task(scaling_record.GPT2, 16)
    params = jax.eval_shape(task.init, jax.random.key(0))
    for row in RECORD["steps"]:
        found, its = planned_in(row).arguments, LAYOUTS[row["layout"]]
        mesh = AbstractMesh((SLICES[row["target"]] ** 2,), ("data",))
        layout = training.Layout(mesh, its.get("rules"), its.get("shard_state", False))
        assert found["parameters"] == training.bytes_per_device(params, layout.params(params))
        moments = 2 * training.bytes_per_device(params, layout.opt_state(params, params))
        assert moments <= found["state"] <= moments + 64


def test_the_gradient_of_the_tied_table_is_reduced_twice():
    (row,) = (row for row in RECORD["steps"] if row["layout"] == "data parallel")
    loss, parameters, table = 4, 4 * row["parameters"], 4 * 50257 * 768
    assert row["parameters"] == 67_736_832
    assert planned_in(row).collectives["all-reduce"].bytes == parameters + table + loss


def test_what_is_sent_is_the_arithmetic_of_the_page():
    assert scaling_record.on_paper("data parallel", 16, 1600) == 3000
    assert scaling_record.on_paper("ZeRO-1", 16, 1600) == 3000
    assert scaling_record.on_paper("split parameters", 16, 1600) == 4500
    moved = {"all-reduce": plan.Collective(1, 160), "all-gather": plan.Collective(2, 1600)}
    moved |= {"reduce-scatter": plan.Collective(1, 100), "collective-permute": plan.Collective(1, 7)}
    traffic = plan.Traffic(0, 0, 0, moved, 0)
    found = plan.Plan("v5e:4x4", {"data": 16}, {}, 0, 0, 0, traffic, 0, 1, 0.0)
    # 2 · 15/16 · 160, 15/16 · 1600 and 15 · 100.
    assert scaling_record.sent(found) == 300 + 1500 + 1500 + 7


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
def test_an_update_is_planned_as_in_the_record():
    (row,) = (
        row
        for row in RECORD["updates"]
        if (row["model"], row["target"], row["optimizer"]) == ("Llama-2-7B", "v5e:4x4", "lion")
    )
    again = scaling_record.update("Llama-2-7B", "v5e:4x4", "lion")
    assert (again.arguments, again.peak) == (row["arguments"], row["peak"])
