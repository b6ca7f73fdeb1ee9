"""Every optimizer beside its source, over the golden trajectories, and the record of what was measured."""

import itertools
import json

import numpy as np
import pytest

from optimiz.methods import METHODS
from tests.golden import parity, parity_record

RECORD = json.loads(parity_record.RECORD.read_text(encoding="utf-8"))
PROVENANCE, _ = parity_record.golden()

each = pytest.mark.parametrize("case", parity_record.OURS)


def test_every_optimizer_has_a_source():
    assert PROVENANCE["cases"].keys() == parity_record.OURS.keys()
    # The line searches are held to their sources decision by decision, in golden/problem_p.py.
    pages = {method.page for method in METHODS.values() if method.kind != "line search"}
    assert {case["method"] for case in PROVENANCE["cases"].values()} == pages


@each
def test_ours_is_the_source_to_rounding(case):
    bound = RECORD["cases"][case]["bound"]
    assert RECORD["cases"][case]["max_relative_deviation"] <= bound
    assert parity_record.deviation(parity_record.snapshots(case), parity_record.leaves(case)) <= bound


@each
def test_the_record_is_of_these_numbers(case):
    recorded = dict(RECORD["cases"][case])
    del recorded["max_relative_deviation"]
    state = parity_record.state_bytes_per_parameter(case)
    measured = {"bound": parity_record.BOUND, "state_bytes_per_parameter": state}
    assert recorded == PROVENANCE["cases"][case] | measured


def test_the_record_says_what_it_measures():
    assert RECORD["deviation"] == parity_record.DEVIATION
    assert RECORD["state"] == parity_record.STATE
    assert RECORD["golden"] | {"cases": PROVENANCE["cases"]} == PROVENANCE


def test_the_script_is_the_one_that_made_the_numbers():
    for part in ("params", "gradients", "curvatures"):
        stored = parity_record.leaves(part)
        assert stored.keys() == parity.SHAPES.keys()
        for leaf, x in parity.problem()[part].items():
            np.testing.assert_allclose(stored[leaf], x, rtol=1e-12)
    assert PROVENANCE["steps"] == parity.STEPS and PROVENANCE["refresh_every"] == parity.REFRESH_EVERY
    assert tuple(PROVENANCE["snapshots"]) == parity.SNAPSHOTS
    described = {name: parity.describe(case) for name, case in parity.CASES.items()}
    for name, stored in PROVENANCE["cases"].items():
        assert {key: value for key, value in stored.items() if key != "version"} == described[name]


def test_the_problem_tells_every_two_sources_apart():
    for one, other in itertools.combinations(parity_record.OURS, 2):
        apart = parity_record.deviation(parity_record.leaves(one), parity_record.leaves(other))
        assert apart > 1e-2, f"{one} and {other}"
