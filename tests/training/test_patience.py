"""A run ends once its evaluations no longer improve, after the same update however often it was stopped."""

import math

import pytest

from optimiz.training import OtherSettings, Settings, load_params
from tests.training import tiny
from tests.training.storage.test_read_back import assert_same, run

BY = {"keep_best": "accuracy", "lower_is_better": False, "evaluate_every": 3, "keep": 1}
VALUES = [0.2, 0.9, 0.9, 0.1, 1.0, 1.0, 1.0]  # after 3, 6, 9, … updates


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    directory = tmp_path_factory.mktemp("early")
    return directory, run(directory, VALUES, patience=2, **BY)


def test_it_ends_after_as_many_evaluations_without_a_better_one(early, tmp_path):
    directory, result = early
    assert (result.steps, result.stopped_early) == (12, True)
    assert result.best == {"metric": "accuracy", "value": 0.9, "steps": 6}
    assert tiny.checkpoints(directory) == ["000000006", "000000012"]
    whole = run(tmp_path, VALUES, save_every=6, **BY | {"keep": 9})
    assert (whole.steps, whole.stopped_early, whole.best["steps"]) == (20, False, 15)
    assert_same(result.params, load_params(tmp_path, 12))
    assert_same(load_params(directory, "best"), load_params(tmp_path, 6))


def test_a_run_that_has_ended_is_read_back(early, caplog):
    directory, result = early
    again = run(directory, [], patience=2, **BY)
    assert "is finished after 12 steps" in caplog.text
    assert (again.steps, again.best, again.stopped_early) == (12, result.best, True)
    assert again.history == result.history
    assert_same(again.params, result.params)


def test_another_patience_or_metric_would_end_elsewhere_and_is_refused(early):
    for other in ({"patience": 3}, {"patience": 2, "keep_best": "loss"}, {}):
        with pytest.raises(OtherSettings, match=r"settings\.(patience|keep_best) was .*, is "):
            run(early[0], [], **BY | other)


@pytest.mark.quick(1)
@pytest.mark.parametrize("stops", [[3], [1, 2, 3]])
def test_a_stopped_run_waits_no_longer(early, tmp_path, stops):
    class Stop(Exception):
        pass

    def until(first, last):
        yield from VALUES[first:last]
        raise Stop

    evaluated = 0
    for stop in stops:
        with pytest.raises(Stop):
            run(tmp_path, until(evaluated, stop), patience=2, save_every=3, **BY)
        evaluated = stop
    result = run(tmp_path, VALUES[evaluated:], patience=2, save_every=3, **BY)
    assert (result.steps, result.stopped_early) == (12, True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (early[0] / "metrics.jsonl").read_bytes()
    assert_same(result.params, early[1].params)


def test_what_is_not_a_number_is_not_better(tmp_path):
    result = run(tmp_path, [math.nan, math.nan, 1.0], patience=2, **BY)
    assert (result.steps, result.stopped_early, result.best) == (6, True, None)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"patience": 0, **BY}, ValueError, "patience must be at least 1, got 0"),
        ({"patience": 1.5, **BY}, TypeError, r"patience must be an integer, got 1\.5"),
        ({"patience": 2, "evaluate_every": 3}, ValueError, "patience needs keep_best=, got patience=2 without"),
        (
            {"patience": 2, **BY, "evaluate_every": 0},
            ValueError,
            "patience needs evaluate_every= or evaluate_at",
        ),
    ],
)
def test_a_patience_that_could_not_end_a_run_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        Settings(steps=9, **given)
