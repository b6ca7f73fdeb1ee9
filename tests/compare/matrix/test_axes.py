"""Grids of several axes go on along each of them, and the report shows each."""

import math

import pytest

import optimiz
from optimiz import compare, schedules, training
from optimiz.compare.matrix.grid import best_point, next_point
from tests.compare import records, small
from tests.compare.matrix.test_one_compilation import compilations  # noqa: F401

WORST = -math.inf


def bowl(best, points):
    """Levels that fall with the distance from the best point, in factors."""
    distance = lambda a, b: abs(math.log(max(a, 1e-3) / max(b, 1e-3)))  # noqa: E731
    return {point: -sum(map(distance, point, best)) for point in points}


@pytest.mark.parametrize(
    ("levels", "axes", "expected"),
    [
        # The rate first, then the decay, by their own factors.
        (bowl((1.0, 1.0), [(0.1, 0.1), (0.3, 0.1), (0.1, 0.2), (0.3, 0.2)]), [0, 1], ((0.9, 0.2), 0)),
        (bowl((1.0, 1.0), [(0.1, 0.1), (0.3, 0.1), (0.1, 0.2), (0.3, 0.2)]), [1], ((0.3, 0.4), 1)),
        # At a new rate, the decays next to the best one are run before any beyond.
        ({(0.1, 0.1): 1, (0.3, 0.1): 2, (0.1, 0.2): 0, (0.9, 0.1): 4, (2.7, 0.1): 3}, [0, 1], ((0.9, 0.2), 1)),
        # 0 is no edge, and beyond a single value above it the grid doubles.
        ({(0.1, 0.0): 2.0, (0.1, 0.1): 1.0}, [0, 1], None),
        ({(0.1, 0.0): 1.0, (0.1, 0.1): 2.0}, [0, 1], ((0.1, 0.2), 1)),
        # A line search has no rate to extend.
        ({(None, 0.1): 1.0, (None, 0.3): 2.0}, [0, 1], ((None, 0.9), 1)),
        # Where everything diverged, lower rates come first.
        (dict.fromkeys([(1.0, 0.1), (3.0, 0.1), (1.0, 0.3), (3.0, 0.3)], WORST), [0, 1], ((0.333, 0.3), 0)),
        ({(0.3, 0.1): 1.0}, [0, 1], None),
    ],
)  # fmt: skip
def test_a_grid_goes_on_along_one_axis_at_a_time(levels, axes, expected):
    found = next_point(levels, axes)
    if expected is None:
        assert found is None
    else:
        assert found[1] == expected[1] and found[0] == pytest.approx(expected[0])


def test_it_ends_with_a_best_point_that_is_inside_on_every_axis():
    best, levels = (30.0, 5.0), bowl((30.0, 5.0), [(0.1, 0.1), (0.3, 0.1), (0.1, 0.2), (0.3, 0.2)])
    while found := next_point(levels, [0, 1]):
        levels |= bowl(best, [found[0]])
    rate, decay = best_point(levels)
    assert 15 < rate < 60 and 3.5 < decay < 7.5 and len(levels) < 30
    for axis in (0, 1):
        values = [point[axis] for point in levels if point[1 - axis] == (rate, decay)[1 - axis]]
        assert min(values) < (rate, decay)[axis] < max(values)


def test_of_equal_points_the_best_is_the_middle_one():
    assert best_point({(0.3, 0.0): 1.0, (0.1, 0.0): 1.0, (0.2, 0.5): 1.0, (0.9, 0.0): 0.0}) == (0.2, 0.5)


def decayed(rate, *, weight_decay):
    return optimiz.adamw(schedules.over_budget(schedules.linear(rate)), weight_decay=weight_decay)


