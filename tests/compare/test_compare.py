import dataclasses
import json
import math

import pytest

from optimiz import compare
from optimiz.compare import report
from optimiz.compare.curves import running_mean


def run(optimizer, accuracy, losses=(2.0, 1.0, 0.5)):
    history = [{"step": i, "loss": loss, "gradient_norm": 1.0} for i, loss in enumerate(losses)]
    history += [{"steps": len(losses), "evaluation": {"loss": 0.7, "accuracy": accuracy}}]
    return compare.Run(
        optimizer=optimizer,
        learning_rate=0.01,
        seed=0,
        steps=len(losses),
        seconds=1.5,
        compile_seconds=0.5,
        state_bytes_per_parameter=4.0,
        test={"accuracy": accuracy, "mcc": accuracy},
        history=history,
    )


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


def test_record_tells_the_machine_the_versions_and_the_date():
    fields = dataclasses.asdict(record(run("adamw", 0.8)))
    assert {"device", "cpu_cores", "python", "versions"} <= fields["environment"].keys()
    assert {"jax", "optax"} <= fields["environment"]["versions"].keys()
    assert fields["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not a whole record"),
        (lambda text: "[1, 2]", "is not a whole record"),
        (lambda text: json.dumps({"runs": []}), "is not a whole record"),
        (lambda text: json.dumps({"schema": 1, "runs": []}), "is not a whole record"),
        (
            lambda text: text.replace('"schema": 1', '"schema": 9'),
            "has record schema 9, this version reads 1",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, damage, message):
    path = tmp_path / "record.json"
    record(run("adamw", 0.8)).write(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=message):
        compare.Record.read(path)


def test_a_record_never_holds_a_number_that_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        record(run("adamw", math.nan)).write(tmp_path / "record.json")


def test_report_is_written_with_its_picture_and_record(tmp_path):
    runs = run("sgd_sai", 0.8), run("adamw", None, losses=(1.0, None, None))
    path = compare.write_report(record(*runs), tmp_path / "out", figure="accuracy")
    text = path.read_text()
    assert "![" in text and (path.parent / "curves.png").stat().st_size > 10_000
    assert compare.Record.read(path.parent / "record.json").runs[0].optimizer == "sgd_sai"
    assert "| sgd_sai | 0.01 | 0.800 | 0.800 | 3 | 2 | 500 | 4.00 |" in text
    assert "| adamw | 0.01 | not finite | not finite |" in text
    assert "| TF-IDF |  | 0.700 | 0.700 |" in text


def test_words_call_a_lead_only_what_the_test_set_can_tell():
    # At 0.8 of 1,000, two standard errors of a difference are 0.036.
    def words(*accuracies, **kwargs):
        return report.in_words(record(*map(run, "abc", accuracies), **kwargs), figure="accuracy")

    assert "**a** has the highest test accuracy: 0.800 on 1000 examples" in words(0.8, 0.7)
    assert "does not tell it" not in words(0.8, 0.7)
    assert "does not tell it from b (0.790)" in words(0.8, 0.79)
    assert "every optimizer here is above it" in words(0.8, 0.79)
    assert "a are above it" in words(0.8, 0.72)
    assert "**no optimizer here is above it**" in words(0.8, 0.79, baseline=0.79)
    assert words(None) == "No run reached a finite accuracy."


def test_running_mean_leaves_out_what_is_not_finite():
    assert running_mean([1.0, math.nan, 3.0], share=0.67) == [1.0, 1.0, 3.0]
    assert math.isnan(running_mean([math.nan], share=1.0)[0])
