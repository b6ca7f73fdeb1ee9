import functools
import json
import math

import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz.diagnostics.health import Finding, health
from optimiz.training.storage import metrics_file
from tests.diagnostics import runs


@pytest.mark.quick(1)
@pytest.mark.parametrize(("batch", "noise"), [(8, 0.2), (64, 0.0), (64, 0.2)])
@pytest.mark.parametrize("tx", runs.HEALTHY.values(), ids=runs.HEALTHY)
def test_a_healthy_run_has_no_finding(tx, batch, noise):
    assert health(runs.train(tx, batch=batch, noise=noise, examples=4096)) == []


@pytest.mark.long
def test_a_healthy_run_that_says_all_it_can():
    rate = runs.schedule(1e-2)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optimiz.adamw(rate))
    rows = runs.train(tx, examples=4096, schedule=rate, max_norm=1.0)
    assert any(row["clipped_share"] for row in rows if "loss" in row) and health(rows) == []


def test_a_rate_that_overflows():
    rows = runs.train(optimiz.sgd(30.0), loss=lambda *args: runs.cross_entropy(*args, activation=lambda z: z))
    finding = next(f for f in health(rows) if f.name == "not_finite")
    row = next(row for row in rows if "loss" in row and not math.isfinite(row["loss"] + row["gradient_norm"]))
    assert finding.step == row["step"] > 0 and f"at step {row['step']}: " in finding.evidence
    assert f"the loss was {rows[0]['loss']:.4g} at first" in finding.evidence


def test_a_block_that_breaks_is_named():
    def loss(params, x, y):
        # A norm has no gradient at zero, where biases start.
        return runs.cross_entropy(params, x, y) + 1e-3 * jnp.linalg.norm(params["layers_0"]["bias"])

    finding = runs.only(runs.train(optimiz.sgd(0.1), 5, loss=loss))
    assert (finding.name, finding.step) == ("not_finite", 0)
    assert "layers_0/bias nan" in finding.evidence and "layers_0/kernel" not in finding.evidence
    assert "gradient_norm nan" in finding.evidence and "loss nan" not in finding.evidence


@functools.cache
def overflowing():
    return runs.train(
        optimiz.sgd(30.0), 30, loss=lambda *args: runs.cross_entropy(*args, activation=lambda z: z)
    )


@pytest.mark.long
def test_reads_what_a_trainer_has_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics_file.append(path, overflowing())
    assert health(metrics_file.read_metrics(path)) == health(overflowing()) != []
    # Also as the JSON itself has them, with the strings that stand for what is not finite.
    assert health([json.loads(line) for line in path.read_text().splitlines()]) == health(overflowing())


def test_a_probe_may_write_rows_of_its_own():
    apart = []
    for row in overflowing():
        apart.append({name: x for name, x in row.items() if name != "block_norms"})
        if "block_norms" in row:
            apart.append({"step": row["step"], "block_norms": row["block_norms"]})
    assert health(apart) == health(overflowing())


def test_too_little_is_no_reason_for_a_finding():
    assert health([]) == []
    assert health(runs.train(optimiz.sgd(30.0), 30)) == []
    assert health([{"steps": 10, "evaluation": {"accuracy": 0.5}}] * 5) == []


def test_a_step_that_was_skipped_is_passed_over():
    rows = [{"step": step, "loss": 1.0, "skipped_in_a_row": 0} for step in range(5)]
    rows[2] |= {"loss": math.nan, "skipped_in_a_row": 1}
    assert health(rows) == []
    rows[2]["skipped_in_a_row"] = 0
    assert [finding.name for finding in health(rows)] == ["not_finite"]


def test_an_evaluation_that_is_not_finite():
    (finding,) = health([{"steps": 10, "evaluation": {"loss": math.inf, "accuracy": 0.5}}])
    assert finding == Finding("not_finite", "at step 10: evaluation loss inf", finding.remedy, 10)


def test_refuses_what_is_no_row():
    with pytest.raises(TypeError, match="a row must be a mapping, got 3"):
        health([3])
    with pytest.raises(ValueError, match=r"a row must have step or steps, got \{'loss': 1.0\}"):
        health([{"loss": 1.0}])
