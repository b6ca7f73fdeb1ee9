"""The log adds up the seconds of updates, without what is timed separately."""

import time

import jax.numpy as jnp
import pytest

from optimiz import training
from optimiz.training import Methods, Settings, run_log
from optimiz.training.run_log import RunLog
from optimiz.training.step import StepMetrics
from optimiz.training.train_state import TrainState


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path, Settings(steps=4), Methods(), None)


def state_after(steps):
    return TrainState(jnp.int32(steps), {}, (), jnp.zeros(2, jnp.uint32))


def make_update(log):
    """One update, and a look at it."""
    state = state_after(log.steps + 1)
    assert log.dispatched(state, StepMetrics(jnp.float32(2), jnp.float32(1), None, {}, None))
    assert log.look(state) == (None, False)


def timings(path):
    return [(row["event"], row["seconds"]) for row in training.read_metrics(path / "timings.jsonl")]


def test_laps_are_added_up_without_what_is_timed_on_its_own(log, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: now[0])
    log.resume(state_after(0), {"seconds": 7.0, "metrics_bytes": 0})
    log.start()
    now[0] += 2
    with log.timed("save"):
        now[0] += 5
    now[0] += 1
    make_update(log)
    assert timings(tmp_path) == [("save", 5.0), ("updates", 3.0)]
    assert log.record()["seconds"] == 10.0
    now[0] += 50  # between a lap and the next
    log.start()
    now[0] += 4
    make_update(log)
    assert timings(tmp_path)[2:] == [("updates", 4.0)]
    result = log.result({}, None)
    assert (result.seconds, result.compile_seconds, result.steps) == (14.0, 0.0, 2)


def test_compilation_is_timed_on_its_own_with_what_was_found_out(log, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: now[0])
    log.start()
    for size in (10, 30, 20):
        with log.timed("compile") as timing:
            now[0] += 2
            timing["temporary_bytes"] = size
    log.plan_ahead(None)
    make_update(log)
    result = log.result({}, None)
    assert (result.seconds, result.compile_seconds, result.temporary_bytes) == (0.0, 6.0, 30)
    assert timings(tmp_path) == [("compile", 2.0)] * 3 + [("updates", 0.0)]


def test_it_counts_seconds(log):
    log.start()
    time.sleep(0.02)
    make_update(log)
    assert 0.02 <= log.record()["seconds"] < 5
