"""One policy for steps that are not finite: the optimizer skips them, or they end the run."""

import math
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups, schedules, training
from optimiz.training import RunError, divergence
from tests.training import bad_steps, tiny
from tests.training.bad_steps import final_arrays, leaving_out, run, spoilt
from tests.training.test_loop import quadratic
from tests.training.test_loop import run as run_plain

RATE = schedules.over_steps(schedules.linear(0.01), 20)


def broken(at):
    def batches(step):
        return {"target": np.full(2, math.nan if step == at else 3.0, np.float32)}

    return quadratic(batches)


def test_a_diverged_run_is_reported_up_to_its_last_step_whenever_the_host_looks(tmp_path):
    histories = []
    for log_every in (1, 5, 100):
        seen = []
        with pytest.raises(training.Diverged) as raised:
            run_plain(broken(at=8), tmp_path / str(log_every), log_every=log_every, progress=seen.append)
        error = raised.value
        assert isinstance(error, RunError) and (error.step, error.result.steps) == (8, 9)
        histories.append((tmp_path / str(log_every) / "metrics.jsonl").read_bytes())
        assert (seen[-1].steps, len(seen[-1].rows)) == (9, 8 % log_every + 1 if log_every < 8 else 8)
    assert len(set(histories)) == 1
    assert [row["step"] for row in error.result.history if "loss" in row] == list(range(9))


@pytest.mark.survives("NaN without a guard, or more often in a row than the guard allows")
def test_a_loss_that_is_not_finite_from_the_start(tmp_path):
    with pytest.raises(RunError, match=r"at step 0 the loss is nan .* there is no checkpoint"):
        run_plain(broken(at=0), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.survives("NaN without a guard, or more often in a row than the guard allows")
def test_a_loss_that_stops_being_finite_keeps_the_last_good_checkpoint(tmp_path):
    for resume in (False, True):
        with pytest.raises(RunError, match=r"at step 8 the loss is nan .* is .*/000000006$"):
            run_plain(broken(at=8), tmp_path, save_every=3, keep=1, resume=resume)
    assert tiny.checkpoints(tmp_path) == ["000000006"]
    rows = training.read_metrics(tmp_path / "metrics.jsonl")
    assert next(row["step"] for row in rows if math.isnan(row.get("loss", 0))) == 8


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("tx", "bad", "left_out"),
    [
        (optimiz.guard(optimiz.adamw(RATE), 2), (5,), (5,)),
        (optimiz.guard(optimiz.adamw(RATE), 2), (0, 5, 6, 8, 11), (0, 5, 6, 8, 11)),
        (optax.chain(optimiz.guard(optimiz.sgd(RATE, 0.9), 1), optax.scale(0.5)), (5,), (5,)),
        (optax.apply_if_finite(optax.adam(RATE), 2), (5, 6), (5, 6)),
        # A micro-batch that is left out of its window, and a window that is skipped.
        (optimiz.guard(optimiz.accumulate(optimiz.adamw(RATE), 3), 2), (4,), (4,)),
        (optimiz.accumulate(optimiz.guard(optimiz.adamw(RATE), 2), 3), (4,), (3, 4, 5)),
    ],
    ids=["guard", "again and again", "in a chain", "Optax's", "around a mean", "within a mean"],
)
@pytest.mark.survives("NaN in a loss, a micro-batch or a replica, under a guard")
def test_the_run_continues_as_if_there_had_been_no_bad_steps(tmp_path, caplog, tx, bad, left_out):
    task = bad_steps.task()
    with_bad = run(spoilt(task, bad), tx, tmp_path / "bad", steps=12)
    without = run(leaving_out(task, left_out), tx, tmp_path / "without", steps=12 - len(left_out))
    assert with_bad.steps == 12
    assert final_arrays(tmp_path / "bad") == final_arrays(tmp_path / "without")
    rows = {row["step"]: row for row in with_bad.history}
    assert [step for step, row in rows.items() if math.isnan(row["loss"])] == list(bad)
    kept = [row["loss"] for step, row in rows.items() if step not in left_out]
    assert kept == [row["loss"] for row in without.history]
    assert f"at step {bad[-1]} the loss is nan and the gradient norm nan" in caplog.text


