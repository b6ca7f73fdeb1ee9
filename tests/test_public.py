"""What a user can reach is documented, importable on its own, and quick to import."""

import inspect
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import optimiz
from optimiz import compare, groups, schedules, training
from optimiz.methods import METHODS

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
        assert re.search(rf"^ +\*{{0,2}}{argument}: ", documentation, re.MULTILINE), (
            f"{argument} is not documented"
        )
    assert ">>>" in documentation


def test_no_public_function_takes_a_name_that_it_does_not_know():
    for name, function in NAMES.items():
        if name == "optimiz.update_and_apply":  # whose names are those of the given transformation
            continue
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, name
    with pytest.raises(TypeError, match="weigth_decay"):
        optimiz.adamw(1e-3, weigth_decay=0.1)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizer_has_its_page_and_its_test(name):
    assert any(callable(getattr(optimiz, method.name)) for method in METHODS.values() if method.page == name)
    page = (ROOT / f"optimiz/optimizers/{name}.py").read_text()
    assert ".. math::" in page and "Source:" in page and "Departures" in page
    assert (ROOT / f"tests/optimizers/test_{name}.py").is_file()


@pytest.mark.long  # before a release: a new method comes before its record, of which the documents are rendered
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizer_is_listed_in_the_documentation(name):
    listed = written("docs/optimizers.md") + written("docs/line_search.md")
    assert f"[`{name}`](../optimiz/optimizers/{name}.py)" in listed


def test_every_name_of_training_and_compare_is_documented():
    for module in (training, compare):
        for name, value in vars(module).items():
            if not name.startswith("_") and not inspect.ismodule(value) and callable(value):
                assert inspect.getdoc(value), f"{module.__name__}.{name}"


@pytest.mark.long
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
