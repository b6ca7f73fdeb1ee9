"""Every optimizer next to its source, over the golden trajectories, and the record of what was measured."""

import itertools
import json

import numpy as np
import pytest

from optimiz.methods import METHODS
from tests.golden import parity, parity_record

RECORD = json.loads(parity_record.RECORD.read_text(encoding="utf-8"))
CASES = parity_record.page_of()

each = pytest.mark.parametrize("case", CASES)
each_page = pytest.mark.parametrize("page", parity.pages())


@each_page
def test_a_page_has_a_source_and_the_trajectories_of_its_cases(page):
    run, trajectories = parity.golden(page)
    assert run["cases"].keys() == trajectories.keys() == parity.cases(page).keys()
    assert {case["method"] for case in run["cases"].values()} == {page}


def test_every_optimizer_that_takes_a_rate_is_on_a_page_with_a_source():
    files = {path.stem for path in parity.FOLDER.glob("*.npz")} - {"problem"}
    assert files == {method.page for method in METHODS.values() if method.kind != "line search"}


@each
def test_ours_is_the_source_to_rounding(case):
    assert (
        parity_record.deviation(parity_record.snapshots(case), parity_record.source(case))
        <= parity_record.BOUND
    )


@pytest.mark.parametrize("case", RECORD["cases"])
def test_the_record_is_of_these_numbers(case):
    recorded = dict(RECORD["cases"][case])
    assert recorded.pop("max_relative_deviation") <= recorded["bound"]
    assert recorded.pop("measured").keys() == {"date", "environment"}
    assert recorded == parity_record.described(case)


@pytest.mark.long  # before a release; a new method may come without
def test_every_case_is_in_the_record():
    assert RECORD["cases"].keys() == CASES.keys()


def test_the_record_says_what_it_measures():
    assert RECORD["deviation"] == parity_record.DEVIATION
    assert RECORD["state"] == parity_record.STATE


def test_the_script_makes_the_problem_that_the_numbers_are_of():
    made, stored = parity.problem(), parity.stored_problem()
    np.testing.assert_allclose(stored["rates"], made["rates"], rtol=1e-12)
    for part in parity.PARTS:
        for leaf, x in made[part].items():
            np.testing.assert_allclose(stored[part][leaf], x, rtol=1e-12)


@each_page
def test_the_script_is_the_one_that_made_the_numbers(page):
    run, _ = parity.golden(page)
    assert run["steps"] == parity.STEPS and run["refresh_every"] == parity.REFRESH_EVERY
    assert run["seed"] == parity.SEED and tuple(run["snapshots"]) == parity.SNAPSHOTS
    for name, case in parity.cases(page).items():
        stored = dict(run["cases"][name])
        assert stored.pop("version")
        assert stored == parity.describe(page, case)


EQUATIONS = {
    name: case for page in parity.pages() for name, case in parity.cases(page).items() if case.equations
}


@pytest.mark.parametrize("case", EQUATIONS)
def test_the_trajectory_of_equations_is_made_again_to_rounding(case):
    for leaf, x in parity.snapshots(EQUATIONS[case]).items():
        np.testing.assert_allclose(x, parity_record.source(case)[leaf], rtol=1e-12, atol=1e-14)


def test_the_problem_tells_every_two_sources_apart():
    for one, other in itertools.combinations(CASES, 2):
        apart = parity_record.deviation(parity_record.source(one), parity_record.source(other))
        assert apart > 1e-2, f"{one} and {other}"
