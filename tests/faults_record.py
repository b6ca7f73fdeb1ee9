"""The record of faults: what was done to runs, how often, and that each came out as it should.

python -m tests.faults_record [PART OF A FAULT'S NAME ...]     measures those faults, or all, and renders
python -m tests.faults_record --render                          renders what was measured before

A fault is measured by running the tests that do it. A test that does it more than once says how often, by
``record_property("cases", number)``, and may add what they were; any other counts as one case.
"""

import datetime
import json
import sys
from typing import Any, NamedTuple

import pytest

from optimiz.training import environment
from tests.conftest import ROOT
from tests.examples.malformed import cases

RECORD = ROOT / "tests/records/faults.json"
RESUME, DIVERGENCE = "tests/training/test_resume.py", "tests/training/test_divergence.py"
CHECKPOINT, HOSTS = "tests/training/storage/test_checkpoint.py", "tests/training/distributed/test_processes.py"
MALFORMED = "tests/examples/test_malformed.py::test_is_refused_in_one_line_and_nothing_else_happens"


class Fault(NamedTuple):
    """What is done to a run, what is to come of it, and the tests that do it, by how their names begin."""

    name: str
    outcome: str
    tests: tuple[str, ...]


RUNS = (
    Fault(
        "SIGKILL in a step, in a save, between rename and clean-up",
        "parameters, state, key, data order and metrics as if it had not been, to the bit",
        (f"{RESUME}::test_killed_and_resumed", f"{RESUME}::test_killed_before_the_first"),
    ),
    Fault(
        "SIGKILL at random times",
        "the same; each session goes on from the last complete checkpoint",
        (f"{RESUME}::test_killed_at_any_time",),
    ),
    Fault(
        "SIGTERM in compilation, step, evaluation, or the batch before a step",
        "one save, exit code 75; resumed to the bit",
        (f"{RESUME}::test_sigterm_saves_once", f"{RESUME}::test_resumed_every_few_steps"),
    ),
    Fault(
        "SIGTERM in a calibration, warming up or timing",
        "nothing to save, exit code 75",
        (f"{RESUME}::test_sigterm_in_a_calibration",),
    ),
    Fault(
        "A second SIGTERM",
        "the process ends at once",
        (f"{RESUME}::test_a_second_signal",),
    ),
    Fault(
        "Disk full or read-only, by a limit on files, on a tmpfs, by what the system says is free",
        "error with the path, last checkpoint kept, and resumed to the bit with room again",
        (
            "tests/training/storage/test_disk.py::test_",
            f"{RESUME}::test_a_full_disk",
            f"{CHECKPOINT}::test_too_little_space",
        ),
    ),
    Fault(
        "A second run in the directory",
        "refused, naming the process",
        (
            f"{RESUME}::test_a_second_process",
            "tests/training/storage/test_run_directory.py::test_one_process_at_a_time",
        ),
    ),
    Fault(
        "Resume of a finished run",
        "read back, and said so",
        ("tests/training/test_loop.py::test_a_finished_run",),
    ),
    Fault(
        "Resume with other settings, optimizer, width or dtype",
        "refused, naming what differs; the checkpoint kept",
        (
            f"{RESUME}::test_resumed_with_another",
            f"{CHECKPOINT}::test_other_settings",
            f"{CHECKPOINT}::test_another_tree",
            "tests/training/test_loop.py::test_what_decides_the_trajectory",
        ),
    ),
    Fault(
        "Resume on eight, four by two, and one devices",
        "the same state to the bit",
        ("tests/training/distributed/test_sharding.py::test_on_eight_devices",),
    ),
    Fault(
        "A file of a checkpoint truncated, emptied, flipped in one bit, deleted or added",
        "refused with its name, or the checkpoint before is used, and said so",
        (f"{CHECKPOINT}::test_damage_is_refused",),
    ),
    Fault(
        "A bit of the manifest flipped",
        "refused",
        (f"{CHECKPOINT}::test_no_flipped_bit",),
    ),
    Fault(
        "NaN in loss, micro-batch or replica, under a guard",
        "skipped: the rest of the run as without it, to the bit",
        (f"{DIVERGENCE}::test_the_run_goes_on", f"{DIVERGENCE}::test_one_bad_replica"),
    ),
    Fault(
        "NaN without a guard, or more in a row than it bears",
        "the run ends with an error, last good checkpoint kept",
        (
            f"{DIVERGENCE}::test_bad_steps_in_a_row",
            f"{DIVERGENCE}::test_a_guard_around_a_part",
            f"{DIVERGENCE}::test_a_loss_that",
        ),
    ),
    Fault(
        "One of two processes killed",
        "the other ends within 60 s with an error, and both are resumed",
        (f"{HOSTS}::test_one_is_killed",),
    ),
    Fault(
        "Processes started with other settings",
        "refused on all, naming them",
        (f"{HOSTS}::test_processes_with_other_settings",),
    ),
    Fault(
        "1,000 steps",
        "one compilation; after step 100 memory grows by less than 2 %",
        ("tests/training/test_loop.py::test_a_thousand_steps",),
    ),
)
INPUTS = (
    Fault(
        "Malformed input: labelled text",
        "one line that begins with file and line",
        ("tests/examples/data/test_text.py::test_refuses_by_place_and_value",),
    ),
    *(
        Fault(
            f"Malformed input: {kind}",
            "one line with the file and the name; nothing run, nothing written outside, nobody called",
            (f"{MALFORMED}[{kind}: ",),
        )
        for kind in cases()
    ),
)
FAULTS = RUNS + INPUTS


