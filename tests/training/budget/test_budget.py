"""A budget is charged for the work done, at the prices of its reference, and ends a run alike everywhere."""

import dataclasses
import json
import math
import os
import signal
import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import schedules, training
from optimiz.optimizers.armijo_sgd import armijo_sgd
from optimiz.training import Reference, RunError, Settings, Task, Timing, Work
from tests.training import tiny
from tests.training.counting import counting

BATCH = {"target": np.full(4, 3.0, np.float32)}


def prices(batch=4, **seconds):
    times = {Work(name, batch=batch): Timing(price, 0.0, 1) for name, price in seconds.items()}
    return Reference(times=times, about={}, date="2026-01-01T00:00:00+00:00", environment={})


def quadratic(**parts):
    """Half the squared distance to 3."""

    def loss(params, batch, key):
        return 0.5 * (params["w"] - batch["target"]) ** 2

    task = Task(lambda key: {"w": jnp.zeros(())}, loss, lambda step: BATCH, lambda params: {"w": params["w"]})
    return dataclasses.replace(task, **parts)


def run(directory, tx=None, task=None, reference=None, resume=False, progress=None, **settings):
    return training.fit(
        task or quadratic(),
        tx or optax.sgd(0.1),
        Settings(**settings),
        directory,
        identity={},
        reference=reference or prices(step=0.3),
        resume=resume,
        progress=progress,
    )


def spent_by_hand(budget, evaluations, estimates, *, step, forward, hessian):
    """Fractions spent before each step and after the last, in exact arithmetic."""
    spent, fractions = Fraction(0), []
    while spent < budget:
        count = len(fractions)
        fractions.append(float(spent / budget))
        spent += Fraction(step) + evaluations(count) * Fraction(forward) + estimates(count) * Fraction(hessian)
    return fractions, float(spent)


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("budget", "steps"),
    [(1.0, 4), (0.9, 3), (0.9000000001, 3), (0.900000001, 4), (0.1, 1)],
)
def test_the_step_that_crosses_the_budget_is_made_and_none_after_it(tmp_path, budget, steps):
    result = run(tmp_path, budget=budget)
    assert result.steps == steps == len([row for row in result.history if "loss" in row])
    assert result.reference_seconds == pytest.approx(0.3 * steps, abs=1e-12)
    assert tiny.checkpoints(tmp_path) == [f"{steps:09d}"]
    distance = np.float32(3) * 0.9**steps
    assert float(result.params["w"]) == pytest.approx(3 - distance, rel=1e-6)


def test_all_that_was_done_is_charged_whenever_the_host_looks(tmp_path):
    evaluations = lambda count: 1 + 2 * (count % 3)  # noqa: E731
    table = {"step": 0.25, "forward": 0.125, "hessian": 0.5}
    fractions, spent = spent_by_hand(10, evaluations, lambda count: (count + 1) % 4 == 0, **table)
    marks = [0.1, 0.11, 0.5]
    crossed = [1 + max(i for i, x in enumerate(fractions) if x < mark) for mark in [*marks, 1]]
    rows = []
    for log_every in (1, 3, 100):
        directory = tmp_path / str(log_every)
        result = run(
            directory,
            counting(evaluations=evaluations, every=4),
            reference=prices(**table),
            budget=10,
            log_every=log_every,
            evaluate_at=marks,
        )
        assert (result.steps, result.reference_seconds) == (len(fractions), spent)
        rows.append((directory / "metrics.jsonl").read_bytes())
    assert rows[1:] == rows[:1] * 2
    losses = [row for row in result.history if "loss" in row]
    np.testing.assert_allclose([row["fraction"] for row in losses], fractions, rtol=1e-6)
    evaluated = [(row["steps"], row["fraction"]) for row in result.history if "evaluation" in row]
    assert [steps for steps, _ in evaluated] == sorted(set(crossed))
    assert evaluated[-1] == (len(fractions), 1.0)
    assert evaluated[0][1] == fractions[evaluated[0][0]]