@pytest.mark.survives("NaN without a guard, or more often in a row than the guard allows")
def test_bad_steps_in_a_row_end_the_run_with_the_last_good_checkpoint_kept(tmp_path):
    tx = optimiz.guard(optimiz.adamw(0.01), 2)
    messages = set()
    for log_every in (1, 100):
        directory = tmp_path / str(log_every)
        task = spoilt(bad_steps.task(), (4, 5, 8, 9, 10))
        with pytest.raises(training.Diverged) as raised:
            run(task, tx, directory, steps=20, save_every=3, keep=1, log_every=log_every)
        assert (raised.value.step, raised.value.result.steps) == (10, 11)
        messages.add(str(raised.value).partition(";")[0])
        assert str(raised.value).endswith("/000000009")
        assert tiny.checkpoints(directory) == ["000000009"]
        rows = training.read_metrics(directory / "metrics.jsonl")
        assert [row["skipped_in_a_row"] for row in rows] == [0, 0, 0, 0, 1, 2, 0, 0, 1, 2, 3]
    assert messages == {"at step 10 the loss is nan and the gradient norm nan, bad step 3 in a row"}
    without = run(leaving_out(bad_steps.task(), (4, 5)), tx, tmp_path / "without", steps=6)
    assert final_arrays(directory) == final_arrays(tmp_path / "without")
    assert without.steps == 6


@pytest.mark.survives("NaN without a guard, or more often in a row than the guard allows")
def test_a_guard_around_a_part_lets_nothing_bad_into_a_checkpoint(tmp_path):
    label = groups.label({"guarded": groups.path("bias"), "bare": groups.everything})
    tx = optax.partition({"guarded": optimiz.guard(optimiz.sgd(0.1), 9), "bare": optimiz.sgd(0.1)}, label)
    with pytest.raises(training.Diverged, match=r"at step 4 .* bad step 1 in a row; .*/000000004$"):
        run(spoilt(bad_steps.task(), (4,)), tx, tmp_path, steps=9, save_every=1)


def test_parameters_are_not_tested_after_every_step_if_the_optimizer_does_not_skip(tmp_path):
    params = {"w": np.ones(2, np.float32)}
    assert divergence.sound(optimiz.adamw(0.1).init(params), params) is None
    state = optimiz.guard(optimiz.adamw(0.1), 1).init(params)
    assert bool(divergence.sound(state, params))
    assert not bool(divergence.sound(state, {"w": np.array([1.0, np.inf], np.float32)}))


def spoiler(step, value, what="params"):
    """An optimizer whose update of a step is finite no more, or what it keeps, though the gradient was."""

    def update(updates, state, params=None, **extra):
        count, kept = state
        bad = jnp.where(count == step, value, 0.0)
        where = updates if what == "params" else kept
        where = jax.tree.map(lambda x: x + bad, where)
        updates, kept = (where, kept) if what == "params" else (updates, where)
        return updates, (count + 1, kept)

    zeros = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    tx = optax.GradientTransformation(lambda params: (jnp.zeros((), jnp.int32), zeros(params)), update)
    return optax.chain(optimiz.sgd(0.1), tx)


@pytest.mark.quick(2)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["params", "state"])
@pytest.mark.parametrize("at", [5, 9], ids=["before a save", "the last"])
def test_an_update_that_spoils_what_it_changes_is_neither_saved_nor_evaluated(tmp_path, value, what, at):
    evaluated = []
    task = quadratic(evaluate=lambda params: {"loss": evaluated.append(float(params["w"])) or 0.5})
    settings = {"steps": 10, "save_every": 3, "keep": 1, "evaluate_every": 1}
    for resume in (False, True):
        with pytest.raises(training.Diverged) as raised:
            run_plain(task, tmp_path, spoiler(at, value, what), resume=resume, **settings)
        assert raised.value.step == at and raised.value.result.steps == at + 1
        name = r"params\['w'\]" if what == "params" else r"opt_state.*\['w'\]"
        kept = f"{at // 3 * 3:09d}"
        assert re.fullmatch(rf"after {at + 1} updates {name} is not finite; .* is .*/{kept}", str(raised.value))
        assert tiny.checkpoints(tmp_path) == [kept]
    assert np.isfinite(evaluated).all()
    rows = training.read_metrics(tmp_path / "metrics.jsonl")
    assert max(row["steps"] for row in rows if "evaluation" in row) == at


