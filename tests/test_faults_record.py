"""The record of faults is whole, of this corpus, and without an exception; the page is rendered from it."""

import json

import pytest

from tests import faults_record
from tests.conftest import ROOT
from tests.examples.data.test_text import REFUSED
from tests.examples.malformed import cases
from tests.faults_record import FAULTS

RECORD = json.loads(faults_record.RECORD.read_text(encoding="utf-8"))


def test_every_fault_was_measured_and_came_out_as_it_should():
    assert list(RECORD) == [fault.name for fault in FAULTS]
    for name, measured in RECORD.items():
        assert measured["cases"] >= 1 and measured["failed"] == 0 and not measured["skipped"], name


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_tests_of_a_fault_are_there(fault):
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / path).read_text(encoding="utf-8")


def test_the_record_is_of_this_corpus():
    prefix = "Malformed input: "
    recorded = {name.removeprefix(prefix): m["cases"] for name, m in RECORD.items() if name.startswith(prefix)}
    assert recorded == {"labelled text": len(REFUSED)} | {kind: len(of) for kind, of in cases().items()}
    assert sum(recorded.values()) >= 40 and RECORD["SIGKILL at random times"]["cases"] >= 50
