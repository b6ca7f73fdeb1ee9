"""The committed record of the contract is complete, and its page is what the record and the pages say."""

import json

import pytest

from tests.contract import record as record_of
from tests.contract.table import TABLE

RECORD = json.loads(record_of.PATH.read_text())


def recorded():
    return {name for kinds in RECORD["outcomes"].values() for counts in kinds.values() for name in counts}


def test_what_is_recorded_keeps_every_promise_or_says_why_it_need_not():
    assert RECORD["outcomes"].keys() == set(record_of.promises()), record_of.STALE
    assert recorded() <= TABLE.keys(), record_of.STALE
    for promise, kinds in RECORD["outcomes"].items():
        assert kinds["broken"] == {}, promise
        assert kinds["kept"].keys() | kinds["not applicable"].keys() == recorded(), (promise, record_of.STALE)


@pytest.mark.long  # before a release; a new method may come without
def test_every_optimizer_is_recorded():
    assert recorded() == TABLE.keys(), record_of.STALE


def test_every_optimizer_names_its_departures():
    for page in record_of.pages():
        if page.parent.name == "optimizers":
            assert all(source and item for source, item in record_of.departures(page))
            assert list(record_of.departures(page)), page


def test_items_end_at_semicolons_outside_of_parentheses_or_else_at_full_stops():
    text = "a (b; c (d; e)); ``f; g`` of h. I; and j"
    assert record_of.split_items(text) == ["a (b; c (d; e))", "``f; g`` of h. I", "and j"]
    assert record_of.split_items("a is 1.5 (b. C). D e. ``f`` g") == ["a is 1.5 (b. C)", "D e", "``f`` g"]
    assert record_of.split_items("one alone") == ["one alone"]


def test_the_recorder_tells_kept_broken_and_not_applicable(tmp_path):
    promise, whole, other = (
        record_of.promises()[0],
        record_of.promises()[-1],
        "tests/test_groups.py::test_x[adam]",
    )
    recorder = record_of.Recorder(tmp_path / "contract.json")
    for node, when, outcome in [
        (f"{promise}[nan-adam]", "call", "passed"),
        (f"{promise}[inf-adam]", "call", "passed"),
        (f"{promise}[nan-lion]", "call", "passed"),
        (f"{promise}[inf-lion]", "call", "failed"),
        (f"{promise}[nan-lamb]", "call", "skipped"),
        (f"{promise}[nan-lars]", "setup", "failed"),
        (whole, "setup", "passed"),
        (whole, "call", "passed"),
        (other, "call", "failed"),
    ]:
        why = ("file", 1, "Skipped: has no rate") if outcome == "skipped" else None
        recorder.pytest_runtest_logreport(pytest.TestReport(node, ("", 0, ""), {}, outcome, why, when))
    recorder.pytest_sessionfinish()
    outcomes = json.loads((tmp_path / "contract.json").read_text())["outcomes"]
    assert outcomes[promise] == {
        "kept": {"adam": 2, "lion": 1},
        "broken": {"lion": 1, "lars": 1},
        "not applicable": {"lamb": "has no rate"},
    }
    assert outcomes[whole] == {"kept": dict.fromkeys(TABLE, 1), "broken": {}, "not applicable": {}}
    assert other not in outcomes
    page = (tmp_path / "contract.md").read_text().splitlines()
    names = next(line for line in page if line.startswith("| promise |")).split(" | ")
    cells = next(line for line in page if line.startswith("| [Refuses a bad rate by name]")).split(" | ")
    seen = {name.strip("`| "): cell.strip("| ") for name, cell in zip(names, cells, strict=True)}
    assert (seen["adam"], seen["lion"], seen["lars"], seen["lamb"]) == ("✓", "✗", "✗", "— (1)")
    assert "(1) has no rate" in page