def test_the_axes_of_an_arm_reach_its_optimizer_and_its_record_and_rates_share_a_step(
    compilations,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    arms = [
        compare.Arm("adamw", rate, decayed, axes={"weight_decay": decay})
        for decay in (0.0, 3.0) for rate in (0.1, 0.3)
    ]  # fmt: skip
    arguments = {"seeds": [0], "metric": "loss", "settings": training.Settings(budget=0.5)}
    runs = small.run(tmp_path, arms, **arguments)
    assert sorted(compilations) == ["init"] * 2 + ["train"] * 2  # one of each for each decay
    assert [(run.learning_rate, run.axes) for run in runs] == [
        (rate, {"weight_decay": decay}) for decay in (0.0, 3.0) for rate in (0.1, 0.3)
    ]
    alone = small.run(
        tmp_path / "alone", [compare.Arm("own", 0.3, lambda r: decayed(r, weight_decay=3.0))], **arguments
    )
    assert runs[3].training_loss() == alone[0].training_loss() != runs[1].training_loss()
    monkeypatch.setattr(training, "fit", None)  # nothing is run again
    assert small.run(tmp_path, arms, **arguments) == runs


def grid_record(*, best, **changes):
    """A grid of two rates and three decays, whose best point is given."""
    runs = [
        records.run("adamw", 0.9 if (rate, w) == best else 0.5, rate=rate, axes={"weight_decay": w}, seed=seed)
        for rate in (0.1, 0.3, 0.9) for w in (0.0, 0.1, 0.2) for seed in (0, 1)
    ]  # fmt: skip
    return records.record(*runs, **changes)


def test_the_report_names_each_axis_and_the_edges_on_it():
    record = grid_record(best=(0.3, 0.2))
    (method,) = compare.by_method(record, "accuracy")
    assert (method.rate, method.values, method.edges) == (0.3, {"weight_decay": 0.2}, ["weight_decay"])
    assert method.lines == {"weight_decay": {0.0: 0.5, 0.1: 0.5, 0.2: 0.9}}
    assert method.levels == {0.1: 0.5, 0.3: 0.9, 0.9: 0.5}
    text = compare.render(record, metric="accuracy")
    assert "Use **adamw** at learning rate 0.3 and weight_decay 0.2, because" in text
    assert "**the best weight_decay of adamw is at the edge of its grid**: values beyond may be better" in text
    assert "| adamw | weight_decay | 0.2 | at an edge | 0: 0.500, 0.1: 0.500, 0.2: 0.900 |" in text
    assert "| adamw 0.3 weight\\_decay=0.2 | 0 |" in text or "| adamw 0.3 weight_decay=0.2 | 0 |" in text
    assert compare.by_method(grid_record(best=(0.3, 0.1)), "accuracy")[0].edges == []
    assert compare.by_method(grid_record(best=(0.3, 0.0)), "accuracy")[0].edges == []
    assert compare.by_method(grid_record(best=(0.9, 0.2)), "accuracy")[0].edges == [
        "learning rate",
        "weight_decay",
    ]


def test_a_search_with_another_axis_has_no_rate_in_the_report():
    runs = [
        records.run("salsa", 0.5 + w, rate=None, axes={"weight_decay": w}, seed=s)
        for w in (0, 0.1)
        for s in (0, 1)
    ]
    text = compare.render(records.record(*runs), metric="accuracy")
    assert (
        "Use **salsa** at weight_decay 0.1, which finds its learning rate, because it has the best validation "
        "accuracy of the points of its grid, and a mean test accuracy over 2 seeds of 0.600" in text
    )
    assert "but **the best weight_decay of salsa is at the edge of its grid**" in text


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        ({"weight_decay": -0.1}, ValueError, r"weight_decay of sgd must be in \[0, "),
        ({"weight_decay": "0.1"}, TypeError, "weight_decay of sgd must be a number"),
        ({"weight decay": 0.1}, ValueError, "axes of sgd must be arguments other than learning_rate"),
        ({"learning_rate": 0.1}, ValueError, "axes of sgd must be arguments other than learning_rate"),
        ([0.1], TypeError, "axes of sgd must be a mapping"),
    ],
)
def test_an_axis_is_refused_by_name(axes, error, message):
    with pytest.raises(error, match=message):
        compare.Arm("sgd", 0.1, optimiz.sgd, axes=axes)


def test_arms_of_one_optimizer_have_the_same_axes(tmp_path):
    arms = [compare.Arm("a", 0.1, decayed, axes={"weight_decay": 0.1}), compare.Arm("a", 0.3, decayed)]
    with pytest.raises(
        ValueError, match=r"all arms of a must have the same axes, got \['weight_decay'\] and \[\]"
    ):
        small.run(tmp_path, arms)
    runs = [records.run("a", 0.5, axes={"b": 1.0}), records.run("a", 0.5)]
    with pytest.raises(ValueError, match=r"all runs of a must have the same axes, got \['b'\] and \[\]"):
        compare.by_method(records.record(*runs), "accuracy")
