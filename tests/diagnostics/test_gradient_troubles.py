import jax
import optax
import pytest

import optimiz
from optimiz.diagnostics import health
from tests.diagnostics import runs


@pytest.mark.long
def test_blocks_cut_off_from_the_loss():
    def loss(params, x, y):
        return runs.cross_entropy(params | {"layers_0": jax.lax.stop_gradient(params["layers_0"])}, x, y)

    finding = runs.only(runs.train(optimiz.adamw(3e-3), loss=loss, examples=4096))
    assert finding.name == "dead_blocks"
    assert finding.evidence.endswith("in layers_0/bias, layers_0/kernel")


@pytest.mark.long
def test_relus_that_have_died():
    params = runs.init()
    params["layers_0"]["bias"] -= 100.0
    finding = next(
        f for f in health(runs.train(optimiz.sgd(0.1), params=params, loss=runs.relu)) if "dead" in f.name
    )
    assert "layers_0/bias, layers_0/kernel" in finding.evidence and "head/bias" not in finding.evidence


def test_the_bias_of_keys_has_no_gradient_and_is_not_dead():
    norms = {"attention/key/bias": 1e-9, "attention/query/bias": 1.0, "attention/key/kernel": 2.0}
    rows = [{"step": step, "block_norms": norms} for step in range(10)]
    assert health(rows) == []
    renamed = {name.replace("key", "value"): x for name, x in norms.items()}
    assert runs.names([row | {"block_norms": renamed} for row in rows]) == ["dead_blocks"]


def test_decay_of_the_wrong_sign_makes_blocks_explode():
    tx = optax.chain(optax.add_decayed_weights(-1.0), optax.scale(-0.02))
    found = {finding.name: finding for finding in health(runs.train(tx, loss=runs.relu))}
    assert set(found) == {"learning_rate_too_high", "exploding_blocks"}
    assert "layers_0/kernel (from " in found["exploding_blocks"].evidence
    assert found["exploding_blocks"].step > runs.STEPS // 4


@pytest.mark.long
def test_clipping_on_most_steps():
    def run(max_norm):
        tx = optax.chain(optax.clip_by_global_norm(max_norm), optimiz.adamw(3e-3))
        return runs.train(tx, examples=4096, max_norm=max_norm)

    finding = runs.only(run(0.05))
    assert (finding.name, finding.step) == ("clipping_most_steps", 30)
    assert finding.evidence == "100% of the updates from step 30 on were clipped"
    assert runs.names(run(1.0)) == []