def test_forward_passes_at_twice_the_price_leave_half_the_steps(tmp_path):
    steps = {}
    for forward in (0.25, 0.5):
        result = run(
            tmp_path / str(forward),
            counting(evaluations=lambda count: 2),
            reference=prices(step=1e-6, forward=forward, hessian=1.0),
            budget=10,
        )
        steps[forward] = result.steps
    assert steps == {0.25: 20, 0.5: 10}


@pytest.mark.long
def test_the_rate_follows_the_budget_as_it_follows_steps(tmp_path):
    shape = schedules.warm_up(schedules.cosine(0.3), 0.2)
    for name, make in {
        "injected": lambda rate: optax.inject_hyperparams(optax.adamw)(rate),
        "guarded": lambda rate: optimiz.guard(optimiz.accumulate(optimiz.adamw(rate), 1), 3),
    }.items():
        ours = run(tmp_path / f"{name} budget", make(schedules.over_budget(shape)), budget=20 * 0.3)
        theirs = training.fit(
            quadratic(),
            make(schedules.over_steps(shape, 20)),
            Settings(steps=20),
            tmp_path / name,
            identity={},
        )
        assert ours.steps == 20
        losses = [[row["loss"] for row in result.history if "loss" in row] for result in (ours, theirs)]
        np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_cap_on_steps_holds_under_a_budget_and_a_budget_under_a_cap(tmp_path):
    assert run(tmp_path / "steps", budget=100.0, steps=3).steps == 3
    seen = []
    result = run(tmp_path / "budget", budget=1.0, steps=100, log_every=2, progress=seen.append)
    assert result.steps == 4
    looks = {(progress.steps, round(progress.fraction, 6)) for progress in seen}
    assert looks == {(1, 0.3), (2, 0.6), (4, 1.0)}
    assert str(seen[-1]).startswith("step 4/100  100.0% of the budget  ")


def test_the_host_waits_at_looks_alone_and_makes_no_batch_in_vain(tmp_path):
    made = []

    def batches(step):
        made.append(step)
        # From the second step to the look at the tenth, only explicit transfers are allowed.
        jax.config.update("jax_transfer_guard", "disallow" if 1 <= step < 9 else "allow")
        return BATCH

    try:
        result = run(tmp_path, task=quadratic(batches=batches), budget=24 * 0.3, log_every=10)
    finally:
        jax.config.update("jax_transfer_guard", "allow")
    assert result.steps == 24 and made == [0, *range(24)]


def test_evaluations_and_checkpoints_are_not_charged(tmp_path):
    often = run(tmp_path / "often", budget=1.5, evaluate_every=1, save_every=1)
    assert often.steps == run(tmp_path / "seldom", budget=1.5).steps == 5


def interrupted(directory, leave, **arguments):
    """Run, and leave after every few steps."""
    for _ in range(100):
        calls = []

        def batches(step, calls=calls):
            calls.append(step)
            if len(calls) == 8:
                leave()
            return tiny.task().batches(step)

        try:
            return run(directory, task=tiny.task(batches=batches), resume=True, **arguments)
        except (training.Preempted, KeyError):
            assert calls[-1] > 0
    raise AssertionError("never came to its end")


def preempted():
    os.kill(os.getpid(), signal.SIGTERM)


def cut_off():
    raise KeyError("nothing is saved now")


