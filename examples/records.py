"""Render every committed report, table and picture again from its record.

    python -m examples.records            writes them
    python -m examples.records --check    lists what is stale, and exits with 1

A report is a page next to its record. A section is a part of README.md or of a page in docs/, between the
comments ``<!-- record: NAME -->`` and ``<!-- /record -->``: to move a section is to move its text. The bytes of
a picture depend on Matplotlib's version, so the check only requires that pictures exist.
"""

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples import plan
from examples.benchmarks import trainers_report, update_report
from examples.shared import command, program_flags
from examples.studies.heterogeneity import report as heterogeneity
from examples.studies.line_search import report as line_search
from examples.studies.low_bit import report as low_bit
from examples.studies.pretraining import report as pretraining
from optimiz import compare, training

FLAGS = program_flags.Flags()
_CHECK = FLAGS.DEFINE_bool("check", False, "List what is stale instead of rendering it.")

ROOT = Path(__file__).parents[1]
_SECTION = re.compile(r"<!-- record: (\S+) -->(.*?)<!-- /record -->", re.DOTALL)
_PICTURE = re.compile(r"\]\((\w+\.png)\)")

_COMPARISONS = {  # in examples/results: folder → the figure that ranks the methods
    "topics": "accuracy",
    "compare": "accuracy",
    "digits/resnet": "accuracy",
    "digits/vit": "accuracy",
    "causal": "bits_per_byte",
}
_STUDIES = {  # in examples/studies: folder → the module that renders its record
    **dict.fromkeys([f"line_search/results/{data}" for data in ("topics", "sst2", "cola")], line_search),
    **dict.fromkeys([f"low_bit/results/{data}" for data in ("wikitext2", "sst2", "topics")], low_bit),
    "heterogeneity/results": heterogeneity,
    "pretraining/results": pretraining,
}
_BENCHMARKS = {
    **{"trainers": trainers_report, "update": update_report},
    **dict.fromkeys(["plan/llama_v5e_4x4", "plan/gpt2_xl_h200"], plan),
}
_MEASURED = ("contract", "layouts", "memory", "scaling")  # records in tests/records that have a page


@dataclasses.dataclass(frozen=True)
class Report:
    """A page next to its record.

    Attributes:
        render: returns the text of the page.
        write: writes the page and its pictures.
    """

    render: Callable[[], str]
    write: Callable[[], object]


def reports() -> dict[str, Report]:
    """Every committed report, by its path from the root of the repository."""
    found = {}
    for name, figure in _COMPARISONS.items():
        folder, record = ROOT / "examples/results" / name, _comparison(name)
        found[f"examples/results/{name}/report.md"] = Report(
            functools.partial(compare.render, record, figure=figure),
            functools.partial(compare.write_report, record, folder, figure=figure),
        )
    for name, module in _STUDIES.items():
        folder, study = ROOT / "examples/studies" / name, _study(name)
        found[f"examples/studies/{name}/report.md"] = Report(
            functools.partial(module.render, study),
            functools.partial(module.write, study, folder),
        )
    for name, module in _BENCHMARKS.items():
        path = f"examples/benchmarks/results/{name}/report.md"
        found[path] = _page(path, functools.partial(module.report, _benchmark(name)))
    for name in _MEASURED:
        path = f"tests/records/{name}.md"
        found[path] = _page(path, functools.partial(_rendered, name))
    return found


def sections() -> dict[str, Callable[[], str]]:
    """Every section by its name; links in it are those of a page in docs."""
    return {
        "topics": lambda: compare.summary(_comparison("topics"), figure="accuracy"),
        "compare": lambda: compare.summary(_comparison("compare"), figure="accuracy"),
        "resnet": lambda: compare.in_words(_comparison("digits/resnet"), figure="accuracy"),
        "vit": lambda: compare.in_words(_comparison("digits/vit"), figure="accuracy"),
        "causal": lambda: compare.in_words(_comparison("causal"), figure="bits_per_byte"),
        "causal_sample": lambda: "\n\n".join(map(compare.fenced, _comparison("causal").samples.values())),
        "line_search": lambda: line_search.across(_studies("line_search")),
        "low_bit": lambda: low_bit.across(_studies("low_bit")),
        "heterogeneity": lambda: heterogeneity.summary(_study("heterogeneity/results")),
        "pretraining": lambda: pretraining.summary(_study("pretraining/results")),
        "speed": lambda: update_report.summary(_benchmark("update")),
        "trainers": lambda: trainers_report.summary(_benchmark("trainers")),
        "plan_tpu": lambda: plan.summary(_benchmark("plan/llama_v5e_4x4")),
        "plan_gpu": lambda: plan.summary(_benchmark("plan/gpt2_xl_h200")),
        "parity": lambda: _rendered("parity"),
        "model_parity": lambda: _rendered("model_parity"),
        "faults": lambda: _rendered("faults"),
        "layouts": lambda: _rendered("layouts", in_words=True),
        "scaling": lambda: _rendered("scaling", in_words=True),
        "optax": lambda: _rendered("optax_contract"),
    }