class Counter:
    """A plugin of pytest that counts the cases of the tests of a fault."""

    def __init__(self, fault: Fault):
        self.fault, self.cases, self.failed, self.skipped, self.of_which = fault, 0, 0, [], {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid.startswith(self.fault.tests)]

    def pytest_runtest_logreport(self, report: Any) -> None:
        properties = dict(report.user_properties)
        if report.failed:
            self.failed += 1
        elif report.skipped:
            self.skipped.append(report.longrepr[2].removeprefix("Skipped: "))
        elif report.when == "call":
            self.cases += properties.pop("cases", 1)
            self.of_which |= properties


def measure(fault: Fault) -> dict[str, Any]:
    """The cases of a fault, and how many came out otherwise."""
    counter = Counter(fault)
    files = sorted({test.partition("::")[0] for test in fault.tests})
    pytest.main(["-n", "0", "-q", "-m", "long or not long", *files], plugins=[counter])
    measured = {"cases": counter.cases, "failed": counter.failed, "of_which": counter.of_which}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return measured | {"skipped": counter.skipped, "date": date, "environment": environment()}


def render(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "# Faults, and what comes of them",
        "",
        "Each is a test on the trainer itself. Rendered from [faults.json](faults.json), which has dates, "
        "versions and machine, by [faults_record.py](../faults_record.py), which says how to measure again.",
        "",
        "| fault | cases | otherwise | outcome |",
        "| --- | ---: | ---: | --- |",
    ]
    for fault in FAULTS:
        measured = record[fault.name]
        which = "; ".join(f"{number} {what}" for what, number in measured["of_which"].items())
        name = f"{fault.name} ({which})" if which else fault.name
        lines.append(f"| {name} | {measured['cases']} | {measured['failed']} | {fault.outcome} |")
    total = sum(record[fault.name]["cases"] for fault in FAULTS)
    lines.append(f"| **all** | **{total:,}** | **{sum(m['failed'] for m in record.values())}** | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure the faults that are named, and render."""
    names = [name for name in sys.argv[1:] if name != "--render"]
    for fault in FAULTS:
        if "--render" not in sys.argv and (not names or any(name in fault.name for name in names)):
            record = written() | {fault.name: measure(fault)}
            ordered = {each.name: record[each.name] for each in FAULTS if each.name in record}
            RECORD.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    RECORD.with_suffix(".md").write_text(render(written()), encoding="utf-8")


def written() -> dict[str, Any]:
    """What was measured before."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


if __name__ == "__main__":
    main()
