"""The study on a language model: what is chosen, what is compared on which budget, and what is said of it."""

import dataclasses
import math
import subprocess
import sys

import pytest

from examples.shared.verdicts import HOLDS, NOT_HERE, OPEN
from examples.studies.language_model import report
from examples.studies.language_model.arms import GRIDS, arm
from optimiz import compare
from tests.compare.records import record, run
from tests.conftest import ROOT

SECONDS = {"adamw": 0.1, "muon": 0.2, "sgd_sai": 0.101}
TIMES = {name: {"seconds": x, "spread": 0.0, "n": 20} for name, x in SECONDS.items()}


def one(name, rate, seed, validation, test, budget="steps"):
    extra = {"budget": budget, "validation": validation, "loss": [5.0, 4.0, 3.0]}
    return run(name, test, rate=rate, seed=seed, extra=extra, test={"loss": test})


def study():
    """Muon is ahead of AdamW after as many updates, and behind in as much time; SGD-SaI is a little behind."""
    runs = []
    for name, losses in (("adamw", (4.2, 4.0, 4.1)), ("muon", (3.9, 3.8, 4.0)), ("sgd_sai", (4.1, 4.0, None))):
        runs += [one(name, rate, 0, loss, 9.0) for rate, loss in zip((0.1, 1.0, 10.0), losses, strict=True)]
    for seed, noise in ((1, 0.0), (2, 0.01), (3, 0.02)):
        runs += [one("adamw", 1.0, seed, 0.0, 4.0 + noise), one("sgd_sai", 1.0, seed, 0.0, 4.01 + noise)]
        runs += [one("muon", 1.0, seed, 0.0, 3.8 + noise)]
        runs += [one("muon", 1.0, seed, 0.0, 4.3 + 1.1 * noise, budget="time")]
    settings = {"steps": 200, "batch_size": 8, "length": 64}
    extra = {"seconds": TIMES, "frequencies": {"loss": 6.5}}
    return dataclasses.replace(record(*runs), settings=settings, extra=extra)


def test_a_dearer_step_gets_fewer_updates_and_equal_prices_the_same_runs():
    assert report.in_equal_time(TIMES, 200) == {"adamw": 200, "muon": 100, "sgd_sai": 200}
    results = report.Results(study())
    assert results.losses("sgd_sai", "time") == results.losses("sgd_sai", "steps")
    assert [*map(len, (results.of("muon", "steps"), results.of("muon", "time")))] == [3, 3]
    assert results.mean("muon", "time") == pytest.approx(4.311)


def test_rates_are_of_the_seed_that_chooses_and_losses_of_the_others():
    results = report.Results(study())
    assert results.grid("sgd_sai") == {0.1: -4.1, 1.0: -4.0, 10.0: -math.inf}
    found = results.above("muon", "adamw", "steps")
    assert found is not None and found.mean == pytest.approx(-0.2)
    text = report.summary(study())
    assert "After 200 updates**, the test loss of adamw is 4.010 ± 0.006 nats per token" in text
    assert "lower with muon -0.200 (" in text and ", muon +0.301 (" in text
    assert "edges" not in text


def test_a_published_order_holds_is_contradicted_or_cannot_be_told():
    difference = lambda low, high: compare.Difference((low + high) / 2, low, high, 3)  # noqa: E731
    ahead = next(order for order in report.ORDERS if not order.on_par)
    on_par = next(order for order in report.ORDERS if order.on_par)
    for order, low, high, verdict in (
        (ahead, -0.2, -0.1, HOLDS),
        (ahead, -0.2, 0.1, OPEN),
        (ahead, 0.1, 0.2, NOT_HERE),
        (on_par, -0.2, 0.01, HOLDS),
        (on_par, -0.2, 0.2, OPEN),
        (on_par, 0.001, 0.2, NOT_HERE),
    ):
        assert report.verdict(order, difference(low, high)) == verdict
    assert report.verdict(ahead, None) == NOT_HERE
    page = report.render(study())
    assert "Muon needs fewer updates than AdamW" in page and "NorMuon" not in page
    assert "took 0.100 s (20 measured, interquartile range 0.000) on 512 tokens" in page


def test_a_run_that_diverged_is_worse_than_any_other():
    broken = study()
    runs = [
        dataclasses.replace(run, test={"loss": None}, diverged_at=3) if run.optimizer == "sgd_sai" else run
        for run in broken.runs
    ]
    results = report.Results(dataclasses.replace(broken, runs=runs))
    assert results.above("sgd_sai", "adamw", "steps") is None and results.mean("sgd_sai", "steps") == math.inf
    assert "sgd_sai (a run diverged)" in report.in_words(results)


def test_every_arm_can_be_built_and_rates_share_a_step():
    for name, grid in GRIDS.items():
        arms = [arm(name, rate, 10, "steps") for rate in grid]
        assert len({one.make for one in arms}) == 1 and arms[0].optimizer() is not None
    assert {name for order in report.ORDERS for name in (order.better, order.than)} <= {*GRIDS}


@pytest.mark.long
def test_the_study_as_a_person_runs_it(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} times {i} is {i * i}.\n" for i in range(12_000)))
    flags = {"data": text, "vocab_size": 300, "layers": 1, "hidden_size": 16, "heads": 2, "length": 16}
    flags |= {
        "steps": 10,
        "seeds": 2,
        "extensions": 1,
        "optimizers": "adamw,muon,soap_one_sided",
        "output": tmp_path / "out",
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    program = [sys.executable, "-m", "examples.studies.language_model.study", *given]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = compare.Record.read(tmp_path / "out/record.json")
    assert (tmp_path / "out/report.md").read_text() == report.render(found)
    assert (tmp_path / "out/losses.png").exists()
    again = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and compare.Record.read(tmp_path / "out/record.json").runs == found.runs
