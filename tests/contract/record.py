"""The record of the contract: which optimizer keeps which promise, as measured, and the page rendered from it.

python -m pytest -m "long or not long" tests/contract/test_{contract,devices,persistence,processes}.py
    --record=tests/records/contract.json        measures, and renders
python -m tests.contract.record METHOD ...      measures these, with what is run for all at once, and renders
python -m tests.contract.record                 renders what was measured before

A promise is one of ``optimiz.testing``, or a test with the marker ``promise``, whose argument says it in words.
A test that is not run method by method speaks for all of them. A case that is skipped is not applicable, for
the reason that it gives. What a run leaves out, with -k or by its files, stays as it was measured before.
"""

import datetime
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import optimiz.testing as ot
from optimiz.compare.record import environment
from tests.contract.table import TABLE

ROOT = Path(__file__).parents[2]
PATH = ROOT / "tests/records/contract.json"
CONTRACT = "tests/contract/test_contract.py::test_contract"
FILES = (
    "tests/contract/test_devices.py",
    "tests/contract/test_processes.py",
    "tests/contract/test_persistence.py",
)
STALE = "measure or render again: see tests/contract/record.py"
KEPT, BROKEN, NOT_APPLICABLE = "kept", "broken", "not applicable"


def library() -> dict[str, str]:
    """The promises of ``optimiz.testing`` that test_contract.py checks, and the pages that define them."""
    return {
        promise.name: f"optimiz/testing/contract/{promise.theme}.py"
        for promise in ot.PROMISES
        if promise.theme != "devices"
    }


def marked() -> dict[str, str]:
    """The tests that are promises, by node id: the promise in words."""
    found = {}
    for file in FILES:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for name, value in vars(module).items():
            for marker in getattr(value, "pytestmark", ()):
                if marker.name == "promise":
                    found[f"{file}::{name}"] = marker.args[0]
    return found


def promises() -> dict[str, str]:
    """All promises in words, and the pages that define them."""
    return library() | {words: node.partition("::")[0] for node, words in marked().items()}


