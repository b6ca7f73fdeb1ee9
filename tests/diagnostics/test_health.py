import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import schedules
from optimiz.diagnostics.health import Finding, health
from optimiz.training import metrics
from tests.diagnostics import runs

STEPS = 300


def schedule(peak, warm_up=0.1, steps=STEPS):
    shape = schedules.cosine(peak)
    return schedules.over_steps(schedules.warm_up(shape, warm_up) if warm_up else shape, steps)


def names(rows):
    return [finding.name for finding in health(rows)]


def only(rows):
    (finding,) = health(rows)
    return finding


def relu(params, x, y):
    return runs.cross_entropy(params, x, y, jax.nn.relu)


def squares(params, x, y):
    """Squared error of the logits."""
    for name in ("layers_0", "layers_1"):
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return jnp.mean(
        (x @ params["head"]["kernel"] + params["head"]["bias"] - jax.nn.one_hot(y, runs.CLASSES)) ** 2
    )


HEALTHY = {
    "adamw, warm-up and cosine": optimiz.adamw(schedule(1e-2)),
    "adamw, constant": optimiz.adamw(3e-3),
    "momentum": optimiz.sgd(0.1, 0.9),
    "lion": optimiz.lion(schedule(1e-3)),
    "signum": optimiz.signum(schedule(1e-3)),
}


