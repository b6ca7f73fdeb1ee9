"""The record of faults: what was done to runs, how often, and whether each came out as it should.

    python -m tests.faults_record [PART OF A FAULT'S NAME ...]

measures those faults, or all of them, and writes `tests/records/faults.json`, from which the table of
docs/reliability.md is rendered. A fault is measured by running the tests that carry its marker,
``@pytest.mark.survives(FAULT)``. A test that covers several cases reports how many with
``record_property("cases", number)``, and may name them with further properties; any other test is one case.
"""

import ast
import collections
import datetime
import json
import sys
from typing import Any

import pytest

from optimiz.training import environment
from tests.conftest import ROOT

RECORD = ROOT / "tests/records/faults.json"
OUTCOMES = {
    "SIGKILL in a step, in a save, or between rename and clean-up": "resumes bit for bit: parameters, state, "
    "random keys, order of the data and metrics",
    "SIGKILL at random times": "the same; each session continues from the last complete checkpoint",
    "SIGTERM during compilation, a step, an evaluation or the wait for a batch": "saves once, exits with code "
    "75, and resumes bit for bit",
    "SIGTERM during a calibration": "exits with code 75; there is nothing to save",
    "a second SIGTERM": "the process ends at once",
    "a full or read-only disk": "ends with an error that names the path, keeps the last checkpoint, and "
    "resumes bit for bit once there is room",
    "a second run in the same directory": "refused, and the message names the process",
    "resuming a finished run": "reads its result, and says so",
    "resuming with other settings, another optimizer, width or dtype": "refused, and the message names what "
    "differs; the checkpoint is kept",
    "resuming on another number of devices": "restores the same state bit for bit, on eight devices, on a mesh "
    "of four by two and on one",
    "a checkpoint file truncated, emptied, changed in one bit, deleted or added": "refused by name, or the "
    "checkpoint before it is used, and the log says so",
    "a bit of the manifest flipped": "refused",
    "a metrics file with a torn last line, or with a changed byte": "the torn line is dropped; the changed "
    "byte is detected",
    "NaN in a loss, a micro-batch or a replica, under a guard": "skipped: the rest of the run is bit for bit "
    "as without it",
    "NaN without a guard, or more often in a row than the guard allows": "ends with an error and keeps the "
    "last good checkpoint",
    "copies of a parameter that differ between processes": "found before the next checkpoint; the run stops "
    "and names step, parameter, device and process",
    "one of two processes killed": "the other exits with an error within 60 s, and both resume",
    "processes started with different settings": "all refuse to begin, and name the settings",
    "1,000 steps": "one compilation; after step 100 memory grows by less than 2 %",
    "malformed labelled text": "refused in one line that begins with file and line",
    "malformed weights, configurations, chats, templates, arrays, images, checkpoints and names": "refused in "
    "one line that names the file and the entry; nothing is executed, written outside, or fetched",
}


def marked() -> dict[str, list[str]]:
    """The tests of each fault, by their node ids."""
    found = collections.defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "pytest.mark.survives(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.survives":
                    fault = ast.literal_eval(mark.args[0])
                    found[fault].append(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return dict(found)


class Counter:
    """A plugin of pytest that counts the cases of a fault."""

    def __init__(self) -> None:
        self.cases, self.failed, self.skipped, self.of_which = 0, 0, [], collections.Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        properties = dict(report.user_properties)
        if report.failed:
            self.failed += 1
        elif report.skipped:
            self.skipped.append(report.longrepr[2].removeprefix("Skipped: "))
        elif report.when == "call":
            self.cases += properties.pop("cases", 1)
            self.of_which.update(properties)


def measure(tests: list[str]) -> dict[str, Any]:
    """The cases of a fault, and how many did not come out as they should."""
    counter = Counter()
    pytest.main(["-n", "0", "-q", "-m", "long or not long", *tests], plugins=[counter])
    measured = {"cases": counter.cases, "failed": counter.failed, "of_which": dict(counter.of_which)}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return measured | {"skipped": counter.skipped, "date": date, "environment": environment()}


def render(record: dict[str, Any]) -> str:
    """The table of docs/reliability.md."""
    lines = ["| fault | what happens | cases | failed |", "| --- | --- | ---: | ---: |"]
    for fault, outcome in OUTCOMES.items():
        measured = record[fault]
        which = ", ".join(f"{number} {what}" for what, number in measured["of_which"].items())
        name = f"{fault} ({which})" if which else fault
        lines.append(f"| {name} | {outcome} | {measured['cases']:,} | {measured['failed']} |")
    cases, failed = (sum(measured[what] for measured in record.values()) for what in ("cases", "failed"))
    lines.append(f"| **all** | | **{cases:,}** | **{failed}** |")
    dates = sorted({measured["date"] for measured in record.values()})
    machine = next(iter(record.values()))["environment"]["machine"]
    period = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    legend = (
        f"{period}, {machine}. [The record](../tests/records/faults.json) has "
        "the versions of each measurement. `python -m tests.faults_record` measures again."
    )
    return "\n".join(lines) + f"\n\n{legend}\n"


def main() -> None:
    """Measure the faults whose names contain one of the arguments, or all."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    tests = marked()
    for fault in OUTCOMES:
        if not sys.argv[1:] or any(part in fault for part in sys.argv[1:]):
            record[fault] = measure(tests[fault])
            ordered = {fault: record[fault] for fault in OUTCOMES if fault in record}
            RECORD.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