def documents() -> list[str]:
    """The paths of all pages that have sections."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    return [page.relative_to(ROOT).as_posix() for page in pages if _SECTION.search(_text(page))]


def expected(path: str) -> str:
    """The text that a report, or a page with sections, should have.

    Raises:
        ValueError: the page has a section that there is no record of.
    """
    found = reports().get(path)
    return found.render() if found else _with_sections(path)


def stale() -> list[str]:
    """The paths of what differs from its record, and of pictures that are missing."""
    found = []
    for path in [*reports(), *documents()]:
        text = expected(path)
        if not (ROOT / path).exists() or _text(ROOT / path) != text:
            found.append(path)
    return found + missing_pictures()


def missing_pictures() -> list[str]:
    """The paths of pictures that a report shows and that are not there."""
    paths = [Path(path).parent / name for path in reports() for name in _PICTURE.findall(expected(path))]
    return [path.as_posix() for path in paths if not (ROOT / path).exists()]


def _with_sections(path: str) -> str:
    known = sections()

    def section(found: re.Match[str]) -> str:
        name, before = found[1], found[2]
        if name not in known:
            raise ValueError(f"{path} has an unknown section {name!r}; known are {', '.join(known)}")
        text = known[name]()
        text = f"\n\n{text.strip()}\n\n" if before.startswith("\n") else text  # else within a line
        return f"<!-- record: {name} -->{text}<!-- /record -->"

    return _SECTION.sub(section, _text(ROOT / path))


def _page(path: str, render: Callable[[], str]) -> Report:
    return Report(render, lambda: training.write_whole(ROOT / path, render()))


def _comparison(name: str) -> compare.Record:
    return _record(f"examples/results/{name}")


def _study(name: str) -> compare.Record:
    return _record(f"examples/studies/{name}")


def _studies(name: str) -> dict[str, compare.Record]:
    """The records of a study, by what it was run on."""
    return {Path(folder).name: _study(folder) for folder in _STUDIES if folder.startswith(f"{name}/")}


@functools.cache
def _record(folder: str) -> compare.Record:
    return compare.Record.read(ROOT / folder / "record.json")


@functools.cache
def _benchmark(name: str) -> dict[str, Any]:
    return json.loads(_text(ROOT / "examples/benchmarks/results" / name / "record.json"))


@functools.cache
def _rendered(name: str, *, in_words: bool = False) -> str:
    """A record in tests/records as a page, or as the sentences that the documentation has of it."""
    from tests import faults_record, memory_record, scaling_record
    from tests.contract import record as contract
    from tests.golden import model_parity_record, parity_record
    from tests.testing import optax_record
    from tests.training import layouts_record

    module = {
        "contract": contract,
        "faults": faults_record,
        "layouts": layouts_record,
        "memory": memory_record,
        "model_parity": model_parity_record,
        "optax_contract": optax_record,
        "parity": parity_record,
        "scaling": scaling_record,
    }[name]
    render = module.in_words if in_words else module.render
    return render(json.loads(_text(ROOT / f"tests/records/{name}.json")))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main() -> None:
    """Render everything, or list what is stale."""
    if _CHECK.value:
        found = stale()
        print("\n".join(f"stale: {path}" for path in found) or "everything is as its record has it")
        sys.exit(command.EXIT_ERROR if found else 0)
    for path, report in reports().items():
        report.write()
        print(path, flush=True)
    for path in documents():
        training.write_whole(ROOT / path, expected(path))
        print(path, flush=True)


if __name__ == "__main__":
    command.run(main, FLAGS)
