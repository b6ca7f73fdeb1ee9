import json

import numpy as np
import optax
import pytest

from examples.benchmarks import paths
from optimiz.methods import METHODS
from tests.conftest import ROOT

RECORD = json.loads((ROOT / "examples/benchmarks/results/paths/record.json").read_text())


def test_a_path_is_that_of_momentum_by_hand():
    path, losses = paths.walk(METHODS["sgd"], "ravine", 0.01)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    hessian = np.outer([c, s], [c, s]) + 30 * np.outer([-s, c], [-s, c])
    x, momentum = np.array(paths.LANDSCAPES["ravine"].start), np.zeros(2)
    for step in range(paths.STEPS + 1):
        np.testing.assert_allclose(path[step], x, atol=1e-5)
        np.testing.assert_allclose(losses[step], 0.5 * (x - 0.5) @ hessian @ (x - 0.5), atol=1e-4)
        momentum = 0.9 * momentum + hessian @ (x - 0.5)
        x = x - 0.01 * (1 - step / paths.STEPS) * momentum


@pytest.mark.parametrize("name", paths.LANDSCAPES)
def test_the_minimum_is_one(name):
    landscape = paths.LANDSCAPES[name]
    loss, minimum = landscape.loss, landscape.minimum
    around = np.random.default_rng(0).normal(scale=0.1, size=(2, 100))
    assert loss(np.array(minimum)) < 1e-6 < loss(np.array(minimum)[:, None] + around).min()


def test_the_rates_of_the_record_lie_inside_the_grid():
    recorded = {row["method"] for row in RECORD["rows"]}
    assert recorded == METHODS.keys()
    assert not [row["method"] for row in RECORD["rows"] if row["at_edge"]]
    for row in RECORD["rows"]:
        assert len(row["path"]) == paths.STEPS + 1 and row["loss"] < 1, row["method"]


def test_the_recorded_paths_lie_inside_their_pictures():
    for row in RECORD["rows"]:
        low, high = paths.LANDSCAPES[row["landscape"]].corners
        points = np.array(row["path"])
        assert (points > low).all() and (points < high).all(), row["method"]


@pytest.mark.parametrize("name", paths.LANDSCAPES)
def test_the_cross_entropy_of_the_logits_is_the_loss(name):
    landscape = paths.LANDSCAPES[name]
    middle = np.full(2, len(paths.VALUES) // 2)

    def above(x):
        return optax.softmax_cross_entropy_with_integer_labels(landscape.logits(x), middle).mean()

    points = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    constant = 0.5 * np.log(2 * np.pi)
    for x in points:
        np.testing.assert_allclose(above(x), landscape.loss(x) + constant, rtol=1e-5)


@pytest.mark.parametrize("name", ["adamh", "muonh"])
def test_the_norm_on_the_sphere_stays_while_the_two_parameters_reach_the_minimum(name):
    path, _ = paths.walk(METHODS[name], "ravine", 0.1)
    radius = np.hypot(np.linalg.norm(paths.LANDSCAPES["ravine"].start), 1)
    assert np.linalg.norm(path[-1] - 0.5) < 0.2 and np.linalg.norm(path, axis=1).max() <= radius * (1 + 1e-5)


def test_muon_moves_the_two_singular_values_alike():
    path, _ = paths.walk(METHODS["muon"], "ravine", 1.0)
    first = np.asarray(path[1] - path[0])
    assert abs(first[0]) > 0.1 and abs(first[0]) == pytest.approx(abs(first[1]), rel=0.4)


def test_soap_is_adam_in_the_axes_of_the_ravine():
    path, _ = paths.walk(METHODS["soap"], "ravine", 0.1)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    along, across = np.array([[c, s], [-s, c]]) @ np.asarray(path[2] - path[1])
    assert along == pytest.approx(0.1, rel=0.05) and across == pytest.approx(-0.1, rel=0.05)
