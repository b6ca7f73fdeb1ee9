"""A report holds what the record holds, in one page and one file."""

import base64
import dataclasses
import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from examples.shared import terminal
from optimiz import compare
from optimiz.compare import report, sections
from optimiz.training.storage import whole_file
from tests.compare.records import record, run, seeds
from tests.conftest import ROOT


def test_report_is_written_with_its_picture_and_record(tmp_path):
    runs = run("sgd_sai", 0.8), run("adamw", None, losses=(1.0, None, None), diverged_at=1)
    path = compare.write_report(record(*runs), tmp_path / "out", metric="accuracy")
    text = path.read_text()
    assert "![" in text and (path.parent / "curves.png").stat().st_size > 10_000
    assert not (path.parent / "rates.png").exists() and (path.parent / "cost.png").exists()
    read = compare.Record.read(path.parent / "record.json")
    assert report.render(read, metric="accuracy") == text  # there is no number that is not from the record
    assert "| sgd_sai | 0.01 | 0.800 | 0.800 | 0.200 | 3 | 2 | 500 | 4.00 |" in text
    assert "| adamw | 0.01 | not finite | not finite | not finite |" in text
    assert "| TF-IDF |  | 0.700 | 0.700 |  |" in text
    assert "adamw diverged in 1 of 1 runs." in text
    assert "**not finite** — " in text and "- adamw 0.01, seed 0: at step 1: loss nan" in text


def test_the_classes_of_the_best_method_are_shown_with_what_they_are_mistaken_for():
    # Of class b, 2 of 4 are found, and 2 of the 3 that are called b are b; nothing is called c.
    confusion = {"classes": ["a", "b|", "c"], "matrix": [[5, 1, 0], [2, 2, 0], [1, 0, 0]]}
    runs = run("sgd", 0.6), run("adamw", 0.7, extra={"confusion": confusion})
    lines = report.render(record(*runs), metric="accuracy").splitlines()
    start = lines.index("## Which classes are told apart?")
    assert "as adamw classifies them" in lines[start + 2]
    assert lines[start + 6 : start + 9] == [
        "| a | 6 | 0.625 | 0.833 | 0.714 | b\\| (1) |",
        "| b\\| | 4 | 0.667 | 0.500 | 0.571 | a (2) |",
        "| c | 1 |  | 0.000 | 0.000 | a (1) |",
    ]
    assert lines[start + 14 : start + 17] == ["| a | 5 | 1 | 0 |", "| b\\| | 2 | 2 | 0 |", "| c | 1 | 0 | 0 |"]
    many = {"classes": [f"c{i}" for i in range(13)], "matrix": np.eye(13, dtype=int).tolist()}
    text = report.render(record(run("adamw", 0.7, extra={"confusion": many})), metric="accuracy")
    assert "| c12 | 1 | 1.000 | 1.000 | 1.000 |  |" in text and "in columns" not in text


def test_the_labels_of_the_best_method_are_shown_with_how_many_are_found():
    counts = {"examples": [4, 6, 0], "predicted": [3, 0, 0], "right": [2, 0, 0]}
    found = {"names": ["a", "b|", "c"], "threshold": 0.5, **counts}
    runs = run("sgd", 0.6), run("adamw", 0.7, extra={"labels": found})
    lines = report.render(record(*runs), metric="accuracy").splitlines()
    start = lines.index("## Which labels are found?")
    assert lines[start + 2].endswith("adamw gives an example every label whose probability is above 0.5.")
    assert lines[start + 4] == "| label | examples | precision ↑ | recall ↑ | F1 ↑ |"
    assert lines[start + 6 : start + 9] == [
        "| a | 4 | 0.667 | 0.500 | 0.571 |",
        "| b\\| | 6 |  | 0.000 | 0.000 |",
        "| c | 0 |  |  |  |",
    ]
    many = {
        "names": [f"l{i}" for i in range(102)],
        "threshold": 0.5,
        **{key: [1, 0, *[2] * 100] for key in counts},
    }
    text = report.render(record(run("adamw", 0.7, extra={"labels": many})), metric="accuracy")
    assert "Test examples of the 100 most frequent of 102 labels." in text
    assert "| l101 | 2 | 1.000 |" in text and "| l0 |" not in text and "| l1 |" not in text


