"""A grid goes on until its best rate is inside, and every run that was made for that is kept."""

import math

import pytest

import optimiz
from optimiz import compare, training
from optimiz.compare.matrix.grid import best_rate, next_rate
from tests.compare import small
from tests.compare.matrix.test_one_compilation import compilations  # noqa: F401

WORST = -math.inf


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({0.1: 0.5, 0.3: 0.6, 0.9: 0.7}, 2.7),
        ({0.9: 0.5, 0.3: 0.6, 0.1: 0.7}, 0.0333),
        ({0.1: 0.5, 0.3: 0.7, 0.9: 0.6}, None),
        ({0.1: 0.5, 0.3: 0.6, 0.9: WORST}, None),
        ({0.1: 0.5, 0.3: WORST, 0.9: WORST}, 0.0333),
        ({0.1: WORST, 0.3: WORST}, 0.0333),  # lower rates diverge less
        ({0.1: 0.7, 0.3: 0.7, 0.9: 0.7}, None),  # as good as each other: no edge is better
        ({0.1: 0.7, 0.3: 0.7, 0.9: 0.6}, 0.0333),
        ({1e-5: 0.5, 1e-4: 0.6, 2e-4: 0.7}, 4e-4),  # by the factor at this edge
        ({1.0: 0.1, 1.0001: 0.2}, 1.0001**2),  # three digits would not tell it from the edge
        ({0.1: 0.5}, None),
        ({1e300: 0.1, 1e308: 0.2}, None),
        ({1e-320: 0.2, 1e-310: 0.1}, None),
    ],
)
def test_the_next_rate_is_beyond_the_best_one_at_an_edge(levels, expected):
    found = next_rate(levels)
    assert found == (expected if expected is None else pytest.approx(expected, rel=1e-12))


def test_of_equal_rates_the_best_is_the_middle_one():
    assert best_rate({1: 0.7, 2: 0.7, 3: 0.7, 4: 0.5}) == 2
    assert best_rate({1: 0.7, 2: 0.7}) == 1 and best_rate({None: WORST}) is None


STEPS = {"settings": training.Settings(steps=6, log_every=3), "reference": None, "metric": "loss"}


def arms(*rates):
    return [compare.Arm("sgd", rate, optimiz.sgd) for rate in rates]


def tried(runs):
    return [run.learning_rate for run in runs if run.seed == 0]


def losses(runs):
    by_rate = {rate: [run for run in runs if run.learning_rate == rate] for rate in tried(runs)}
    return {rate: sum(run.validation("loss")[1][-1] for run in own) / 2 for rate, own in by_rate.items()}


def test_a_grid_goes_on_up_or_down_with_one_compilation_and_is_resumed(compilations, tmp_path, monkeypatch):  # noqa: F811
    up = small.run(tmp_path, arms(0.4, 1.6), extensions=9, **STEPS)
    assert tried(up) == [0.4, 1.6, 6.4] and [run.seed for run in up] == [0, 1] * 3
    level = losses(up)
    assert level[1.6] < min(level[0.4], level[6.4])
    down = small.run(tmp_path, arms(6.4, 25.6), extensions=9, **STEPS)
    assert tried(down) == [6.4, 25.6, 1.6, 0.4]
    assert compilations.count("train") == 1

    bounded = small.run(tmp_path, arms(0.1, 0.4), extensions=1, **STEPS)
    assert tried(bounded) == [0.1, 0.4, 1.6]
    said = compare.in_words(small.record(bounded), metric="loss").split(". ")[0]
    assert "the best learning rate of sgd is at the edge of its grid" in said
    assert "edge" not in compare.in_words(small.record(up), metric="loss")
    monkeypatch.setattr(training, "fit", None)  # nothing is run again
    assert small.run(tmp_path, arms(0.4, 1.6), extensions=9, **STEPS) == up


@pytest.mark.long
def test_it_goes_on_downwards_where_every_rate_diverges_and_keeps_those_runs(tmp_path):
    chosen = [*arms(1e38, 3e38), *small.ONE]
    settings = training.Settings(budget=1.0)
    runs = small.run(tmp_path, chosen, extensions=1, metric="loss", settings=settings)
    assert [(run.optimizer, run.learning_rate) for run in runs if run.seed == 0] == [
        ("sgd", 1e38), ("sgd", 3e38), ("sgd", 3.33e37), ("search", None),
    ]  # fmt: skip
    assert all(run.diverged_at is not None for run in runs[:4])


def test_a_grid_ends_where_the_optimizer_refuses_the_rate(tmp_path, caplog):
    def below_one(rate):
        if isinstance(rate, float) and rate > 1:
            raise ValueError(f"rate must be at most 1, got {rate}")
        return optimiz.sgd(rate)

    chosen = [compare.Arm("sgd", rate, below_one) for rate in (0.1, 0.4)]
    runs = small.run(tmp_path, chosen, extensions=3, seeds=[0], **STEPS)
    assert tried(runs) == [0.1, 0.4]
    assert "the grid of sgd ends at 0.4: rate must be at most 1, got 1.6" in caplog.text


@pytest.mark.parametrize("extensions", [-1, 1.5, None])
def test_a_number_of_extensions_is_refused_by_name(tmp_path, extensions):
    with pytest.raises((TypeError, ValueError), match=r"extensions must be (an integer|in \[0, )"):
        small.run(tmp_path / "matrix", extensions=extensions)
