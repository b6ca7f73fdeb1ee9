import pytest

import optimiz
from optimiz.diagnostics import watch as watch_page
from optimiz.diagnostics.health import health
from optimiz.diagnostics.watch import Watch
from tests.diagnostics import runs


def live(rows, every=5):
    """What is named, and at which share of the run, with a look at every so many rows."""
    watch, told = Watch(), []
    for start in range(0, len(rows), every):
        looked = rows[start : start + every]
        share = (start + len(looked)) / len(rows)
        told += [(finding.name, share) for finding in watch(looked, share)]
    return told


@pytest.mark.quick(1)
@pytest.mark.parametrize("tx", runs.HEALTHY.values(), ids=runs.HEALTHY)
def test_a_healthy_run_has_no_findings_at_any_time(tx):
    for noise in (0.0, 0.2):
        assert live(runs.train(tx, noise=noise, examples=4096)) == []


@pytest.mark.parametrize("tx", [optimiz.adamw(3.0), optimiz.sgd(30.0)], ids=["adamw", "sgd"])
def test_a_rate_too_high_is_named_early_and_once(tx):
    ((name, share),) = live(runs.train(tx))
    assert name == "learning_rate_too_high" and share <= 0.2


def test_what_stands_still_is_named_before_the_end_and_not_before_half_of_the_run():
    rate = runs.schedule(1e-6)
    ((name, share),) = live(runs.train(optimiz.adamw(rate), schedule=rate))
    assert name == "learning_rate_too_low" and 0.5 <= share < 0.9


@pytest.mark.long
def test_what_only_the_whole_run_shows_is_named_at_its_end():
    rate = runs.schedule(1e-4)
    assert live(runs.train(optimiz.adamw(rate), schedule=rate)) == [("learning_rate_too_low", 1.0)]


def test_what_is_not_finite_is_named_at_once():
    rows = [{"step": step, "loss": 1.0} for step in range(99)] + [{"step": 99, "loss": float("inf")}]
    watch = Watch()
    assert watch(rows[:98], 0.4) == []
    (finding,) = watch(rows[98:], 0.41)
    assert str(finding).startswith("not finite (step 99): at step 99: loss inf; the loss was 1 at first")
    assert str(finding).endswith(finding.remedy)


def test_a_long_run_is_judged_some_dozens_of_times(monkeypatch):
    judged = []
    monkeypatch.setattr(watch_page, "health", lambda rows, share: judged.append(len(rows)) or [])
    watch = Watch()
    for step in range(10_000):
        watch([{"step": step, "loss": 1.0}], step / 10_000)
    assert judged[0] == 1 and len(judged) < 90 and sum(judged) < 12 * 10_000


def test_refuses_what_is_no_share_and_no_row():
    for share, message in ((1.5, r"share must be in \[0, 1\], got 1.5"), (-0.1, "got -0.1")):
        with pytest.raises(ValueError, match=message):
            Watch()([], share)
        with pytest.raises(ValueError, match=message):
            health([], share=share)
    with pytest.raises(TypeError, match="a row must be a mapping, got 3"):
        Watch()([3], 0.5)