def test_the_page_refers_to_nothing_beside_it(tmp_path):
    runs = [*seeds("a<b>", 0.8, 0.7, rate=0.01), *seeds("a<b>", 0.7, 0.6, rate=0.1)]
    page = (compare.write_report(record(*runs), tmp_path, metric="accuracy").parent / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<table>" in page and "a&lt;b&gt;" in page and "<b>" not in page
    assert (
        "<p>Use <strong>a&lt;b&gt;</strong> at learning rate 0.01, because it has the best validation" in page
    )


def test_an_arm_that_diverged_once_is_not_ranked_and_not_dropped():
    runs = [*seeds("a", 0.6, 0.7), run("b", 0.9), run("b", None, seed=1, diverged_at=2)]
    said = report.in_words(record(*runs), metric="accuracy")
    assert (
        said.startswith("Of these optimizers, use **a** at learning rate 0.01,")
        and "b diverged in 1 of 2 runs." in said
    )
    text = report.render(record(*runs), metric="accuracy")
    assert "| b | 0.01 | not finite in 1 of 2 |" in text
    assert "| b | not finite | none | none | -0.300, +inf | not told apart |" in text


def test_the_rate_is_chosen_by_validation_and_not_by_test():
    runs = [*seeds("a", 0.9, 0.9, rate=0.1, validation=0.5), *seeds("a", 0.7, 0.8, rate=0.3, validation=0.6)]
    text = report.render(record(*runs), metric="accuracy")
    assert "| a | 0.3 | 0.750 ± 0.050 |" in text
    assert "| a | 0.1, 0.3 | 0.550 | 0.071 | 0.3 to 0.3 (×1) | 0 of 4 |" in text


def test_the_cost_counts_evaluations_and_the_time_to_what_all_reach():
    def at(name, evaluations, *accuracies):
        history = [{"step": i, "loss": 1.0, "fraction": i / 4} for i in range(4)]
        history += [
            {"steps": i, "evaluation": {"accuracy": a, "loss": 1.0}} for i, a in enumerate(accuracies, start=2)
        ]
        changes = {"steps": 4, "budget": 8.0, "reference_seconds": 8.5}
        return run(name, 0.5, history=history, forward_equivalents=12.0 + evaluations, **changes)

    text = report.render(record(at("a", 0, 0.5, 0.6, 0.7), at("b", 6, 0.3, 0.4, 0.6)), metric="accuracy")
    assert "| temporary MB | reference seconds to accuracy 0.600 |" in text
    assert "The reference seconds are those after which an evaluation of each method first reached" in text
    assert "| a | 3.00 | 0.5 | 2 | 6 |" in text and "| b | 4.50 | 0.5 | 2 | 8.5 |" in text


def test_a_row_that_is_a_cell_short_is_refused():
    with pytest.raises(ValueError, match=r"a row must have 2 cells, one each of \['a', 'b'\], got \['1'\]"):
        compare.table(["a", "b"], [["1", "2"], ["1"]])


def test_versions_that_differ_are_told():
    runs = [run("a", 0.5), run("b", 0.5, versions={"jax": "0.11"})]
    assert "- jax of the runs: 0.10.2, 0.11" in report.render(record(*runs), metric="accuracy")


@pytest.mark.parametrize(
    ("runs", "metric", "message"),
    [
        ([], "accuracy", "the record must have at least one run, got none"),
        ([run("a", 0.5)], "f1", "the evaluation has no metric 'f1'; it has loss, accuracy"),
        ([run("a", 0.5)], "mcc", "the evaluation has no metric 'mcc'; it has loss, accuracy"),
        (
            [*seeds("a", 0.5, 0.6), run("b", 0.5)],
            "accuracy",
            r"b at 0\.01 must have one run from each of the seeds \[0, 1\]",
        ),
    ],
)
def test_a_record_that_cannot_be_ranked_is_refused(tmp_path, runs, metric, message):
    with pytest.raises(ValueError, match=message):
        compare.write_report(record(*runs), tmp_path / "out", metric=metric)
    assert not (tmp_path / "out").exists()


def test_the_tables_and_curves_say_which_way_is_better(tmp_path):
    runs = [run("a", 0.5, test={"mae": 0.3, "accuracy": 0.5, "tokens": 4.0})]
    text = report.render(record(*runs), metric="accuracy")
    assert "| test accuracy ↑ | test mae ↓ | test tokens | updates |" in text


def test_a_metric_of_which_nobody_says_the_direction_is_refused_first(tmp_path):
    message = r"metric 'harm' has no known direction: give lower_is_better=\['harm'\] or higher_is_better="
    with pytest.raises(ValueError, match=message):
        compare.check_report(record(), tmp_path, metric="harm")
    with pytest.raises(ValueError, match=message):
        compare.write_report(record(run("a", 0.5, test={"harm": 1.0})), tmp_path / "out", metric="harm")
    assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())
    compare.check_report(dataclasses.replace(record(), lower_is_better=["harm"]), tmp_path, metric="harm")
    with pytest.raises(TypeError, match="got dict"):
        compare.check_report({}, tmp_path, metric="mae")
    compare.check_report(record(), tmp_path / "made" / "by it", metric="mae")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        compare.check_report(record(), tmp_path / "file", metric="mae")


