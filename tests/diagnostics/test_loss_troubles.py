import numpy as np
import pytest

import optimiz
from tests.diagnostics import runs


@pytest.mark.parametrize("tx", [optimiz.adamw(3.0), optimiz.sgd(30.0)], ids=["adamw", "sgd"])
def test_a_rate_too_high(tx):
    finding = runs.only(runs.train(tx))
    assert (finding.name, finding.step) == ("learning_rate_too_high", 1)
    assert "the loss began at 1.479" in finding.evidence


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("rate", "seen"),
    [
        (runs.schedule(1e-6), "from the first quarter of the run to its last the loss fell by"),
        (runs.schedule(1e-4), "it was still falling as fast, at learning rates up to 0.0001"),
    ],
    ids=["stands", "crawls"],
)
def test_a_rate_too_low(rate, seen):
    finding = runs.only(runs.train(optimiz.adamw(rate), schedule=rate))
    assert (finding.name, finding.step) == ("learning_rate_too_low", 0) and seen in finding.evidence


@pytest.mark.parametrize(("first", "found"), [(0.4, ["learning_rate_too_low"]), (0.1, [])])
def test_a_loss_that_falls_when_the_rate_has_decayed_had_no_rate_too_low(first, found):
    noise = 0.01 * np.random.default_rng(0).normal(size=80)
    loss = np.interp(np.arange(80), [0, 40, 79], [2.7, 2.7 - first, 1.9]) + noise
    rows = [{"step": i, "loss": float(x), "gradient_norm": 1.0} for i, x in enumerate(loss)]
    assert runs.names(rows) == found


@pytest.mark.long
def test_a_warm_up_too_short():
    rate = runs.schedule(1.0, warm_up=None)
    finding = runs.only(runs.train(optimiz.adamw(rate), schedule=rate))
    assert finding.name == "warm_up_too_short" and finding.step < 20
    assert f"where the learning rate is {float(rate(finding.step)):.3g}" in finding.evidence
    warm = runs.schedule(0.03, warm_up=0.1)
    assert runs.names(runs.train(optimiz.adamw(warm), examples=4096, schedule=warm)) == []


def test_an_oscillation():
    finding = runs.only(runs.train(optimiz.sign_sgd(0.03), batch=512, loss=runs.squares))
    assert finding.name == "oscillation" and "a period of about 2 rows" in finding.evidence


@pytest.mark.long
def test_a_plateau():
    rows = runs.train(optimiz.adamw(1e-2), 800, params=runs.init(2), noise=0.3, batch=512)
    finding = runs.only(rows)
    assert (finding.name, finding.step) == ("plateau", 400)
    # Cut off where it still learns, it has none.
    assert runs.names([row for row in rows if row.get("step", row.get("steps")) < 100]) == []


def test_over_fitting():
    rows = runs.train(optimiz.adamw(1e-2), examples=64, noise=0.3, batch=64)
    finding = runs.only(rows)
    assert (finding.name, finding.step) == ("over_fitting", 50)
    best = rows[50]["evaluation"]["loss"]
    assert f"was least, {best:.4g}, after 50 steps" in finding.evidence
    assert "Keep the parameters of step 50" in finding.remedy
