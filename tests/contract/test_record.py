"""The committed record of the contract is complete, and its page is what the record and the pages say."""

import json

import pytest

from tests.contract import record as record_of
from tests.contract.table import SUBJECTS, TABLE

RECORD = json.loads(record_of.PATH.read_text())


def recorded(promises):
    """The methods and wrappers of which one of the promises is recorded."""
    found = [RECORD["outcomes"].get(promise, {}) for promise in promises]
    return {name for kinds in found for counts in kinds.values() for name in counts}


def test_what_is_recorded_keeps_every_promise_or_says_why_it_need_not():
    assert RECORD["outcomes"].keys() == record_of.promises().keys(), record_of.STALE
    for promises in (record_of.library().keys(), record_of.marked().values()):
        for promise in promises:
            kinds = RECORD["outcomes"][promise]
            assert kinds["broken"] == {}, promise
            assert kinds["kept"].keys() | kinds["not applicable"].keys() == recorded(promises), promise
            assert recorded(promises) <= SUBJECTS.keys(), record_of.STALE


@pytest.mark.long  # before a release; a new method may come without
def test_every_method_and_wrapper_is_recorded():
    assert recorded(record_of.library()) == SUBJECTS.keys(), record_of.STALE
    assert recorded(record_of.marked().values()) == TABLE.keys(), record_of.STALE


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
    ours, promise = record_of.CONTRACT, next(iter(record_of.library()))
    whole, of_all = next(iter(record_of.marked().items()))
    each, words = next(item for item in record_of.marked().items() if "msgpack" in item[0])
    recorder = record_of.Recorder(tmp_path / "contract.json")
    for node, when, outcome in [
        (f"{ours}[adam-{promise}]", "call", "passed"),
        (f"{ours}[lion-{promise}]", "call", "failed"),
        (f"{ours}[low_bit(adamw)-{promise}]", "call", "skipped"),
        (f"{ours}[lars-{promise}]", "setup", "failed"),
        (f"{each}[orbax-adam]", "call", "passed"),
        (f"{each}[msgpack-adam]", "call", "passed"),
        (f"{each}[orbax-lion]", "call", "passed"),
        (f"{each}[msgpack-lion]", "call", "failed"),
        (whole, "setup", "passed"),
        (whole, "call", "passed"),
        ("tests/test_groups.py::test_x[adam]", "call", "failed"),
    ]:
        why = ("file", 1, "Skipped: has no rate") if outcome == "skipped" else None
        recorder.pytest_runtest_logreport(pytest.TestReport(node, ("", 0, ""), {}, outcome, why, when))
    recorder.pytest_sessionfinish()
    outcomes = json.loads((tmp_path / "contract.json").read_text())["outcomes"]
    assert outcomes.keys() == record_of.promises().keys()
    assert outcomes[promise] == {
        "kept": {"adam": 1},
        "broken": {"lion": 1, "lars": 1},
        "not applicable": {"low_bit(adamw)": "has no rate"},
    }
    assert outcomes[words] == {"kept": {"adam": 2, "lion": 1}, "broken": {"lion": 1}, "not applicable": {}}
    assert outcomes[of_all] == {"kept": dict.fromkeys(TABLE, 1), "broken": {}, "not applicable": {}}
    page = (tmp_path / "contract.md").read_text().splitlines()
    names = next(line for line in page if line.startswith("| promise |")).split(" | ")
    cells = next(line for line in page if line.startswith("| [State keeps its tree")).split(" | ")
    seen = {name.strip("`| "): cell.strip("| ") for name, cell in zip(names, cells, strict=True)}
    assert [seen[name] for name in ("adam", "lion", "lars", "low_bit(adamw)")] == ["✓", "✗", "✗", "— (1)"]
    assert "(1) has no rate" in page
