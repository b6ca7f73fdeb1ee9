"""The study on fine-tuning: what is chosen, what is compared, and what is said of it."""

import dataclasses
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from examples.studies.fine_tuning import report
from examples.studies.fine_tuning.arms import GRIDS, STARTS, arm
from examples.studies.tuned import HEAD_RATE, chosen, levels, with_validation
from optimiz import compare
from tests.compare.records import record, run
from tests.conftest import ROOT
from tests.examples.test_finetune_text import data, model  # noqa: F401


def one(name, rate, seed, validation, test, start="pretrained"):
    extra = {"start": start, "validation": validation, "loss": [1.0] * 19 + [0.5, 0.3]}
    made = run(name, test, rate=rate, seed=seed, extra=extra, test={"accuracy": test})
    return dataclasses.replace(made, heterogeneity={"gini_norm": 0.9})


def study(ahead=0.1):
    """Adam is best at 0.1, where it is ahead of SGD by a given lead, and 0.01 is best for SGD, an edge."""
    runs = []
    for seed in range(2):
        runs += [one("adam", rate, seed, at, 0.0) for rate, at in ((0.01, 0.5), (0.1, 0.7), (1.0, 0.69))]
        runs += [one("sgd", rate, seed, at, 0.0) for rate, at in ((0.01, 0.6), (0.1, 0.5), (1.0, None))]
    for seed, noise in ((2, 0.0), (3, 0.01), (4, 0.02)):
        runs += [one("adam", 0.1, seed, 0.7, 0.8 + noise), one("sgd", 0.01, seed, 0.6, 0.8 + 2 * noise - ahead)]
    return record(*runs)


def test_rates_are_chosen_by_their_seeds_alone():
    of = [run for run in study().runs if run.seed < report.CHOOSING]
    assert chosen(of) == {"adam": 0.1, "sgd": 0.01}
    sgd = [run for run in of if run.optimizer == "sgd"]
    assert levels(sgd) == {0.01: 0.6, 0.1: 0.5, 1.0: -math.inf}


def test_a_lead_is_paired_and_from_further_seeds():
    results = report.Results(study())
    lead = results.lead("pretrained", "sgd")
    assert lead.mean == pytest.approx(0.09) and 0 < lead.low < 0.09
    text = report.summary(study())
    assert "norms: 0.90): in test accuracy, Adam is ahead of sgd (+0.090; " in text
    assert "| pretrained | sgd | 0.01, **an edge** | 3 | 0.0 |" in text
    assert "| pretrained | adam | 0.1 | 3 | 1.0 | 0.810 ± 0.006 | 0.400 ± 0.000 |  |" in text
    assert "Adam is **not told apart** from sgd" in report.summary(study(ahead=0.01))
    assert "Adam is behind sgd" in report.summary(study(ahead=-0.2))


def test_an_optimizer_with_a_faster_head_is_compared_with_adam_with_one():
    heads = [dataclasses.replace(run, optimizer=f"{run.optimizer}_head") for run in study(ahead=0.2).runs]
    momentum = [dataclasses.replace(run, extra=run.extra | {"start": "pre_ln"}) for run in study().runs]
    both = record(*study().runs, *heads, *momentum)
    results = report.Results(both)
    assert results.compared("pretrained") == {"adam": ["sgd"], "adam_head": ["sgd_head"]}
    assert results.compared("pre_ln") == {"adam": ["sgd"]}
    alone, beside = report.Results(study()).lead("pretrained", "sgd"), results.lead("pretrained", "sgd")
    assert beside.mean == alone.mean and beside.low < alone.low  # of two intervals that hold together
    assert results.lead("pre_ln", "sgd") == alone
    text = report.summary(both)
    assert "Adam is ahead of sgd (+0.090; " in text and "With a faster head, it is ahead of sgd_head" in text
    assert "| pretrained | sgd_head | 0.01, **an edge** |" in text


def test_the_head_alone_is_faster():
    params = {"encoder": jnp.ones(2), "head": {"kernel": jnp.ones(2)}}
    moved = []
    for name in ("momentum", "momentum_head"):
        tx = arm("pretrained", name, 0.1, 10).optimizer()
        update = jax.jit(tx.update)
        _, state = update(params, tx.init(params), params)  # at the rate 0 of the warm-up
        moved.append(update(params, state, params)[0])
    (plain, faster) = moved
    assert faster["encoder"] == pytest.approx(plain["encoder"])
    assert faster["head"]["kernel"] == pytest.approx(HEAD_RATE * plain["head"]["kernel"])


def test_a_diverged_run_has_no_accuracy():
    broken = study()
    last = dataclasses.replace(broken.runs[-1], test={"accuracy": None}, diverged_at=3)
    results = report.Results(dataclasses.replace(broken, runs=[*broken.runs[:-1], last]))
    assert results.lead("pretrained", "sgd").mean > 0.2
    diverged = dataclasses.replace(last, history=[{"steps": 1, "evaluation": {"accuracy": 0.5}}])
    assert with_validation(diverged, "accuracy").extra["validation"] is None


def test_arms_of_one_optimizer_share_a_compiled_step():
    arms = [arm("pretrained", "sgd_sai", rate, 10) for rate in GRIDS["sgd_sai"]]
    assert len({one.make for one in arms}) == 1 and {*STARTS} == report._STARTS.keys()


@pytest.mark.long
def test_the_study_as_a_person_runs_it(model, data, tmp_path):  # noqa: F811
    flags = {"model": model, "data": data, "validation": data, "test": data, "output": tmp_path / "out"}
    flags |= {"steps": 10, "batch_size": 8, "length": 12, "seeds": 2, "extensions": 1, "optimizers": "adam,sgd"}
    given = [f"--{name}={value}" for name, value in flags.items()]
    program = [sys.executable, "-m", "examples.studies.fine_tuning.study", *given]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = compare.Record.read(tmp_path / "out/record.json")
    assert {run.extra["start"] for run in found.runs} == {*STARTS}
    assert (tmp_path / "out/report.md").read_text() == report.render(found)
    again = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and compare.Record.read(tmp_path / "out/record.json").runs == found.runs
