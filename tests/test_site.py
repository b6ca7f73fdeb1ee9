"""What the site consists of; .ci/run builds it, and a warning is an error."""

import importlib
import inspect
import re
import sys

import pytest

import optimiz
from optimiz import methods
from tests.conftest import ROOT


@pytest.fixture(scope="module", autouse=True)
def pages():
    """The modules of the site can be imported, as by Sphinx."""
    sys.path.insert(0, str(ROOT / "docs/site"))
    yield
    sys.path.remove(str(ROOT / "docs/site"))


@pytest.fixture(scope="module")
def reference():
    return importlib.import_module("reference")


@pytest.fixture(scope="module")
def written(reference, tmp_path_factory):
    """The reference, written from the records of the repository."""
    root = tmp_path_factory.mktemp("root")
    (root / "docs").mkdir()
    for name in ("examples", "tests"):
        (root / name).symlink_to(ROOT / name)
    reference.write(root)
    return root / "docs/reference"


def test_every_public_name_has_an_entry(reference, written):
    text = "".join(path.read_text(encoding="utf-8") for path in written.rglob("*.md"))
    entries = set(re.findall(r"\.\. (?:autofunction|autoclass|py:data):: (\S+)", text))
    assert len(entries) > 250
    for name, module in reference.MODULES.items():
        for item, value in vars(module).items():
            if not item.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
                origin = value.__module__
                assert f"{name}.{item}" in entries or not origin.startswith("optimiz"), f"{name}.{item}"
    assert {"optimiz.Int8", "optimiz.training.EXIT_PREEMPTED", "optimiz.plan.DEVICES"} <= entries


def test_every_method_has_a_page_of_its_equations_its_signature_and_its_records(written):
    for name, method in methods.METHODS.items():
        text = (written / f"methods/{name}.md").read_text(encoding="utf-8")
        assert f"automodule:: optimiz.optimizers.{method.page}\n" in text
        assert f"autofunction:: optimiz.{name}\n" in text and "## Known of it" in text
    adamw = (written / "methods/adamw.md").read_text(encoding="utf-8")
    assert "deviation from `torch.optim.AdamW`" in adamw and "| GPT-2 124M | 8.00 |" in adamw


def test_a_constant_says_what_stands_below_it(reference):
    assert reference._said_of("METHODS", methods.METHODS).startswith("Every")
    assert reference._said_of("nothing", optimiz) == ""


def test_the_navigation_follows_the_index():
    contents = importlib.import_module("contents")

    class App:
        class config:
            root_doc = "docs/index"

    source = [(ROOT / "docs/index.md").read_text(encoding="utf-8")]
    contents.add(App, "docs/index", source)
    trees = re.findall(r":caption: (.*?)\n\n(.*?)\n```", source[0], re.DOTALL)
    pages = [entry for _, entries in trees for entry in entries.splitlines()]
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= set(pages)
    assert {f"tutorials/{path.stem}" for path in (ROOT / "docs/tutorials").glob("*.md")} <= set(pages)
    assert len(pages) == len(set(pages)) and "../CHANGELOG" in pages and "reference/methods/adamw" in pages