def test_an_evaluation_without_a_loss_has_a_report(tmp_path):
    history = [{"step": i, "loss": 1.0, "gradient_norm": 1.0} for i in range(3)]
    history += [{"steps": 3, "evaluation": {"mae": 0.2}}]
    runs = [run("a", None, history=history, test={"mae": 0.2}), run("b", None, history=[], test={"mae": 0.3})]
    compare.write_report(dataclasses.replace(record(*runs), baselines={}), tmp_path, metric="mae")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "runs",
    [
        [run("a", None, losses=(None,), diverged_at=0), run("a", None, losses=(), rate=0.1, diverged_at=0)],
        [run("a", None, losses=(None,), diverged_at=0, steps=0, heterogeneity={"gini_norm": None})],
        [run("a", 0.5, history=[]), run("a", 0.5, history=[], rate=0.1)],
        [run("a", 1e308, losses=(1e308, 1e308)), run("b", 0.0, losses=(0.0,))],
        [run("a", 0.5, rate=None), run("a", 0.5, rate=0.1), run("b", 0.5, rate=None)],
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")  # such as of an overflow in Matplotlib's ticks
def test_whatever_became_of_the_runs_there_is_a_whole_report(tmp_path, runs, caplog):
    text = compare.write_report(record(*runs), tmp_path, metric="accuracy").read_text()
    assert {path.name for path in tmp_path.iterdir()} >= {
        "record.json",
        "curves.png",
        "report.md",
        "report.html",
    }
    assert "left out" not in text and not caplog.records


@pytest.fixture
def quick(monkeypatch):
    """Pictures that are drawn at once."""
    png = b"\x89PNG\r\n"
    for name in ("learning_curves", "rate_curves"):
        monkeypatch.setattr(report, name, lambda record, path, *, metric: path.write_bytes(png))


def fails(*_, **__):
    raise RuntimeError("no <font>")


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (report, "learning_curves", r"`curves.png` is left out: RuntimeError: no \<font\>"),
        (report, "rate_curves", r"`rates.png` is left out: RuntimeError: no \<font\>"),
        (report, "self_contained", r"`report.html` is left out: RuntimeError: no \<font\>"),
        (sections, "cost", r"The section on cost is left out: RuntimeError: no \<font\>"),
        (sections, "health", r"The section on health is left out: RuntimeError: no \<font\>"),
    ],
)
def test_what_cannot_be_made_is_left_out_with_the_reason(tmp_path, monkeypatch, quick, owner, name, said):
    fails.__name__ = name
    runs = [run("a", 0.5, rate=0.1), run("a", 0.6, rate=0.2)]
    for file in ("curves.png", "rates.png", "report.html"):
        (tmp_path / file).write_text("of an earlier report")
    monkeypatch.setattr(owner, name, fails)
    text = compare.write_report(record(*runs), tmp_path, metric="accuracy").read_text()
    assert said in text and "## All runs" in text and text.count("left out") == 1
    for file in ("curves.png", "rates.png", "report.html"):
        assert (tmp_path / file).exists() == (f"`{file}`" not in said)