@pytest.mark.quick(1)
def test_an_update_spoilt_under_a_guard_is_not_saved(tmp_path):
    """The guard does not test the state; and what lies outside of it may be bad by right."""
    tx = optimiz.guard(spoiler(4, math.inf, "state"), 2)
    with pytest.raises(training.Diverged, match=r"after 6 updates opt_state.* is not finite; .*/000000003$"):
        run_plain(quadratic(), tmp_path / "inner", tx, steps=9, save_every=3)
    outer = optimiz.accumulate(optimiz.guard(optimiz.sgd(0.1), 2), 3)
    saved = run(spoilt(bad_steps.task(), (4,)), outer, tmp_path / "outer", steps=9, save_every=1)
    assert saved.steps == 9


def test_a_step_that_ends_a_run_though_its_loss_is_finite_says_why(tmp_path):
    tx = optax.apply_if_finite(spoiler(4, math.inf), 3)
    why = (
        r"at step 4 the loss is [\d.]+ and .*: its update leaves parameters that are not finite; .*/000000003$"
    )
    with pytest.raises(training.Diverged, match=why):
        run_plain(quadratic(), tmp_path, tx, steps=9, save_every=3)


def test_a_legitimate_infinity_in_an_optimizer_is_not_a_divergence(tmp_path):
    tx = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    assert run_plain(quadratic(), tmp_path, tx, steps=3).steps == 3


def test_preempted_after_a_spoilt_update_the_run_ends_as_diverged(tmp_path):
    def batches(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"target": np.full(4, 3.0, np.float32)}

    with pytest.raises(training.Diverged, match="after 5 updates"):
        run_plain(quadratic(batches), tmp_path, spoiler(4, math.nan), steps=9)
    assert not (tmp_path / "checkpoints").exists()


def test_a_finished_run_with_a_spoilt_checkpoint_is_not_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, "not_finite", lambda *args: None)
    run_plain(quadratic(), tmp_path, spoiler(2, math.nan), steps=3)
    monkeypatch.undo()
    with pytest.raises(training.Diverged, match=r"after 3 updates params\['w'\] is not finite"):
        run_plain(quadratic(), tmp_path, spoiler(2, math.nan), steps=3, resume=True)


def test_an_evaluation_whose_loss_is_not_finite_ends_the_run(tmp_path):
    """Parameters may be finite and too large for anything to come of them."""
    losses = iter([0.5, math.nan])
    task = quadratic(evaluate=lambda params: {"loss": next(losses), "accuracy": 0.9})
    with pytest.raises(training.Diverged, match=r"after 6 updates the evaluation gives loss nan; .*/000000003"):
        run_plain(task, tmp_path, steps=9, evaluate_every=3, save_every=3)
    assert tiny.checkpoints(tmp_path) == ["000000003"]
    last = training.read_metrics(tmp_path / "metrics.jsonl")[-1]["evaluation"]
    assert math.isnan(last["loss"]) and math.isnan(last["accuracy"])


def test_an_undefined_metric_does_not_end_a_run(tmp_path):
    task = quadratic(evaluate=lambda params: {"loss": 0.5, "auc": math.nan})
    assert run_plain(task, tmp_path, steps=3).steps == 3


@pytest.mark.long
@pytest.mark.survives("NaN in a loss, a micro-batch or a replica, under a guard")
def test_one_bad_replica_stops_no_replica(program, tmp_path):
    report = program("tests.training.bad_steps", tmp_path, devices=8)
    assert report == {
        "mesh": {"as without": True, "skipped": 1},
        "pmap": {"as without": True, "replicas agree": True, "skipped": [1] * 8},
    }