@pytest.mark.long
def test_resumed_every_few_steps_is_uninterrupted(tmp_path):
    arguments = {
        "tx": counting(
            schedules.over_budget(schedules.linear(0.1)), evaluations=lambda count: count % 3, every=4
        ),
        "reference": prices(batch=8, step=0.2, forward=0.1, hessian=0.3),
        "budget": 4.0,
        "evaluate_at": (0.25, 0.5),
        "save_every": 5,
    }
    whole = run(tmp_path / "whole", task=tiny.task(), **arguments)
    for leave in (preempted, cut_off):
        directory = tmp_path / leave.__name__
        parts = interrupted(directory, leave, **arguments)
        assert (parts.steps, parts.reference_seconds) == (whole.steps, whole.reference_seconds)
        for name in ("run.json", "metrics.jsonl"):
            assert (directory / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        jax.tree.map(np.testing.assert_array_equal, parts.params, whole.params)
    again = run(tmp_path / "whole", task=tiny.task(), resume=True, **arguments)
    assert (again.steps, again.reference_seconds) == (whole.steps, whole.reference_seconds)


def test_the_reference_of_another_machine_decides_the_same_here(tmp_path):
    """One table, written there and read here, on a machine that is now quick and now slow."""
    table = prices(step=0.2, forward=0.1, hessian=0.3)
    there = dataclasses.replace(table, date="2020-01-01T00:00:00+00:00", environment={"device": "TPU v3"})
    there.write(tmp_path / "reference.json")

    def slowly(step):
        time.sleep(0.02)
        return BATCH

    tx = counting(schedules.over_budget(schedules.linear(0.1)), evaluations=lambda count: count % 3)
    arguments = {"tx": tx, "budget": 3.0, "evaluate_at": [0.5]}
    run(tmp_path / "quick", reference=table, **arguments)
    run(
        tmp_path / "slow",
        task=quadratic(batches=slowly),
        reference=Reference.read(tmp_path / "reference.json"),
        **arguments,
    )
    for name in ("run.json", "metrics.jsonl"):
        assert (tmp_path / "slow" / name).read_bytes() == (tmp_path / "quick" / name).read_bytes()
    described = json.loads((tmp_path / "quick" / "run.json").read_text())
    assert described["settings"] == {
        "steps": None, "seed": 0, "evaluate_every": 0, "budget": 3.0, "evaluate_at": [0.5],
    }  # fmt: skip
    assert described["reference"] == table.prices()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": prices(step=0.4)}, r"reference\.step\(batch=4\) was 0\.3, is 0\.4"),
        ({"budget": 2.0}, r"settings\.budget was 1\.0, is 2\.0"),
        ({"evaluate_at": [0.5]}, r"settings\.evaluate_at was \[\], is \[0\.5\]"),
    ],
)
def test_what_decides_the_trajectory_may_not_change_on_resume(tmp_path, changes, message):
    run(tmp_path, budget=1.0)
    with pytest.raises(RunError, match=message):
        run(tmp_path, resume=True, **{"budget": 1.0} | changes)


def test_a_budget_and_a_reference_need_each_other(tmp_path):
    for settings, table in (({"budget": 1.0}, None), ({"steps": 1}, prices(step=1.0))):
        with pytest.raises(
            ValueError, match="a budget needs a reference, and a reference needs a budget, got budget="
        ):
            training.fit(
                quadratic(),
                optax.sgd(0.1),
                Settings(**settings),
                tmp_path / "run",
                identity={},
                reference=table,
            )
    assert not (tmp_path / "run").exists()


def test_work_without_a_price_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the reference lacks step\(batch=4\); it has step\(batch=8\)"):
        run(tmp_path / "batch", reference=prices(batch=8, step=1.0), budget=1.0)
    with pytest.raises(ValueError, match=r"the reference lacks forward\(batch=4\); it has step\(batch=4\)"):
        run(tmp_path / "search", counting(evaluations=lambda count: 1), budget=1.0)


def test_a_line_search_that_does_not_count_is_refused(tmp_path):
    with pytest.raises(ValueError, match="calls value_fn, but no evaluations or estimates in its state counts"):
        run(tmp_path, optax.lbfgs(), budget=1.0)


def test_a_schedule_over_a_budget_needs_one(tmp_path):
    tx = optimiz.adamw(schedules.over_budget(schedules.linear(0.1)))
    with pytest.raises(ValueError, match=r"there is no budget here: give training\.Settings a budget"):
        training.fit(quadratic(), tx, Settings(steps=1), tmp_path, identity={})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ValueError, "steps or budget must be given, got neither"),
        ({"budget": 0.0}, ValueError, r"budget must be in \[1e-09, 1e\+09\], got 0.0"),
        ({"budget": -1}, ValueError, "budget must be in .*, got -1"),
        ({"budget": math.nan}, ValueError, "budget must be in .*, got nan"),
        ({"budget": "60"}, TypeError, "budget must be a number, got '60'"),
        ({"steps": 3, "evaluate_at": [0.5]}, ValueError, r"evaluate_at needs a budget, got \[0.5\] with"),
        ({"budget": 1.0, "evaluate_at": [0.5, 0.5]}, ValueError, r"evaluate_at must ascend, got \[0.5, 0.5\]"),
        (
            {"budget": 1.0, "evaluate_at": [1.0]},
            ValueError,
            r"each of evaluate_at must be in \(0, 1\), got 1.0",
        ),
    ],
)
def test_settings_are_refused_by_name(settings, error, message):
    with pytest.raises(error, match=message):
        Settings(**settings)


