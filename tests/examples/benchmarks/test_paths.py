import json

import numpy as np
import pytest

from examples.benchmarks import paths
from optimiz.methods import METHODS
from tests.conftest import ROOT

RECORD = json.loads((ROOT / "examples/benchmarks/results/paths/record.json").read_text())


def test_a_path_is_that_of_momentum_by_hand():
    path, losses = paths.walk(METHODS["sgd"], "ravine", 0.01)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    hessian = np.outer([c, s], [c, s]) + 30 * np.outer([-s, c], [-s, c])
    x, momentum = np.array(paths.LANDSCAPES["ravine"][1]), np.zeros(2)
    for step in range(paths.STEPS + 1):
        np.testing.assert_allclose(path[step], x, atol=1e-5)
        np.testing.assert_allclose(losses[step], 0.5 * (x - 0.5) @ hessian @ (x - 0.5), atol=1e-4)
        momentum = 0.9 * momentum + hessian @ (x - 0.5)
        x = x - 0.01 * (1 - step / paths.STEPS) * momentum


@pytest.mark.parametrize("name", paths.LANDSCAPES)
def test_the_minimum_is_one(name):
    loss, _, _, minimum = paths.LANDSCAPES[name]
    around = np.random.default_rng(0).normal(scale=0.1, size=(2, 100))
    assert loss(np.array(minimum)) < 1e-6 < loss(np.array(minimum)[:, None] + around).min()


def test_the_rates_of_the_record_lie_inside_the_grid():
    recorded = {row["method"] for row in RECORD["rows"]}
    assert recorded | paths.WITHOUT.keys() == METHODS.keys() and not recorded & paths.WITHOUT.keys()
    assert not [row["method"] for row in RECORD["rows"] if row["at_edge"]]
    for row in RECORD["rows"]:
        assert len(row["path"]) == paths.STEPS + 1 and row["loss"] < 1, row["method"]


def test_muon_moves_the_two_singular_values_alike():
    path, _ = paths.walk(METHODS["muon"], "ravine", 1.0)
    first = np.asarray(path[1] - path[0])
    assert abs(first[0]) > 0.1 and abs(first[0]) == pytest.approx(abs(first[1]), rel=0.4)


def test_soap_is_adam_in_the_axes_of_the_ravine():
    path, _ = paths.walk(METHODS["soap"], "ravine", 0.1)
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    along, across = np.array([[c, s], [-s, c]]) @ np.asarray(path[2] - path[1])
    assert along == pytest.approx(0.1, rel=0.05) and across == pytest.approx(-0.1, rel=0.05)
