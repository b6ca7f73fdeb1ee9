"""The record comes back as it was, and the report says what its numbers say and no more."""

import dataclasses
import json
import math
import re

import pytest

from optimiz import compare
from optimiz.compare import report


def run(optimizer, accuracy, losses=(2.0, 1.0, 0.5), *, rate=0.01, seed=0, validation=None, **changes):
    history = [{"step": i, "loss": loss, "gradient_norm": 1.0} for i, loss in enumerate(losses)]
    validation = accuracy if validation is None else validation
    history += [{"steps": len(losses), "evaluation": {"loss": 0.7, "accuracy": validation}}]
    fields = {
        "optimizer": optimizer,
        "learning_rate": rate,
        "seed": seed,
        "steps": len(losses),
        "diverged_at": None,
        "seconds": 1.5,
        "compile_seconds": 0.5,
        "forward_equivalents": 3.0 * len(losses),
        "reference_seconds": None,
        "budget": None,
        "state_bytes_per_parameter": 4.0,
        "temporary_bytes": 2_000_000,
        "versions": {"jax": "0.10.2"},
        "test": {"accuracy": accuracy, "mcc": accuracy, "loss": None if accuracy is None else 1 - accuracy},
        "history": history,
    }
    return compare.Run(**fields | changes)


def seeds(optimizer, *accuracies, **changes):
    return [run(optimizer, accuracy, seed=seed, **changes) for seed, accuracy in enumerate(accuracies)]


def record(*runs, baseline=0.7, test_examples=1000):
    return compare.Record(
        title="Fine-tuning a model",
        command="python -m examples.finetune_text",
        task={"data": "sentences", "test_examples": test_examples},
        settings={"steps": 3},
        baselines={
            "TF-IDF": {part: {"accuracy": baseline, "mcc": baseline} for part in ("validation", "test")}
        },
        test_examples=test_examples,
        runs=runs,
    )


def test_record_round_trips(tmp_path):
    written = record(run("sgd_sai", 0.8), run("adamw", None, losses=(1.0, None, None)))
    written.write(tmp_path / "record.json")
    read = compare.Record.read(tmp_path / "record.json")
    assert json.dumps(dataclasses.asdict(read)) == json.dumps(dataclasses.asdict(written))
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_round_trips(tmp_path):
    written = run("adamw", 0.8, rate=None, fingerprint="ab", heterogeneity={"gini_norm": 0.5})
    written.write(tmp_path / "result.json")
    assert compare.Run.read(tmp_path / "result.json") == written


def test_record_tells_the_machine_the_versions_and_the_date():
    fields = dataclasses.asdict(record(run("adamw", 0.8)))
    assert {"device", "cpu_cores", "python", "versions"} <= fields["environment"].keys()
    assert {"jax", "optax"} <= fields["environment"]["versions"].keys()
    assert fields["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda text: text[: len(text) // 2], compare.TornRecord, "is not a whole record"),
        (lambda text: "[1, 2]", compare.TornRecord, "is not a whole record"),
        (lambda text: json.dumps({"runs": []}), compare.TornRecord, "is not a whole record"),
        (lambda text: json.dumps({"schema": 2, "runs": []}), compare.TornRecord, "is not a whole record"),
        (lambda text: json.dumps({"schema": 2}), compare.TornRecord, "is not a whole record"),
        (
            lambda text: text.replace('"schema": 2', '"schema": 9'),
            ValueError,
            "has record schema 9, this version reads 2",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, damage, error, message):
    path = tmp_path / "record.json"
    record(run("adamw", 0.8)).write(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(error, match=message):
        compare.Record.read(path)


def test_a_record_never_holds_a_number_that_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        record(run("adamw", math.nan)).write(tmp_path / "record.json")


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


def words(*runs, figure="accuracy", **changes):
    return report.in_words(record(*runs, **changes), figure=figure)


def test_words_call_a_lead_only_what_the_test_set_can_tell():
    # At 0.8 of 1,000, two standard errors of a difference are 0.036.
    def of(*accuracies, **changes):
        return words(*map(run, "abc", accuracies), **changes)

    assert "**a** has the highest test accuracy: 0.800 on 1000 examples" in of(0.8, 0.7)
    assert "does not tell it" not in of(0.8, 0.7)
    assert "does not tell it from b (0.790)" in of(0.8, 0.79)
    assert "every optimizer here is above it" in of(0.8, 0.79)
    assert "of the optimizers here, a is above it" in of(0.8, 0.72)
    assert "**no optimizer here is above it**" in of(0.8, 0.79, baseline=0.79)
    assert of(None) == "No run reached a finite accuracy."
    assert "**b** has the best test loss, 0.100 on 1000 examples, before a (0.200);" in of(
        0.8, 0.9, figure="loss"
    )


def test_words_over_seeds_follow_from_paired_differences():
    # Every difference is about 0.01: far less than seeds differ, and yet always there.
    told = words(*seeds("a", 0.61, 0.712, 0.811), *seeds("b", 0.60, 0.70, 0.80))
    assert "**a** has the best mean test accuracy over 3 seeds: 0.711 ± 0.058 (standard error)." in told
    assert "It is significantly better than b (by 0.011)." in told
    alike = words(*seeds("a", 0.61, 0.80, 0.75), *seeds("b", 0.70, 0.70, 0.70))
    assert "Between it and b there is **no significant difference**." in alike
    assert "**no optimizer here is above it** by more than its seeds vary" in alike
    assert "significantly" not in words(*seeds("a", 0.9, 0.9), *seeds("b", 0.8, 0.8))


def test_more_comparisons_ask_for_wider_intervals():
    pair = [*seeds("a", 0.80, 0.81, 0.79), *seeds("b", 0.770, 0.772, 0.767)]
    crowd = [run for name in "cdefgh" for run in seeds(name, 0.5, 0.6, 0.4)]
    assert "significantly better than b (by 0.030)" in words(*pair)
    assert "significantly" not in words(*pair, *crowd)


def test_an_arm_that_diverged_once_is_not_ranked_and_not_dropped():
    runs = [*seeds("a", 0.6, 0.7), run("b", 0.9), run("b", None, seed=1, diverged_at=2)]
    said = words(*runs)
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


def test_running_mean_leaves_out_what_is_not_finite():
    assert compare.running_mean([1.0, math.nan, 3.0], share=0.67) == [1.0, 1.0, 3.0]
    assert math.isnan(compare.running_mean([math.nan], share=1.0)[0])
