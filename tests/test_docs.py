"""The documents lead to files and headings that exist, and the README stays short."""

import ast
import builtins
import importlib.util
import json
import re
import runpy
import shlex
import symtable
import textwrap
import tomllib

import jax
import jax.numpy as jnp
import pytest
from absl import flags

import optimiz
from optimiz import plan
from tests.conftest import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "WORKSPACE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("examples/**/*.md")),
    *sorted(ROOT.glob("tests/records/*.md")),
]

WRITTEN = [path for path in DOCUMENTS if path.name != "CHANGELOG.md" and path.parent in (ROOT, ROOT / "docs")]


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", lambda code: "" if "\n" in code[0] else "code", text, flags=re.DOTALL)


def anchors(path):
    """What a heading can be linked as, in GitHub's form."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(document):
    for target in re.findall(r"\]\(([^()\s]+)\)", without_code(document.read_text(encoding="utf-8"))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists() and file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_is_named_exists(document):
    for path in re.findall(
        r"(?<![\w/.])((?:optimiz|examples|tests|docs)/[\w./]*)(?![<\w])", document.read_text("utf-8")
    ):
        assert (ROOT / path.rstrip(".")).exists(), path


COMMANDS = [
    line
    for document in WRITTEN
    for line in re.findall(r"python -m (?:examples|tests)\..*", document.read_text("utf-8"))
]


@pytest.mark.parametrize("line", sorted({re.sub(r"`.*", "", line) for line in COMMANDS}))
def test_every_command_names_a_program_and_its_flags(line):
    _, _, module, *arguments = shlex.split(line, comments=True)
    assert importlib.util.find_spec(module), module
    given = [
        argument.removeprefix("--").partition("=")[0] for argument in arguments if argument.startswith("--")
    ]
    if given and module.startswith("examples."):
        known = {*importlib.import_module(module).FLAGS, *flags.FLAGS, "help"}
        assert set(given) <= known


def blocks_of(page):
    """The Python blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def names_of(table):
    """The names that a statement uses, those that its functions use when called, and those that it makes."""
    used, made, later = set(), set(), set()
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            made.add(symbol.get_name())
        if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
            used.add(symbol.get_name())
    for child in table.get_children():
        later.update(*names_of(child)[:2])
    return used, later, made


def given_to(blocks):
    """The names that the code of a page finds, and neither imports nor makes."""
    known, given, called = set(dir(builtins)), set(), set()
    for statement in (each for block in blocks for each in ast.parse(block).body):
        used, later, made = names_of(symtable.symtable(ast.unparse(statement), "page", "exec"))
        simple = isinstance(statement, ast.Assign | ast.AugAssign | ast.Expr)  # which use before they make
        given |= used - known - (set() if simple else made)
        called |= later
        known |= made
    return given | (called - known)


MODULES = {"jax", "jnp", "np", "optax", "optimiz", "nn", "nnx", "P", "ot", "torch", "dataclasses"}
MODULES |= {path.stem for path in (ROOT / "optimiz").glob("*") if (path / "__init__.py").exists()}
WITH_CODE = [path for path in sorted((ROOT / "docs").glob("*.md")) if blocks_of(path)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda path: path.stem)
def test_a_page_imports_what_its_code_uses_and_says_what_else_it_is_given(page):
    given = given_to(blocks_of(page))
    assert not given & MODULES
    comments = re.findall(r"# .*", "\n".join(blocks_of(page)))
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    said = {name for code in re.findall(r"`([^`]*)`", prose) for name in re.findall(r"\w+", code)}
    assert given <= said | set(re.findall(r"\w+", " ".join(comments)))


PAGES = ["from_optax", "from_pytorch", "groups", "line_search", "memory", "muon", "schedules", "soap"]
PAGES += ["index", "which_optimizer"]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page):
    params = {
        "embed": jnp.ones((8, 4)),
        "layers": [{"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)} for _ in range(2)],
        "head": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
    }

    def loss(params):
        return sum(jnp.sum((leaf - 0.5) ** 2) for leaf in jax.tree.leaves(params))

    names = {"params": params, "loss": loss}
    blocks = blocks_of(ROOT / f"docs/{page}.md")
    assert blocks
    for block in blocks:
        if "import torch" not in block or importlib.util.find_spec("torch"):
            exec(compile(block, page, "exec"), names)


def test_the_code_of_the_page_on_planning_runs_where_devices_are_this_machine(capsys, monkeypatch):
    monkeypatch.setitem(plan.DEVICES, "l4", None)  # which the page adds
    text = (ROOT / "docs/planning.md").read_text(encoding="utf-8").replace('"h200"', '"cpu"')
    names = {"params": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32)}}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "planning", "exec"), names)
    assert capsys.readouterr().out.count("parameters") == 2


def test_the_code_on_a_loss_that_is_nan_finds_it(tmp_path, capsys):
    text = (ROOT / "docs/diagnostics.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text.partition("## How large")[0], re.DOTALL)
    rows = [{"step": step, "loss": loss} for step, loss in enumerate([1.0, 0.9, 4.0, "nan"])]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    exec(compile(textwrap.dedent(block), "diagnostics", "exec"), {"run": tmp_path})
    assert "not finite (step 3)" in capsys.readouterr().out


def test_the_page_on_installing_knows_all_extras():
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = [line for line in text.partition("## Extras")[2].splitlines() if line.startswith("| ")]
    listed = {name for row in rows[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == set(project["optional-dependencies"])
    floors = dict(re.findall(r"(\w+)>=([\d.]+)", " ".join(project["dependencies"])))
    assert f"JAX {floors['jax']} and Optax {floors['optax']}" in text
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in text


def test_pip_is_told_the_name_of_the_distribution():
    """Not the name that is imported, which is another project's on PyPI."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    named = []
    for path in [*DOCUMENTS, *ROOT.glob("optimiz/**/*.py"), *ROOT.glob("examples/**/*.py")]:
        for command in re.findall(r"pip (?:install|download) ([^\n&#]*)", path.read_text(encoding="utf-8")):
            named += [(found, path) for found in re.findall(r"(?<![/\w])optimiz[\w-]*", command)]
    assert len(named) > 10 and {found for found, _ in named} == {name}, named


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8_000


def test_the_readme_has_one_line_that_runs_the_tests():
    """The same line as .ci/run types."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.endswith("python -m pytest") for line in lines) == 1


def test_on_an_index_every_link_of_the_readme_is_absolute(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    with_absolute_links = runpy.run_path(str(ROOT / "setup.py"))["with_absolute_links"]
    page = with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), "https://host/owner/name")
    links = re.findall(r"(!?)\[[^\]]*\]\(([^()\s]+)\)", without_code(page))
    assert len(links) > 10 and any(mark for mark, _ in links)
    for mark, target in links:
        base = f"https://host/owner/name/{'raw' if mark else 'blob'}/main/"
        assert target.startswith("https://"), target
        if target.startswith("https://host"):
            assert target.startswith(base) and (ROOT / target.removeprefix(base).partition("#")[0]).exists()


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (
        f"\nversion: {optimiz.__version__}\n" in citation and f"\nlicense: {project['license']}\n" in citation
    )
