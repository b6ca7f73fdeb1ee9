"""A report holds what the record holds, in one page and one file."""

import re

import pytest

from optimiz import compare
from optimiz.compare import report
from tests.compare.records import record, run, seeds


def test_report_is_written_with_its_picture_and_record(tmp_path):
    runs = run("sgd_sai", 0.8), run("adamw", None, losses=(1.0, None, None), diverged_at=1)
    path = compare.write_report(record(*runs), tmp_path / "out", figure="accuracy")
    text = path.read_text()
    assert "![" in text and (path.parent / "curves.png").stat().st_size > 10_000
    assert not (path.parent / "rates.png").exists()
    read = compare.Record.read(path.parent / "record.json")
    assert report.render(read, figure="accuracy") == text  # there is no number that is not from the record
    assert "| sgd_sai | 0.01 | 0.800 | 0.800 | 0.200 | 3 | 2 | 500 | 4.00 |" in text
    assert "| adamw | 0.01 | not finite | not finite | not finite |" in text
    assert "| TF-IDF |  | 0.700 | 0.700 |  |" in text
    assert "adamw diverged in 1 of 1 runs." in text
    assert "**not finite** — " in text and "- adamw 0.01, seed 0: at step 1: loss nan" in text


def test_the_page_refers_to_nothing_beside_it(tmp_path):
    runs = [*seeds("a<b>", 0.8, 0.7, rate=0.01), *seeds("a<b>", 0.7, 0.6, rate=0.1)]
    page = (compare.write_report(record(*runs), tmp_path, figure="accuracy").parent / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<table>" in page and "a&lt;b&gt;" in page and "<b>" not in page
    assert "<p><strong>a&lt;b&gt;</strong> has the best mean test accuracy over 2 seeds" in page


def test_an_arm_that_diverged_once_is_not_ranked_and_not_dropped():
    runs = [*seeds("a", 0.6, 0.7), run("b", 0.9), run("b", None, seed=1, diverged_at=2)]
    said = report.in_words(record(*runs), figure="accuracy")
    assert said.startswith("**a** has the best") and "b diverged in 1 of 2 runs." in said
    text = report.render(record(*runs), figure="accuracy")
    assert "| b | 0.01 | not finite in 1 of 2 |" in text
    assert "| b | not finite | none | -0.300, +inf | no significant difference |" in text


def test_the_rate_is_chosen_by_validation_and_not_by_test():
    runs = [*seeds("a", 0.9, 0.9, rate=0.1, validation=0.5), *seeds("a", 0.7, 0.8, rate=0.3, validation=0.6)]
    text = report.render(record(*runs), figure="accuracy")
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

    text = report.render(record(at("a", 0, 0.5, 0.6, 0.7), at("b", 6, 0.3, 0.4, 0.6)), figure="accuracy")
    assert "| temporary MB | reference seconds to accuracy 0.600 |" in text
    assert "| a | 3.00 | 0.5 | 2 | 6 |" in text and "| b | 4.50 | 0.5 | 2 | 8.5 |" in text


def test_versions_that_differ_are_told():
    runs = [run("a", 0.5), run("b", 0.5, versions={"jax": "0.11"})]
    assert "- jax of the runs: 0.10.2, 0.11" in report.render(record(*runs), figure="accuracy")


@pytest.mark.parametrize(
    ("runs", "figure", "message"),
    [
        ([], "accuracy", "the record must hold at least one run, got none"),
        ([run("a", 0.5)], "f1", "there is no evaluation figure 'f1'; there are loss, accuracy"),
        ([run("a", 0.5)], "mcc", "there is no evaluation figure 'mcc'; there are loss, accuracy"),
        (
            [*seeds("a", 0.5, 0.6), run("b", 0.5)],
            "accuracy",
            r"b at 0\.01 must have run from each seed of \[0, 1\]",
        ),
    ],
)
def test_a_record_that_cannot_be_ranked_is_refused(tmp_path, runs, figure, message):
    with pytest.raises(ValueError, match=message):
        compare.write_report(record(*runs), tmp_path / "out", figure=figure)
    assert not (tmp_path / "out").exists()
