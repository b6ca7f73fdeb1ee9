"""Line searches next to their equations and their authors' decisions, and the record of what was measured."""

import json

import pytest

from optimiz.methods import METHODS
from tests.golden import problem_p
from tests.golden import search_parity_record as searches

RECORD = json.loads(searches.RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", searches.CASES)
def test_ours_is_the_equations_at_every_step_and_repeats_the_rows_of_the_code(name):
    case, ours = searches.CASES[name], searches.run(name)
    theirs = case.equations()
    problem_p.check_same(ours, theirs)
    assert searches.deviation(ours, theirs) <= searches.BOUND
    if case.rows is not None:
        problem_p.check_rows(ours, case.rows)


def test_every_line_search_but_the_one_of_our_own_has_a_case():
    ours = {method.name for method in METHODS.values() if method.kind == "line search"}
    assert {case.method for case in searches.CASES.values()} == ours - {"salsa"}


def test_the_record_is_of_these_cases():
    assert RECORD["deviation"] == searches.DEVIATION
    assert RECORD["cases"].keys() == searches.CASES.keys()
    for name, case in RECORD["cases"].items():
        assert case.pop("max_relative_deviation") <= case["bound"]
        assert case == searches.described(name)