def test_sophia_g_trains_in_the_loop_and_pays_for_its_estimates(tmp_path):
    task, tx = classification(), optimiz.sophia_g(0.02, classes=3, update_interval=5)
    table = {"step": 0.125, "forward": 0.0625, "hessian": 0.25}
    fractions, spent = spent_by_hand(8, lambda count: 0, lambda count: count % 5 == 0, **table)
    result = run(tmp_path, tx, task, prices(batch=8, **table), budget=8)
    assert (result.steps, result.reference_seconds) == (len(fractions), spent)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_line_search_pays_for_its_trials(tmp_path):
    table = {"step": 0.25, "forward": 0.125}
    result = run(tmp_path, armijo_sgd(), tiny.task(), prices(batch=8, **table), budget=10)
    with training.storage.checkpoint.ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(tmp_path / "checkpoints" / f"{result.steps:09d}" / "arrays")
    [trials] = [int(array) for path, array in arrays.items() if path.endswith(".evaluations")]
    assert trials >= result.steps > 1
    assert result.reference_seconds == 0.25 * result.steps + 0.125 * trials >= 10


def classification(padding=0.0, weights=None):
    """Three classes told apart by a linear map; the last example of each batch may be padding."""
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    label = np.argmax(x[:, :3], axis=1)

    def logits(params, batch, key):
        return batch["x"] @ params["w"]

    def loss(params, batch, key):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch, key), batch["label"])

    stream = training.shuffled({"x": x, "label": label}, 8, seed=0)

    def batches(step):
        batch = stream(step)
        if weights is not None:
            batch["x"][-1] = padding
            batch["weight"] = np.asarray(weights, np.float32)
        return batch

    return Task(lambda key: {"w": jnp.zeros((4, 3))}, loss, batches, logits=logits)


def test_padding_does_not_affect_an_estimate(tmp_path):
    trained = []
    for padding in (0.0, 50.0):
        task = classification(padding, weights=[1] * 7 + [0])
        tx = optimiz.sophia_g(0.05, classes=3, update_interval=1)
        directory = tmp_path / str(padding)
        trained.append(training.fit(task, tx, Settings(steps=3), directory, identity={}).params["w"])
    assert np.any(trained[0] != 0)
    np.testing.assert_array_equal(*trained)


def test_weights_that_come_with_the_logits_are_left_alone():
    logits, weights = jnp.zeros((2, 3, 5)), jnp.arange(6.0).reshape(2, 3)
    batch = {"x": np.zeros(2), "weight": np.ones(2, np.float32)}
    assert training.task.weighted_logits((logits, weights), batch)[1] is weights
    assert training.task.weighted_logits(logits, {"x": np.zeros(2)}) is logits


def test_without_logits_sophia_g_names_what_it_needs(tmp_path):
    tx = optimiz.sophia_g(0.05, classes=3)
    with pytest.raises(
        ValueError, match=r"gauss_newton_bartlett needs logits_fn, .* training.Task\(logits=...\)"
    ):
        training.fit(quadratic(), tx, Settings(steps=1), tmp_path, identity={})


@pytest.mark.parametrize(
    "tx, asked",
    [
        (
            optimiz.sophia_g(0.05, classes=3, microbatches=2),
            "calls logits_fn with the index .* microbatches=None",
        ),
        (
            optimiz.sophia_h(0.05, microbatches=2),
            "needs obj_fn, .* value_fn will do where microbatches is None",
        ),
    ],
)
def test_a_run_has_no_microbatches_for_an_estimate(tx, asked, tmp_path):
    with pytest.raises(ValueError, match=asked):
        training.fit(classification(0.0, [1] * 8), tx, Settings(steps=1), tmp_path, identity={})
