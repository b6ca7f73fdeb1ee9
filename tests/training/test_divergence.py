"""One policy for what is not finite: skipped where the optimizer skips, and else the end of the run."""

import math

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


def test_what_diverged_is_told_up_to_the_step_whenever_the_host_looks(tmp_path):
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


def test_a_loss_that_is_not_finite_from_the_start(tmp_path):
    with pytest.raises(RunError, match=r"at step 0 the loss is nan .* there is no checkpoint"):
        run_plain(broken(at=0), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_loss_that_stops_being_finite_keeps_the_last_good_checkpoint(tmp_path):
    for resume in (False, True):
        with pytest.raises(RunError, match=r"at step 8 the loss is nan .* is .*/000000006$"):
            run_plain(broken(at=8), tmp_path, save_every=3, keep=1, resume=resume)
    assert tiny.checkpoints(tmp_path) == ["000000006"]
    rows = training.read_metrics(tmp_path / "metrics.jsonl")
    assert next(row["step"] for row in rows if math.isnan(row.get("loss", 0))) == 8


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
def test_the_run_goes_on_as_if_bad_steps_had_not_been(tmp_path, caplog, tx, bad, left_out):
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


def test_a_guard_around_a_part_lets_nothing_bad_into_a_checkpoint(tmp_path):
    label = groups.label({"guarded": groups.path("bias"), "bare": groups.everything})
    tx = optax.partition({"guarded": optimiz.guard(optimiz.sgd(0.1), 9), "bare": optimiz.sgd(0.1)}, label)
    with pytest.raises(training.Diverged, match=r"at step 4 .* bad step 1 in a row; .*/000000004$"):
        run(spoilt(bad_steps.task(), (4,)), tx, tmp_path, steps=9, save_every=1)


def test_an_optimizer_that_skips_nothing_is_not_asked(tmp_path):
    params = {"w": np.ones(2, np.float32)}
    assert divergence.sound(optimiz.adamw(0.1).init(params), params) is None
    state = optimiz.guard(optimiz.adamw(0.1), 1).init(params)
    assert bool(divergence.sound(state, params))
    assert not bool(divergence.sound(state, {"w": np.array([1.0, np.inf], np.float32)}))


def test_one_bad_replica_stops_no_replica(program, tmp_path):
    report = program("tests.training.bad_steps", tmp_path, devices=8)
    assert report == {
        "mesh": {"as without": True, "skipped": 1},
        "pmap": {"as without": True, "replicas agree": True, "skipped": [1] * 8},
    }
