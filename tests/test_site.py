"""What the site consists of; .ci/run builds it, and a warning is an error."""

import ast
import importlib
import inspect
import re
import sys
import textwrap

import pytest

import optimiz
from optimiz import methods
from tests.conftest import ROOT


class _App:
    class config:
        root_doc = "docs/index"


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


def _offered(module):
    """The public names of a module, from its text: what it defines, and what it imports under its own name."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    found = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom):
            found |= {each.name for each in node.names if each.asname == each.name}
            if node.names[0].name == "*":
                found |= _offered(importlib.import_module(node.module))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_every_public_name_has_an_entry(reference, written):
    text = "".join(path.read_text(encoding="utf-8") for path in written.rglob("*.md"))
    text = re.sub(r"py:data:: (\w+)\n   :module: (\S+)", r"py:data:: \2.\1", text)
    entries = set(re.findall(r"\.\. (?:autofunction|autoclass|py:data):: (\S+)", text))
    assert len(entries) > 250
    modules, shown = dict(reference.MODULES), set()
    for name, module in reference.MODULES.items():
        for item in _offered(module):
            full = f"{name}.{item}"
            if inspect.ismodule(getattr(module, item)):
                assert modules.pop(full, None) is getattr(module, item), f"{full} has no page"
            else:
                shown.add(full)
    assert {"optimiz.newton_schulz.KELLER", "optimiz.methods.Kind", "optimiz.groups.biases"} <= shown
    assert entries == shown
    # What is imported by name.
    assert modules.keys() == {
        "optimiz",
        *(f"optimiz.{name}" for name in ("compare", "plan", "testing", "training")),
    }
    assert {"optimiz.Int8", "optimiz.training.EXIT_PREEMPTED", "optimiz.plan.DEVICES"} <= entries
    assert "py:data:: biases\n" in (written / "optimiz.groups.md").read_text("utf-8")  # a rule, not a function
    found = re.findall(r"\.\. (?:autofunction|autoclass|py:data):: (\S+)", text)
    assert len(found) == len(entries), "a name has two entries"


def test_every_constant_has_a_description(written):
    data = re.compile(r"py:data:: (\w+)\n   :module: (\S+)(?:\n   :value: .*)?\n\n   (.*)")
    found = [entry for path in written.glob("*.md") for entry in data.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 15
    for name, module, said in found:
        assert said.endswith("."), f"{module}.{name}"


def test_a_source_leads_back_to_the_only_module_whose_entries_lead_there(reference):
    pytest.importorskip("sphinx")
    links = importlib.import_module("links")
    back = {}
    for name, module in reference.MODULES.items():
        for item, value in reference.public(module).items():
            source = links.source_of(name, item)
            if source is not None and source == value.__module__:
                assert back.setdefault(source, name) == name, f"{name}.{item}"
    assert back["optimiz.training.environment"] == "optimiz.training"
    assert back["optimiz.numerics.matrix_scales"] == "optimiz.matrix_scales"


def _said(reference):
    """The public docstrings and pages, by where they are."""
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/tutorials/*.md"), ROOT / "README.md"]
    found = {str(page): page.read_text(encoding="utf-8") for page in pages}
    for name, module in reference.MODULES.items():
        found[name] = module.__doc__
        for item, value in reference.public(module).items():
            if not (inspect.isclass(value) or inspect.isroutine(value)):
                continue
            found[f"{name}.{item}"] = value.__doc__
            if re.match(r"optimiz\.(primitives|optimizers)\.", value.__module__):  # on the page of the entry
                found[value.__module__] = sys.modules[value.__module__].__doc__
            if inspect.isclass(value):
                members = {key: each for key, each in vars(value).items() if not key.startswith("_")}
                found |= {f"{name}.{item}.{key}": inspect.getdoc(each) for key, each in members.items()}
    return {where: text or "" for where, text in found.items()}


_NAME = re.compile(r"`([a-z]\w*(?:\.[A-Za-z]\w*)+)(?:\([^()`]*\))?`")


def test_names_in_code_of_what_has_an_entry_are_linked_and_others_are_not_public(reference):
    pytest.importorskip("sphinx")
    links, inventories = map(importlib.import_module, ("links", "inventories"))
    own, seen = links.own(), set()
    for where, text in _said(reference).items():
        for name in _NAME.findall(text):
            full = name if name.startswith("optimiz.") else f"optimiz.{name}"
            if name in own:
                seen.add(name)
            else:
                assert inventories.value_of(full) is None, f"{where}: `{name}` has no entry"
    assert {"optimiz.newton_schulz", "optimiz.groups", "training.fit", "matrix_scales.keller"} <= seen


def test_names_in_code_of_the_libraries_are_in_the_inventories(reference):
    pytest.importorskip("sphinx")
    links, inventories = map(importlib.import_module, ("links", "inventories"))
    names = {inventories.in_full(name) for text in _said(reference).values() for name in _NAME.findall(text)}
    names = {name for name in names if name.partition(".")[0] in inventories.SITES}
    assert len(names) > 60
    missing = {name for name in names - links.listed() if not inspect.ismodule(inventories.value_of(name))}
    assert missing <= _UNDOCUMENTED, "run docs/site/inventories.py"
    assert not _UNDOCUMENTED & links.listed()


_UNDOCUMENTED = {  # the libraries' own pages do not list them
    "flax.serialization.to_state_dict",
    "jax.config.update",
    "jax.stages.Compiled.as_text",
    "optax.MaskedNode",
}


def test_no_signature_shows_a_private_name(reference):
    for module in reference.MODULES.values():
        for name, value in reference.public(module).items():
            if inspect.isfunction(value):
                (function,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
                for default in [*function.args.defaults, *function.args.kw_defaults]:
                    assert not (isinstance(default, ast.Name) and default.id.startswith("_")), name


def test_every_method_has_a_page_of_its_equations_its_signature_and_its_records(written):
    for name, method in methods.METHODS.items():
        text = (written / f"methods/{name}.md").read_text(encoding="utf-8")
        assert f"automodule:: optimiz.optimizers.{method.page}\n" in text
        assert f"autofunction:: optimiz.{name}\n" in text and "## At a glance" in text
        assert f"![Path of {name} on two landscapes]" in text
    adamw = (written / "methods/adamw.md").read_text(encoding="utf-8")
    assert "deviation from `torch.optim.AdamW`" in adamw and "| GPT-2 124M | 8.00 |" in adamw
    assert "| do not use it | where 8 bytes" in adamw
    assert "| an update of gpt2-xl on h200 moves | 28 bytes per parameter |" in adamw
    large = "validation loss, GPT-2 of 9 million parameters"
    assert re.search(rf"\| {large} \| `adamw` \| 0.001 \| .*× 3.2: ", adamw)
    assert "[compare](../../../examples/results/compare/report.md)" in adamw
    assert "![Path of adamw" in adamw
    searches = {name for name, method in methods.METHODS.items() if method.kind == "line search"}
    for name in methods.METHODS:
        text = (written / f"methods/{name}.md").read_text(encoding="utf-8")
        assert "| model | float32 | BFloat16 |" in text and "not measured" not in text
        assert ("## What other rates lose" in text) == (name not in searches), name
        assert "| measured in | [" in text, name
    soap = (written / "methods/soap.md").read_text(encoding="utf-8")
    assert f"| {large} | `soap_one_sided` | " in soap
    assert "language_model/results/report.md)" in soap
    muon = (written / "methods/muon.md").read_text(encoding="utf-8")
    assert (
        "![Path of muon" in muon and "The method's two parameters are the diagonal of a matrix, whose" in muon
    )
    sophia = (written / "methods/sophia_g.md").read_text(encoding="utf-8")
    step = "| a step of gpt2, 8 × 1,024 tokens, on h200 moves | "
    assert f"{step}1.01 to 1.96 times what one with `adamw` moves |" in sophia
    salsa = (written / "methods/salsa.md").read_text(encoding="utf-8")
    assert f"{step}1.02 to 1.33 times what one with `adamw` moves, the most with one trial |" in salsa
    assert "![Path of sophia_g" in sophia and "are a vector, of which logits are made" in sophia
    assert "deviation from `pytorch_optimizer.AdaMax`" in (written / "methods/adamaxw.md").read_text("utf-8")


def test_a_page_says_where_optax_has_the_method(written):
    for name, said in {
        "adamw": "`optax.adamw`",
        "muon": "`optax.contrib.muon`",
        "prodigy": "`optax.contrib.prodigy`",
        "schedule_free_adamw": "`optax.contrib.schedule_free_adamw`",
        "soap": "no optimizer of this name",
    }.items():
        assert f"| in Optax | {said} |" in (written / f"methods/{name}.md").read_text("utf-8")


def test_a_page_tells_the_cases_of_a_method_apart_and_lists_every_record_of_it(written):
    sgd = (written / "methods/sgd.md").read_text("utf-8")
    sources = re.findall(r"\| deviation from (.*?) \|", sgd)
    assert sources == [f"`torch.optim.SGD`{variant}" for variant in ("", ", momentum", ", nesterov")]
    adamw, salsa = ((written / f"methods/{name}.md").read_text("utf-8") for name in ("adamw", "salsa_class"))
    for name in ("contract", "layouts", "memory", "scaling"):
        assert f"[{name}](../../../tests/records/{name}.md)" in adamw
    assert "[trainers](" in adamw and "[parity](../../optimizers.md)" in adamw
    assert "[parity](../../line_search.md)" in salsa and "[scaling]" not in salsa


def test_every_method_is_drawn_beside_two_others():
    pictures = importlib.import_module("path_pictures")
    for name in methods.METHODS:
        near = pictures.neighbours(name)
        assert len({name, *near}) == 3 and methods.METHODS.keys() >= set(near), name
    assert pictures.neighbours("normuon") == ["muon", "muonh"]


def test_the_page_of_a_line_search_says_that_it_takes_no_rate(written):
    rate, none = "Each rate is the best of a grid", "Line searches find their steps without a rate."
    for name, expected in {"lion": (True, False), "salsa": (False, True), "prodigy": (True, True)}.items():
        text = (written / f"methods/{name}.md").read_text(encoding="utf-8")
        assert (rate in text, none in text) == expected, name
    assert "next to `lamb` and `sgd`. " in (written / "methods/lars.md").read_text("utf-8")


def test_every_schedule_has_a_page_with_its_curves(written):
    drawn = importlib.import_module("schedule_pictures")
    assert sorted(drawn.CURVES) == sorted(drawn.shapes())
    for name in drawn.CURVES:
        assert f"autofunction:: optimiz.schedules.{name}\n" in (written / f"schedules/{name}.md").read_text(
            "utf-8"
        )
        assert (written / f"schedules/{name}.png").stat().st_size > 5_000
        assert f"schedules/{name}\n" in (written / "schedules.md").read_text("utf-8")


def test_every_primitive_has_a_page_that_says_which_optimizers_use_it(reference, written):
    assert {"scale_by_adam", "low_bit", "guard", "trace"} <= set(reference.primitives())
    for name in reference.primitives():
        text = (written / f"primitives/{name}.md").read_text("utf-8")
        assert "automodule:: optimiz.primitives." in text and f"autofunction:: optimiz.{name}\n" in text
    used = (written / "primitives/trace.md").read_text("utf-8").partition("## Used by")[2]
    assert "methods/sgd.md" in used and "adamw" not in used
    average = (written / "primitives/average.md").read_text("utf-8")
    assert average.endswith("## Used by\n\nno optimizer; it goes around or behind one.")


def test_every_question_of_the_page_on_choosing_has_a_picture(written):
    contents = importlib.import_module("contents")
    page = (ROOT / "docs/which_optimizer.md").read_text("utf-8")
    for name in ("by_task", "by_memory", "by_tuning", "by_traffic"):
        assert f"<!-- site: {name} -->" in page and (written / f"{name}.png").stat().st_size > 5_000
    for path in (ROOT / "docs").glob("*.md"):
        source = [path.read_text("utf-8")]
        contents.add(_App, f"docs/{path.stem}", source)
        assert "<!-- site:" not in source[0] and "](../optimiz/optimizers/" not in source[0]
        for page in re.findall(r"\]\((reference/[\w./]+\.md)\)", source[0]):
            assert (written.parent / page).exists(), page


def test_the_picture_of_traffic_has_a_row_for_each_method_by_its_bytes():
    (axes,) = importlib.import_module("choosing_pictures")._traffic().axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    most = [max(line.get_xdata()) for line in axes.lines]
    assert names[-1] == "sign_sgd" and set(names) < methods.METHODS.keys() and len(names) == len(most)
    assert most == sorted(most, reverse=True)


def test_a_method_has_one_color_in_the_picture_of_tuning_its_cross_too():
    figure = importlib.import_module("choosing_pictures")._tuning()
    lines = [line for axes in figure.axes for line in axes.lines]
    colors = {(line.get_label(), line.get_color()) for line in lines if line.get_marker() == "o"}
    names = {name for name, _ in colors}
    assert len(colors) == len(names) == len({color for _, color in colors})
    (cross,) = (line for line in lines if line.get_marker() == "x")
    assert ("sgd_sai", cross.get_color()) in colors


def test_a_name_in_code_links_to_where_it_is_documented(monkeypatch):
    pytest.importorskip("sphinx")
    links = importlib.import_module("links")
    warned = []
    monkeypatch.setattr(links._LOGGER, "warning", lambda message, name, location: warned.append(name))

    class Code:
        def __init__(self, text):
            self.astext = lambda: text

    def target(text):
        return links.Names._target(links.Names, Code(text))

    for text, expected in {
        "optimiz.adamw": "optimiz.adamw",
        "adamw": "optimiz.adamw",
        "groups.no_decay()": "optimiz.groups.no_decay",
        "optimiz.guard(tx, give_up_after=5)": "optimiz.guard",
        "optax.chain": "optax.chain",
        "jnp.where": "jax.numpy.where",
        "nnx.Optimizer": "flax.nnx.Optimizer",
        "optax.MaskedNode": None,  # which Optax's documentation does not list
        "learning_rate": None,
        "optimiz.chain(a, b(c))": None,
    }.items():
        assert target(text) == expected, text
    assert not warned
    assert target("optax.adamww") is None and warned == ["optax.adamww"]


def test_a_role_finds_what_another_module_documents():
    pytest.importorskip("sphinx")
    links = importlib.import_module("links")
    documented = {"optimiz.trace", "optimiz.schedules.over_steps", "optimiz.training.Layout.params"}
    assert links.in_full("trace", documented) == "optimiz.trace"
    assert links.in_full("over_steps", documented) == "optimiz.schedules.over_steps"
    assert links.in_full("Layout.params", documented) == "optimiz.training.Layout.params"
    assert links.in_full("_layered", documented) is None


def test_the_inventories_are_small_and_name_what_the_libraries_have():
    inventories = importlib.import_module("inventories")
    rows = [
        line.split()
        for path in inventories.FOLDER.glob("*.inv")
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert len(rows) > 250 and sum(map(len, map(" ".join, rows))) < 40_000
    for name, kind, page in rows:
        assert inventories.value_of(name) is not None, name
        assert kind in ("function", "class", "data") and page.endswith(".html")


def test_a_constant_says_what_stands_below_it(reference):
    assert reference._said_of("METHODS", methods.METHODS).startswith("Every")
    assert reference._said_of("nothing", optimiz) == ""


def test_the_words_that_readers_search_for_are_entries_of_pages():
    contents = importlib.import_module("contents")
    for page in contents.WORDS:
        source = [(ROOT / f"docs/{page}.md").read_text("utf-8")]
        contents.add(_App, f"docs/{page}", source)
        assert source[0].startswith("# ") and source[0].count("{index} ! ") == len(contents.WORDS[page])


def test_the_root_of_the_site_leads_to_its_first_page():
    assert "url=docs/index.html" in (ROOT / "docs/site/extra/index.html").read_text("utf-8")


def test_the_navigation_follows_the_index():
    contents = importlib.import_module("contents")
    source = [(ROOT / "docs/index.md").read_text(encoding="utf-8")]
    contents.add(_App, "docs/index", source)
    trees = re.findall(r":caption: (.*?)\n\n(.*?)\n```", source[0], re.DOTALL)
    pages = [entry for _, entries in trees for entry in entries.splitlines()]
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= set(pages)
    assert {f"tutorials/{path.stem}" for path in (ROOT / "docs/tutorials").glob("*.md")} <= set(pages)
    assert len(pages) == len(set(pages)) and "../CHANGELOG" in pages
    assert {"reference/methods", "reference/schedules", "reference/primitives", "reference/optimiz"} <= set(
        pages
    )


def test_every_tutorial_is_offered_as_a_notebook_that_installs_what_it_needs():
    notebooks = importlib.import_module("notebooks")
    for path in (ROOT / "docs/tutorials").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        first = text[text.index("```{code-cell}") :].partition("\n```\n")[0]
        assert ":tags: [skip-execution]" in first and "%pip install" in first, path.name
        assert "optimiz-jax" in first and optimiz.__version__ not in first, path.name
        assert "display_name: Python 3" in text.partition("\n---\n")[0], path.name
        source = [text]
        notebooks.offer(None, f"docs/tutorials/{path.stem}", source)
        assert f'href="{path.stem}.ipynb" download' in source[0].partition("\n## ")[0]
    source = ["# Training\n"]
    notebooks.offer(None, "docs/training", source)
    assert source == ["# Training\n"]


def test_what_a_cell_writes_in_parts_is_one_text():
    nbformat = pytest.importorskip("nbformat")
    notebooks = importlib.import_module("notebooks")
    parts = [("stdout", "lo"), ("stderr", "a "), ("stdout", "ss 1\n\n"), ("stderr", "warning")]
    outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in parts]
    outputs.insert(1, nbformat.v4.new_output("display_data"))
    found = notebooks.joined(outputs)
    assert [output.output_type for output in found] == ["stream", "display_data", "stream"]
    assert [output.get("text") for output in found] == ["loss 1\n\n", None, "a warning"]
    assert outputs[0]["text"] == "lo"  # they are the notebook's


def test_a_notebook_has_no_links_to_pages_that_it_lacks():
    notebooks = importlib.import_module("notebooks")
    text = "![a](b.png) [plan](../planning.md#x) and [JAX](https://jax.dev)"
    assert notebooks.without_relative_links(text) == "![a](b.png) plan and [JAX](https://jax.dev)"