def test_a_baseline_that_could_not_be_computed_is_named_with_the_reason():
    left_out = {"TF-IDF": "ValueError: empty vocabulary | *no* words"}
    text = report.summary(dataclasses.replace(record(run("a", 0.5)), left_out=left_out), metric="accuracy")
    assert text.endswith(r"TF-IDF is left out: ValueError: empty vocabulary \| \*no\* words")


def test_the_record_is_whole_where_the_disk_is_full_afterwards(tmp_path, monkeypatch, quick):
    written = record(run("a", 0.5))
    compare.write_report(written, tmp_path, metric="accuracy")
    before = (tmp_path / "report.md").read_bytes()
    write_bytes = Path.write_bytes

    def full(path, content):
        if "report.md" not in path.name:
            return write_bytes(path, content)
        write_bytes(path, content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole_file.Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*report\.md'"):
        compare.write_report(dataclasses.replace(written, title="another"), tmp_path, metric="accuracy")
    assert compare.Record.read(tmp_path / "record.json").title == "another"
    assert (tmp_path / "report.md").read_bytes() == before and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("limit", "whole"), [(30_000, ["record.json", "report.html", "report.md"]), (9_000, [])]
)
def test_files_are_whole_or_absent_on_a_disk_that_takes_no_more(tmp_path, limit, whole, caplog):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = record(run("a", 0.5, losses=[1 / 3] * 200))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        compare.write_report(written, tmp_path, metric="accuracy")
    except OSError as error:
        assert "record.json" in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == whole
    if whole:
        assert (
            "`curves.png` is left out: OSError: \\[Errno 27\\] File too large"
            in (tmp_path / "report.md").read_text()
        )
        assert (tmp_path / "report.html").read_text().endswith("</html>\n")
        assert caplog.records and not any(record.exc_info for record in caplog.records)  # a line each


HOSTILE = "``` \n\n![x](/etc/hostname) ![y](secret.png) <img src=x onerror=alert(1)> </p> [a](javascript:b)"
HOSTILE += " | `c` **d** _e_ # f $g^$ &lt; \u202e\x1b[2J\udcff"


def hostile(tmp_path):
    """A record into which everything that can come from outside was put."""
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "secret.png")
    (tmp_path / "secret.txt").write_text("of this machine")
    (tmp_path / "link.png").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "mistakes.png").write_bytes((tmp_path / "secret.png").read_bytes())
    given = {"test": {"accuracy": 0.5, HOSTILE: 0.1}, "fingerprint": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    runs = [
        run(name, 0.5 + seed / 10, rate=rate, seed=seed, **given)
        for name in (HOSTILE, "b")
        for rate in (0.1, 0.2)
        for seed in (0, 1)
    ]
    levels = {part: {"accuracy": 0.5} for part in ("validation", "test")}
    return compare.Record(
        title=HOSTILE,
        command=HOSTILE,
        task={HOSTILE: HOSTILE, "1. data": HOSTILE, "files": [HOSTILE]},
        settings={"classes": {HOSTILE: HOSTILE}},
        baselines={HOSTILE: levels},
        test_examples=10,
        runs=runs,
        left_out={HOSTILE: HOSTILE},
        samples={HOSTILE: [HOSTILE, "````", "~~~"]},
        pictures={"mistakes.png": HOSTILE, "link.png": HOSTILE},
        environment={HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}},
        date=HOSTILE,
    )