@pytest.mark.parametrize(("batch", "noise"), [(8, 0.2), (64, 0.0), (64, 0.2)])
@pytest.mark.parametrize("tx", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_run_has_no_finding(tx, batch, noise):
    assert health(runs.train(tx, batch=batch, noise=noise, examples=4096)) == []


def test_a_healthy_run_that_says_all_it_can():
    rate = schedule(1e-2)
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

    finding = only(runs.train(optimiz.sgd(0.1), 5, loss=loss))
    assert (finding.name, finding.step) == ("not_finite", 0)
    assert "layers_0/bias nan" in finding.evidence and "layers_0/kernel" not in finding.evidence
    assert "gradient_norm nan" in finding.evidence and "loss nan" not in finding.evidence


@pytest.mark.parametrize("tx", [optimiz.adamw(3.0), optimiz.sgd(30.0)], ids=["adamw", "sgd"])
def test_a_rate_too_high(tx):
    finding = only(runs.train(tx))
    assert (finding.name, finding.step) == ("learning_rate_too_high", 1)
    assert "the loss began at 1.479" in finding.evidence


@pytest.mark.parametrize(
    ("rate", "seen"),
    [
        (schedule(1e-6), "from the first quarter of the run to its last the loss fell by"),
        (schedule(1e-4), "it was still falling as fast, at learning rates up to 0.0001"),
    ],
    ids=["stands", "crawls"],
)
def test_a_rate_too_low(rate, seen):
    finding = only(runs.train(optimiz.adamw(rate), schedule=rate))
    assert (finding.name, finding.step) == ("learning_rate_too_low", 0) and seen in finding.evidence


@pytest.mark.parametrize(("first", "found"), [(0.4, ["learning_rate_too_low"]), (0.1, [])])
def test_a_loss_that_falls_when_the_rate_has_decayed_had_no_rate_too_low(first, found):
    noise = 0.01 * np.random.default_rng(0).normal(size=80)
    loss = np.interp(np.arange(80), [0, 40, 79], [2.7, 2.7 - first, 1.9]) + noise
    rows = [{"step": i, "loss": float(x), "gradient_norm": 1.0} for i, x in enumerate(loss)]
    assert names(rows) == found


def test_a_warm_up_too_short():
    rate = schedule(1.0, warm_up=None)
    finding = only(runs.train(optimiz.adamw(rate), schedule=rate))
    assert finding.name == "warm_up_too_short" and finding.step < 20
    assert f"where the learning rate is {float(rate(finding.step)):.3g}" in finding.evidence
    warm = schedule(0.03, warm_up=0.1)
    assert names(runs.train(optimiz.adamw(warm), examples=4096, schedule=warm)) == []


def test_an_oscillation():
    finding = only(runs.train(optimiz.sign_sgd(0.03), batch=512, loss=squares))
    assert finding.name == "oscillation" and "a period of about 2 rows" in finding.evidence


def test_a_plateau():
    rows = runs.train(optimiz.adamw(1e-2), 800, params=runs.init(2), noise=0.3, batch=512)
    finding = only(rows)
    assert (finding.name, finding.step) == ("plateau", 400)
    # Cut off where it still learns, it has none.
    assert names([row for row in rows if row.get("step", row.get("steps")) < 100]) == []


def test_over_fitting():
    rows = runs.train(optimiz.adamw(1e-2), examples=64, noise=0.3, batch=64)
    finding = only(rows)
    assert (finding.name, finding.step) == ("over_fitting", 50)
    best = rows[50]["evaluation"]["loss"]
    assert f"was least, {best:.4g}, after 50 steps" in finding.evidence
    assert "Keep the parameters of step 50" in finding.remedy


def test_blocks_cut_off_from_the_loss():
    def loss(params, x, y):
        return runs.cross_entropy(params | {"layers_0": jax.lax.stop_gradient(params["layers_0"])}, x, y)

    finding = only(runs.train(optimiz.adamw(3e-3), loss=loss, examples=4096))
    assert finding.name == "dead_blocks"
    assert finding.evidence.endswith("in layers_0/bias, layers_0/kernel")


def test_relus_that_have_died():
    params = runs.init()
    params["layers_0"]["bias"] -= 100.0
    finding = next(
        f for f in health(runs.train(optimiz.sgd(0.1), params=params, loss=relu)) if "dead" in f.name
    )
    assert "layers_0/bias, layers_0/kernel" in finding.evidence and "head/bias" not in finding.evidence


def test_the_bias_of_keys_has_no_gradient_and_is_not_dead():
    norms = {"attention/key/bias": 1e-9, "attention/query/bias": 1.0, "attention/key/kernel": 2.0}
    rows = [{"step": step, "block_norms": norms} for step in range(10)]
    assert health(rows) == []
    renamed = {name.replace("key", "value"): x for name, x in norms.items()}
    assert names([row | {"block_norms": renamed} for row in rows]) == ["dead_blocks"]


def test_decay_of_the_wrong_sign_makes_blocks_explode():
    tx = optax.chain(optax.add_decayed_weights(-1.0), optax.scale(-0.02))
    found = {finding.name: finding for finding in health(runs.train(tx, loss=relu))}
    assert set(found) == {"learning_rate_too_high", "exploding_blocks"}
    assert "layers_0/kernel (from " in found["exploding_blocks"].evidence
    assert found["exploding_blocks"].step > STEPS // 4


def test_clipping_on_most_steps():
    def run(max_norm):
        tx = optax.chain(optax.clip_by_global_norm(max_norm), optimiz.adamw(3e-3))
        return runs.train(tx, examples=4096, max_norm=max_norm)

    finding = only(run(0.05))
    assert (finding.name, finding.step) == ("clipping_most_steps", 30)
    assert finding.evidence == "100% of the updates from step 30 on were clipped"
    assert names(run(1.0)) == []


@functools.cache
def overflowing():
    return runs.train(
        optimiz.sgd(30.0), 30, loss=lambda *args: runs.cross_entropy(*args, activation=lambda z: z)
    )


def test_reads_what_a_trainer_has_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, overflowing())
    assert health(metrics.read_metrics(path)) == health(overflowing()) != []
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


def test_an_evaluation_that_is_not_finite():
    (finding,) = health([{"steps": 10, "evaluation": {"loss": math.inf, "accuracy": 0.5}}])
    assert finding == Finding("not_finite", "at step 10: evaluation loss inf", finding.remedy, 10)


def test_refuses_what_is_no_row():
    with pytest.raises(TypeError, match="a row must be a mapping, got 3"):
        health([3])
    with pytest.raises(ValueError, match=r"a row must have step or steps, got \{'loss': 1.0\}"):
        health([{"loss": 1.0}])