class Recorder:
    """A plugin of pytest: for each promise and optimizer, the cases kept, broken and not applicable."""

    def __init__(self, path: Path):
        self.path = path
        self.marked = marked()
        self.outcomes = {promise: {KEPT: {}, BROKEN: {}, NOT_APPLICABLE: {}} for promise in promises()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test, _, case = report.nodeid.removesuffix("]").partition("[")
        if test == CONTRACT:
            name, _, promise = case.partition("-")
            names = [name]
        elif test in self.marked:
            if case == "few":  # a quick run says nothing of the others
                return
            promise = self.marked[test]
            names = TABLE.keys() & set(case.split("-")) or TABLE
        else:
            return
        outcomes = self.outcomes[promise]
        for name in names:
            if report.failed:
                outcomes[BROKEN][name] = outcomes[BROKEN].get(name, 0) + 1
            elif report.skipped:
                outcomes[NOT_APPLICABLE][name] = report.longrepr[2].removeprefix("Skipped: ")
            elif report.when == "call":
                outcomes[KEPT][name] = outcomes[KEPT].get(name, 0) + 1

    def pytest_sessionfinish(self) -> None:
        before = json.loads(self.path.read_text())["outcomes"] if self.path.is_file() else {}
        record = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "environment": environment(),
            "outcomes": {promise: _merged(before.get(promise), now) for promise, now in self.outcomes.items()},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        write_page(self.path)


def _merged(before: dict[str, dict[str, Any]] | None, now: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The outcomes of a promise: for each method those measured last."""
    measured = {name for counts in now.values() for name in counts}
    kept = {
        kind: {n: x for n, x in counts.items() if n not in measured} for kind, counts in (before or now).items()
    }
    return {kind: kept[kind] | now[kind] for kind in now}


def departures(page: Path) -> Iterator[tuple[str, str]]:
    """What a page departs from, and how: the paragraphs "Departures from …: …; …" of its docstring.

    Items end at semicolons, in a paragraph that has none at full stops; a sentence "From …: …" begins anew.
    """
    documentation = importlib.import_module(_module(page)).__doc__ or ""
    for paragraph in documentation.split("\n\n"):
        text = " ".join(paragraph.split())
        if not text.startswith("Departures from "):
            continue
        _, *parts = re.split(r"(?:^Departures f|(?<=\. )F)rom (.+?): ", text)
        for source, items in zip(parts[::2], parts[1::2], strict=True):
            for item in split_items(items):
                yield source, item.strip().removeprefix("and ").removesuffix(".")


def split_items(text: str) -> list[str]:
    """The parts of a text between semicolons, or else its sentences; parentheses and literals stay whole."""
    whole = r"\([^()]*(?:\([^()]*\)[^()]*)*\)|``.+?``"
    masked = re.sub(whole, lambda found: found[0][0] * len(found[0]), text)
    ends = [*re.finditer(r";\s", masked)] or [*re.finditer(r"\.\s(?=[A-Z`])", masked)]
    starts = [0, *(end.end() for end in ends)]
    return [text[a:b] for a, b in zip(starts, [*(end.start() for end in ends), None], strict=True)]


def _module(page: Path) -> str:
    return ".".join(page.relative_to(ROOT).with_suffix("").parts)


def pages() -> list[Path]:
    """The pages of the optimizers, then those of the primitives."""
    folders = (ROOT / "optimiz/optimizers", ROOT / "optimiz/primitives")
    return [page for folder in folders for page in sorted(folder.glob("*.py")) if page.stem != "__init__"]


def render(record: dict[str, Any]) -> str:
    """The record, and the departures that the pages name, as Markdown."""
    measured, outcomes = record["environment"], record["outcomes"]
    names = sorted({name for kinds in outcomes.values() for counts in kinds.values() for name in counts})
    cases = sum(sum(kinds[KEPT].values()) + sum(kinds[BROKEN].values()) for kinds in outcomes.values())
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    reasons: list[str] = []
    rows = []
    for promise, page in promises().items():
        kinds = outcomes.get(promise, {KEPT: {}, BROKEN: {}, NOT_APPLICABLE: {}})
        cells = []
        for name in names:
            cell = "✗" if name in kinds[BROKEN] else "✓" if name in kinds[KEPT] else "—"
            if reason := kinds[NOT_APPLICABLE].get(name):
                reasons += [reason] if reason not in reasons else []
                cell += f" ({reasons.index(reason) + 1})"
            cells.append(cell)
        rows.append(f"| [{promise[0].upper()}{promise[1:]}](../../{page}) | {' | '.join(cells)} |")
    from_optax, from_others = [], []
    for page in pages():
        for source, item in departures(page):
            link = f"[`{page.stem}`](../../{page.relative_to(ROOT).as_posix()})"
            line = _markdown(f"- {link}, from {source}: {item}")
            (from_optax if "``optax." in source else from_others).append(line)
    return "\n".join(
        [
            "# The contract, and who keeps it",
            "",
            f"Every method and wrapper is held to every promise below by a test: {cases:,} cases, "
            f"on {record['date'][:10]}, {measured['device']} ({measured['machine']}, "
            f"{measured['cpu_cores']} cores), Python {measured['python']}, {versions}. "
            "This page is rendered from [contract.json](contract.json) and the pages' docstrings by "
            "[record.py](../contract/record.py), which says how to measure again.",
            "",
            "✓ kept in every case, ✗ broken in some, — not applicable.",
            "",
            f"| promise | {' | '.join(f'`{name}`' for name in names)} |",
            f"| --- |{' :-: |' * len(names)}",
            *rows,
            *(f"\n({i}) {reason}" for i, reason in enumerate(reasons, 1)),
            "",
            "## Departures from Optax",
            "",
            *from_optax,
            "",
            "## Departures from papers and from others' code",
            "",
            *from_others,
            "",
        ]
    )


def write_page(path: Path) -> None:
    """Render the record at a path beside it."""
    path.with_suffix(".md").write_text(render(json.loads(path.read_text())))


def _markdown(text: str) -> str:
    return re.sub(r":math:`(.+?)`", r"$\1$", text).replace("``", "`")


def main(names: list[str]) -> None:
    """Measure methods and wrappers and merge them into the record; without names render it."""
    if not names:
        return write_page(PATH)
    whole = [test.partition("::")[2] for test in marked()]
    files = sorted({test.partition("::")[0] for test in [CONTRACT, *marked()]})
    selected = " or ".join([*whole, *names])
    sys.exit(pytest.main([*files, "-m", "long or not long", "-k", selected, f"--record={PATH}"]))


if __name__ == "__main__":
    main(sys.argv[1:])