def test_text_from_outside_is_shown_and_never_obeyed(tmp_path):
    path = compare.write_report(hostile(tmp_path), tmp_path, metric="accuracy")
    text, page = path.read_text(encoding="utf-8"), (tmp_path / "report.html").read_text(encoding="utf-8")
    for found in (text, page):
        assert not re.search("[\ud800-\udfff\u202e\x1b]", found) and "left out: RuntimeError" not in found
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    pictures = [child.attrs["src"] for child in inline if child.type == "image"]
    assert pictures == ["curves.png", "rates.png", "cost.png", "mistakes.png", "link.png"]
    kinds = {token.type for token in [*tokens, *inline]}
    assert not kinds & {"html_block", "html_inline", "link_open", "em_open", "s_open"}
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 9 and headings[1] == "Is the lead real?"
    assert sum(token.type == "fence" for token in tokens) == 1  # the sample
    rows = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| b |")]
    assert rows and set(rows) == {6, 7, 9}  # no cell has become two
    assert not re.search('<(?:img|script)(?! src="data:image/png;base64,)', page)
    secrets = [base64.b64encode((tmp_path / "secret.txt").read_bytes()).decode(), "of this machine"]
    assert len(re.findall('src="data:image/png', page)) == 4 and not any(secret in page for secret in secrets)
    assert "&lt;img src=x onerror=alert(1)&gt;" in page and "[link" not in text


def test_pictures_show_names_and_no_formulas(tmp_path):
    runs = [run(name, 0.5, rate=rate) for name in ("$x^$", "_x", "a\udcff\n") for rate in (0.1, 0.2)]
    changed = dataclasses.replace(record(*runs), title="$\\frac{$")
    text = compare.write_report(changed, tmp_path, metric="accuracy").read_text()
    assert "left out" not in text and compare.drawn("_x") == " _x" and compare.drawn("a$b$") == r"a\$b\$"


