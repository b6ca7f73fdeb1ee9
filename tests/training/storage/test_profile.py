"""A trace holds the updates that were asked for, and the run is the same with it."""

import gzip
import json

import optax
import pytest

from optimiz import training
from tests.training import tiny


def fit(directory, steps, profile, **more):
    settings = training.Settings(steps=steps, log_every=2, profile=profile)
    return training.fit(tiny.task(), optax.sgd(0.1), settings, directory, identity={}, **more)


def steps_in_trace(directory):
    """How often a step was dispatched within the trace."""
    (path,) = directory.glob("profile/plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sum(
        "PjitFunction" in event.get("name", "") or "ExecuteSharded" in event.get("name", "") for event in events
    )


def test_a_trace_of_some_updates_changes_nothing(tmp_path):
    traced, plain = fit(tmp_path / "traced", 8, (3, 5)), fit(tmp_path / "plain", 8, None)
    assert (tmp_path / "traced/metrics.jsonl").read_bytes() == (tmp_path / "plain/metrics.jsonl").read_bytes()
    assert traced.steps == plain.steps and not (tmp_path / "plain/profile").exists()
    few = steps_in_trace(tmp_path / "traced")
    fit(tmp_path / "more", 8, (3, 7))
    assert 0 < few < steps_in_trace(tmp_path / "more")


def test_a_run_that_ends_within_has_its_trace(tmp_path, caplog):
    fit(tmp_path, 4, (3, 100))
    assert steps_in_trace(tmp_path) > 0 and not caplog.messages
    fit(tmp_path, 6, (2, 3), resume=True)  # of updates that were made before; there is nothing to trace
    assert any("profile has no trace: none of the updates from 2 to 2 was made" in m for m in caplog.messages)
    assert len(list(tmp_path.glob("profile/plugins/profile/*"))) == 1


@pytest.mark.parametrize(
    "profile, kind, message",
    [
        ((5, 5), ValueError, r"the end of profile must be in \[6,"),
        ((-1, 5), ValueError, r"the first of profile must be in \[0,"),
        ((1.5, 5), TypeError, "the first of profile must be an integer"),
        ((10, 15), ValueError, r"profile must begin within the 10 steps, got \(10, 15\)"),
        ("10:15", TypeError, r"profile must be two integers, such as \(10, 15\), got '10:15'"),
    ],
)
def test_what_cannot_be_traced_is_refused(profile, kind, message):
    with pytest.raises(kind, match=message):
        training.Settings(steps=10, profile=profile)
