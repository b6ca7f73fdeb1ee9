"""The study on default rates: what is run, what is chosen, and that methods have the rates of its record."""

import dataclasses
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from examples import records
from examples.studies.default_rates import report
from examples.studies.default_rates.settings import LONGER, SETTINGS
from optimiz import compare
from tests.compare.records import record, run
from tests.conftest import ROOT

COMMITTED = ("fine_tuning", "from_scratch")


def study():
    """AdamW is best at 0.01 of three rates; SGD at its highest, and its lowest diverges."""
    runs = [
        run(name, None, rate=rate, extra={"validation": loss})
        for name, losses in {"adamw": (1.5, 1.3, 1.31), "sgd": (None, 1.8, 1.6)}.items()
        for rate, loss in zip((0.00316, 0.01, 0.0316), losses, strict=True)
    ]
    settings = {"setting": "fine_tuning", "steps": 75, "batch_size": 16}
    return dataclasses.replace(record(*runs), settings=settings)


def test_the_best_rate_and_what_others_lose_are_of_each_optimizers_own_grid():
    results = report.Results(study())
    assert results.rate("adamw") == 0.01 and not results.at_edge("adamw") and results.at_edge("sgd")
    assert results.lost("adamw") == pytest.approx({0.00316: 0.2, 0.01: 0.0, 0.0316: 0.01})
    assert results.lost("sgd")[0.00316] == math.inf
    assert (results.decades("adamw"), results.decades("sgd")) == (pytest.approx(0.5, abs=1e-3), 0.0)
    table = report.summary(study())
    assert "| `adamw` | 0.0001 | 0.01 | 3 | 1.300 | 0.5 | 0.200 | 0.010 |" in table
    assert "| `sgd` | 0.003 | 0.0316, **an edge** | 3 | 1.600 | 0.0 | 0.200 |  |" in table
    assert "Means over 1 seed of runs of 75 updates of 16 examples" in report.render(study())


@pytest.mark.parametrize("setting", COMMITTED)
def test_every_optimizer_has_a_default_rate_within_half_a_decade_of_its_best(setting):
    results = report.Results(records.default_rates()[setting])
    assert results.names == SETTINGS[setting].names
    assert not [name for name in results.names if results.at_edge(name)]
    for name in results.names:
        default, best = results.default(name), results.rate(name)
        assert default is not None and abs(math.log10(default / best)) < 0.55, (name, default, best)


def test_in_longer_runs_the_default_is_the_best_rate():
    results = report.Results(records.longer_default_rates())
    assert {"adamw", "lion"} <= set(results.names) <= set(SETTINGS[LONGER].names)
    assert not [name for name in results.names if results.at_edge(name)]
    chosen = [name for name in results.names if name != "prodigy"]  # whose factor is its authors'
    assert all(results.default(name) == float(f"{results.rate(name):.1g}") for name in chosen)
    assert results.lost("prodigy")[1.0] < 0.1


@pytest.mark.parametrize("setting", SETTINGS)
def test_arms_run_an_optimizer_as_its_trainer_does_and_share_a_compiled_step(setting):
    arms = SETTINGS[setting].arms("adamw")
    assert len({one.make for one in arms}) == 1
    ratio = arms[2].learning_rate / arms[0].learning_rate
    assert ratio == pytest.approx(10, rel=0.01)
    params = {"embed": {"w": jnp.ones((2, 2))}, "head": {"w": jnp.ones((2, 2))}}
    tx = arms[1].optimizer()
    state, grads = tx.init(params), jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
    head = updates["head"]["w"] / updates["embed"]["w"]
    assert head == pytest.approx(1.0 if setting == "from_scratch" else 50.0, rel=1e-3)


@pytest.mark.long
def test_the_study_as_a_person_runs_it(tmp_path):
    flags = {"setting": "from_scratch", "optimizers": "adamw,muon", "extensions": 0, "output": tmp_path / "out"}
    given = [f"--{name}={value}" for name, value in flags.items()]
    program = [sys.executable, "-m", "examples.studies.default_rates.study", *given]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = compare.Record.read(tmp_path / "out/record.json")
    assert [*dict.fromkeys(one.optimizer for one in found.runs)] == ["adamw", "muon"] and len(found.runs) == 6
    assert (tmp_path / "out/report.md").read_text() == report.render(found)
