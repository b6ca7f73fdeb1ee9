"""The range test finds the edge that is known, on the real loop."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import compare, training
from tests.compare import small


def parabola(curvature):
    """Gradient descent on curvature · w² / 2 diverges from the rate 2 / curvature on."""
    batch = {"x": np.ones(2, np.float32)}
    return training.Task(
        init=lambda key: {"w": jnp.ones(())},
        loss=lambda params, batch, key: 0.5 * curvature * params["w"] ** 2 * batch["x"],
        batches=lambda step: batch,
        evaluate=lambda params: pytest.fail("there is nothing to evaluate"),
    )


@pytest.mark.parametrize("curvature", [1.0, 100.0])
def test_the_edge_of_a_parabola(tmp_path, curvature):
    found = compare.lr_range_test(
        parabola(curvature), optax.sgd, tmp_path / "run", low=1e-6, high=1e4, steps=200
    )
    edge = 2 / curvature
    assert edge < found.learning_rates[found.diverged_at] < 10 * edge
    assert edge / 100 < found.suggested < edge / 2
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_rates_rise_by_one_factor_from_the_lowest_to_the_highest(tmp_path):
    found = compare.lr_range_test(small.task_of(0), optax.sgd, tmp_path / "run", low=1e-3, high=1e-1, steps=61)
    np.testing.assert_allclose(found.learning_rates, np.geomspace(1e-3, 1e-1, 61), rtol=1e-5)
    rows = training.read_metrics(tmp_path / "run/metrics.jsonl")
    assert found.losses == [row["loss"] for row in rows]
    assert found.diverged_at is None
    found.draw(tmp_path / "range.png")
    assert (tmp_path / "range.png").stat().st_size > 10_000


def test_reading_a_sweep():
    rates = [10.0**i for i in range(-4, 4)]
    falling = [8.0, 4.0, 2.0, 1.0, 0.9, 3.0, 9.0, math.nan]
    found = compare.RangeTest.of(rates, falling)
    assert (found.diverged_at, found.suggested) == (6, pytest.approx(0.1))
    assert compare.RangeTest.of(rates, [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]).suggested is None
    assert compare.RangeTest.of(rates[:2], [1.0, math.inf]).diverged_at == 1


def test_a_loss_may_have_any_sign():
    rates = [10.0**i for i in range(-4, 4)]
    found = compare.RangeTest.of(rates, [1.0, -1.0, -2.0, -4.0, -3.9, -1.0, 9.0, 30.0])  # of a density, say
    assert (found.diverged_at, found.suggested) == (7, pytest.approx(1e-2))
    below = compare.RangeTest.of(rates, [-1.0, -1.1, -1.3, -1.2, -1.0, -0.9, 2.0, 3.0])
    assert (below.diverged_at, below.suggested) == (7, pytest.approx(1e-3))


def test_a_loss_that_still_falls_at_the_highest_rate_is_told(tmp_path):
    rates = [1e-3, 1e-2, 1e-1]
    found = compare.RangeTest.of(rates, [3.0, 2.0, 1.0])
    assert found.still_falling and found.suggested == pytest.approx(1e-2)
    assert not compare.RangeTest.of(rates, [3.0, 1.0, 2.0]).still_falling
    found.draw(tmp_path / "range.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 0.0}, r"low must be in \(0, inf\), got 0.0"),
        ({"low": 1.0, "high": 1.0}, r"high must be in \(1, inf\), got 1.0"),
        ({"steps": 1}, r"steps must be in \[2, "),
    ],
)
def test_bad_input_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        compare.lr_range_test(parabola(1.0), optax.sgd, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda schedule: optax.sgd(0.1),
            ValueError,
            "make must return an optimizer whose learning rate is the",
        ),
        (lambda schedule: optimiz.armijo_sgd(), ValueError, "this one never calls it"),
        (lambda schedule: optimiz.sgd, TypeError, r"what make returns must be .*; call it: sgd\(…\)"),
        (
            optax.sgd(0.1),
            TypeError,
            "make must be a function, schedule → optimizer, such as optimiz.adamw; got",
        ),
    ],
)
def test_an_optimizer_whose_rate_does_not_rise_is_refused_before_it_trains(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        compare.lr_range_test(parabola(1.0), make, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_a_run_is_refused_in_terms_of_the_test(tmp_path):
    compare.lr_range_test(parabola(1.0), optax.sgd, tmp_path, steps=3)
    with pytest.raises(
        training.RunError, match=r"holds a run: choose another directory .*, or delete that one$"
    ):
        compare.lr_range_test(parabola(1.0), optax.sgd, tmp_path, steps=3)
