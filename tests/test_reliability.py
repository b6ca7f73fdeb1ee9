"""Every fault that docs/reliability.md says a run survives has tests, and was measured."""

import json

from tests import faults_record
from tests.examples.data.test_text_files import REFUSED
from tests.examples.malformed import cases
from tests.faults_record import OUTCOMES

RECORD = json.loads(faults_record.RECORD.read_text(encoding="utf-8"))


def test_every_fault_has_tests_and_every_marker_names_a_fault():
    assert set(faults_record.marked()) == set(OUTCOMES)


def test_every_fault_was_measured_without_a_failure():
    assert list(RECORD) == list(OUTCOMES)
    for fault, measured in RECORD.items():
        assert measured["cases"] >= 1 and measured["failed"] == 0 and not measured["skipped"], fault


def test_the_record_covers_the_malformed_files_of_today():
    *_, text, files = RECORD.values()
    assert text["cases"] == len(REFUSED)
    assert files["of_which"] == {kind: len(of_kind) for kind, of_kind in cases().items()}
    assert RECORD["SIGKILL at random times"]["cases"] >= 50
