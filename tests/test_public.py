"""What a user can reach is documented, importable on its own, and quick to import."""

import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import optimiz
from examples.studies.heterogeneity import report as heterogeneity_report
from examples.studies.heterogeneity.rows import Results
from examples.studies.line_search import report as line_search_report
from examples.studies.low_bit import report as low_bit_report
from examples.studies.pretraining import report as judgement_report
from optimiz import compare, groups, schedules, training
from optimiz.compare.report import render
from optimiz.compare.verdict import in_words
from tests import scaling_record
from tests.golden import parity_record
from tests.training import layouts_record

ROOT = Path(__file__).parents[1]
MODULES = {"optimiz": optimiz, "groups": groups, "schedules": schedules}
NAMES = {
    f"{module}.{name}": value
    for module, contents in MODULES.items()
    for name, value in vars(contents).items()
    if not name.startswith("_") and inspect.isfunction(value)
}
OPTIMIZERS = [path.stem for path in (ROOT / "optimiz/optimizers").glob("*.py") if path.stem != "__init__"]


def written(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_public_function_documents_every_argument_and_shows_an_example(name):
    documentation = inspect.getdoc(NAMES[name]) or ""
    for argument in inspect.signature(NAMES[name]).parameters:
        assert re.search(rf"^ +\*?{argument}: ", documentation, re.MULTILINE), f"{argument} is not documented"
    assert ">>>" in documentation


def test_no_public_function_takes_a_name_that_it_does_not_know():
    for name, function in NAMES.items():
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, name
    with pytest.raises(TypeError, match="weigth_decay"):
        optimiz.adamw(1e-3, weigth_decay=0.1)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizer_has_its_page_its_test_and_its_line_in_the_documentation(name):
    assert callable(getattr(optimiz, name))
    page = (ROOT / f"optimiz/optimizers/{name}.py").read_text()
    assert ".. math::" in page and "Source:" in page and "Departures" in page
    assert (ROOT / f"tests/optimizers/test_{name}.py").is_file()
    listed = written("docs/optimizers.md") + written("docs/line_search.md")
    assert f"[`{name}`](../optimiz/optimizers/{name}.py)" in listed


def test_every_name_of_training_and_compare_is_documented():
    for module in (training, compare):
        for name, value in vars(module).items():
            if not name.startswith("_") and not inspect.ismodule(value) and callable(value):
                assert inspect.getdoc(value), f"{module.__name__}.{name}"


@pytest.mark.parametrize(("name", "page"), [("topics", "README.md"), ("compare", "docs/comparing.md")])
def test_a_page_shows_the_committed_record(name, page):
    folder, shown = f"examples/results/{name}", written(page)
    record = compare.Record.read(ROOT / folder / "record.json")
    assert compare.summary(record, figure="accuracy") in shown
    assert f"{folder}/curves.png)" in shown and f"{folder}/report.md)" in shown
    assert (ROOT / folder / "report.md").read_text() == render(record, figure="accuracy")


@pytest.mark.parametrize(
    ("name", "figure", "page"),
    [
        ("digits/resnet", "accuracy", "docs/fine_tuning.md"),
        ("digits/vit", "accuracy", "docs/fine_tuning.md"),
        ("causal", "bits_per_byte", "docs/pretraining.md"),
    ],
)
def test_a_page_gives_the_verdict_of_a_trainers_record(name, figure, page):
    folder = f"examples/results/{name}"
    record = compare.Record.read(ROOT / folder / "record.json")
    shown = written(page)
    assert in_words(record, figure=figure) in shown and f"(../{folder}/report.md)" in shown
    assert (ROOT / folder / "report.md").read_text(encoding="utf-8") == render(record, figure=figure)
    for picture in re.findall(r"\((\w+\.png)\)", render(record, figure=figure)):
        assert (ROOT / folder / picture).is_file()
    for lines in record.samples.values():
        assert "\n".join(lines) in shown


def test_the_page_and_the_reports_show_the_records_of_the_line_searches():
    shown, studies = written("docs/line_search.md"), {}
    for data in ("topics", "sst2", "cola"):
        folder = f"examples/studies/line_search/results/{data}"
        head, *rows = map(json.loads, (ROOT / folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
        arms, figure = studies[data] = line_search_report.by_arm(rows), head["settings"]["figure"]
        report = (ROOT / folder / "report.md").read_text(encoding="utf-8")
        words, table = line_search_report.in_words(arms, figure), line_search_report.table(arms, figure)
        assert f"{words}\n\n{table}" in report and f"(../{folder}/report.md)" in shown
    assert line_search_report.across(studies) in shown


def test_the_page_and_the_report_show_the_record_of_heterogeneity():
    folder = "examples/studies/heterogeneity/results"
    head, *rows = map(json.loads, (ROOT / folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    results, command = (
        Results(rows),
        "python -m examples.studies.heterogeneity.study --output=runs/heterogeneity",
    )
    report = (ROOT / folder / "report.md").read_text(encoding="utf-8")
    assert heterogeneity_report.render(head, results, command) == report
    shown = written("docs/diagnostics.md")
    assert heterogeneity_report.in_words(results) in shown and f"```bash\n{command}" in shown
    assert f"(../{folder}/report.md)" in shown and f"(../{folder}/study.png)" in shown


def test_the_page_and_the_report_show_the_record_of_the_judgement():
    folder = "examples/studies/pretraining/results"
    head, *rows = map(json.loads, (ROOT / folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    judged = judgement_report.Judged(rows)
    command = "python -m examples.compare_optimizers --task=pretrain --length=32 --budget=26"
    command += f" --irreducible=runs/irreducible --reference={folder}/reference.json --output=runs/pretrain"
    report = (ROOT / folder / "report.md").read_text(encoding="utf-8")
    assert judgement_report.render(head, judged, command) == report
    shown = written("docs/pretraining.md")
    words, table = judgement_report.in_words(judged), judgement_report.table(judged)
    assert f"{words}\n\n{table}" in shown and command in shown
    assert f"(../{folder}/report.md)" in shown and f"(../{folder}/curves.png)" in shown


def test_the_page_and_the_reports_show_the_records_of_low_bits():
    commands = {
        "wikitext2": "--task=language --data=wikitext2/valid.txt --steps=2000 --length=64 --batch_size=8",
        "sst2": "--task=file --data=sst2/train.tsv --validation=sst2/dev.tsv --batch_size=16 --steps=120",
        "topics": "--batch_size=16 --steps=60",
    }
    shown, studies = written("docs/memory.md"), {}
    for name, arguments in commands.items():
        folder = f"examples/studies/low_bit/results/{name}"
        head, *rows = map(json.loads, (ROOT / folder / "rows.jsonl").read_text(encoding="utf-8").splitlines())
        studies[name] = low_bit_report.by_arm(rows)
        asked = f"python -m examples.studies.low_bit.study {arguments} --output=runs/{name}"
        report = (ROOT / folder / "report.md").read_text(encoding="utf-8")
        assert low_bit_report.render(head, studies[name], asked) == report
        assert f"(../{folder}/report.md)" in shown
    assert low_bit_report.across(studies) in shown


def test_the_page_of_optimizers_shows_the_record_of_parity():
    record = json.loads(parity_record.RECORD.read_text(encoding="utf-8"))
    assert parity_record.render(record) in written("docs/optimizers.md")


def test_the_page_of_devices_shows_the_records_of_the_layouts_and_of_scaling():
    shown = written("docs/devices.md")
    for page in (layouts_record, scaling_record):
        record = json.loads(page.PATH.read_text(encoding="utf-8"))
        assert page.in_words(record) in shown


def test_import_brings_no_model_library_and_costs_little_more_than_that_of_optax():
    def seconds(module):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True, cwd=ROOT)
        return time.perf_counter() - started

    code = "import optimiz, sys; print({'flax', 'orbax', 'matplotlib', 'sklearn'} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
    assert printed.stdout == b"set()\n"
    # In turn, and the least of several: a busy machine only ever adds time.
    pairs = [(seconds("optax"), seconds("optimiz")) for _ in range(5)]
    optax, ours = map(min, zip(*pairs, strict=True))
    assert ours <= 1.3 * optax + 0.3