def test_a_picture_is_whole_or_as_it_was(tmp_path):
    from matplotlib.figure import Figure

    compare.save(Figure(), tmp_path / "a.png", dpi=20)
    assert Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).format == "PNG"
    with pytest.raises(ValueError, match="is not supported"):
        compare.save(Figure(), tmp_path / "a.xyz", dpi=20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.long
def test_a_report_is_written_and_shown_where_the_locale_is_ascii(tmp_path):
    code = """
import sys
from examples.shared import streams, terminal
streams.keep()
from optimiz import compare
from tests.compare.records import record, seeds
made = record(*seeds("\\u00e4", 0.8, 0.7), *seeds("b", 0.7, 0.6))
compare.write_report(made, sys.argv[1], metric="accuracy")
terminal.show(compare.summary(made, metric="accuracy"))
"""
    ascii_ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    output, environment = tmp_path / "\u00e4", os.environ | ascii_ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, os.fsencode(output)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert "0.750 ± 0.050" in (output / "report.md").read_text(encoding="utf-8")
    assert b"**" in done.stdout and (output / "report.html").is_file()


@pytest.mark.parametrize("text", ["a [/b] c", r"\[bold] :smile: [link=x]", "[1.0, 2.0] 0x12 'x'"])
def test_what_is_shown_is_no_markup_of_the_console(text, capsys):
    terminal.show(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_where_every_run_diverged_no_level_is_named():
    diverged = dataclasses.replace(run("a", 0.5, test={"accuracy": None}), diverged_at=2)
    text = report.render(record(diverged), metric="accuracy")
    assert "| updates to accuracy that all reach |" in text and "inf |" not in text


PRICE = {"per_device_hour": 2.5, "currency": "USD", "devices": 2, "what": "list price of 2026-11"}


def test_the_price_of_a_run_follows_from_its_time_and_the_devices():
    budget = {"budget": 288.0, "reference_seconds": 290.0, "history": []}
    priced = dataclasses.replace(record(run("a", 0.5, **budget), run("b", 0.4, **budget)), price=PRICE)
    assert priced.rent(priced.runs[0]) == pytest.approx(2.5 * 2 * 290 / 3600)
    text = report.render(priced, metric="accuracy")
    assert "| USD / run |" in text and "| 0.403 |" in text
    assert "2 device(s) at 2.5 USD an hour (list price of 2026-11), for reference time" in text
    own = dataclasses.replace(record(run("a", 0.5, seconds=36.0), run("b", 0.4, seconds=None)), price=PRICE)
    assert [own.rent(one) for one in own.runs] == [pytest.approx(0.05), None]
    assert "| not measured |" in report.render(own, metric="accuracy")
    assert record(run("a", 0.5)).rent(run("a", 0.5)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_device_hour": -1.0}, r"price\['per_device_hour'\] must be in \[0, inf\), got -1.0"),
        ({"per_device_hour": "2"}, r"price\['per_device_hour'\] must be a number"),
        ({"devices": 0}, r"price\['devices'\] must be in \[1, "),
        ({"other": 1}, "price must have per_device_hour, currency, devices, what, got"),
    ],
)
def test_a_price_is_refused_by_name(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dataclasses.replace(record(run("a", 0.5)), price=PRICE | changes)


METER = {"source": "RAPL", "zones": ["intel-rapl:0 package-0"]}
PER_UNIT = {"step": {"joules": 50.0, "uncertainty": 0.5}, "forward": {"joules": 12.0, "uncertainty": 0.2}}


def test_the_energy_of_a_run_follows_from_its_work():
    """golden: 1000 steps of 50 J and 500 forward passes of 12 J are 56,000 J."""
    searched = [{"step": 999, "loss": 1.0, "salsa/evaluations": 500}]
    runs = run("a", 0.5, steps=1000, history=[]), run("b", 0.4, steps=1000, history=searched)
    metered = dataclasses.replace(record(*runs), energy={"per_unit": PER_UNIT, "meter": METER})
    assert metered.joules(metered.runs[0]) == (50_000, 500)
    assert metered.joules(metered.runs[1]) == (56_000, pytest.approx(np.hypot(500, 100)))
    text = report.render(metered, metric="accuracy")
    assert "| J / run |" in text and "| 5e+04 ± 5e+02 |" in text and "by RAPL (step 50 J, forward 12 J)" in text
    stated = {"source": "estimate", "watts": 65.0, "what": "a data sheet"}
    text = report.render(
        dataclasses.replace(metered, energy={"per_unit": PER_UNIT, "meter": stated}), metric="accuracy"
    )
    assert "| J / run, estimated |" in text and "a stated power of 65 W (a data sheet)" in text


@pytest.mark.parametrize(
    "row", [{"estimates": 3}, {"active_layers": 2}, {"looks": 4}], ids=lambda row: next(iter(row))
)
def test_work_of_an_unknown_energy_makes_the_energy_of_the_run_unknown(row):
    one = run("a", 0.5, steps=1, history=[{"step": 0, "loss": 1.0} | row])
    metered = dataclasses.replace(record(one), energy={"per_unit": PER_UNIT, "meter": METER})
    assert metered.joules(one) is None
    assert "| not known |" in report.render(metered, metric="accuracy")


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        ({"per_unit": PER_UNIT}, "energy must have per_unit, meter, got per_unit"),
        ({"per_unit": PER_UNIT, "meter": {}}, r"energy\['meter'\] must say the source"),
        ({"per_unit": {"step": {"joules": 1.0}}, "meter": METER}, "must have joules, uncertainty, got joules"),
        ({"per_unit": {"step": PER_UNIT["step"] | {"joules": -1.0}}, "meter": METER}, "got -1.0"),
    ],
)
def test_an_energy_is_refused_by_name(energy, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dataclasses.replace(record(run("a", 0.5)), energy=energy)
