import json
import re
import shutil
from pathlib import Path

import pytest
from absl.testing import flagsaver
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from examples import command, compare_optimizers
from optimiz import compare, training
from tests.compare import small

ROOT = Path(__file__).parents[2]
WORDS = ["happy", "glad", "sad", "dull", "a", "the", "film", "was", "very"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny BERT of the parity tests, with a tokenizer of a few words."""
    directory = tmp_path_factory.mktemp("model")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(ROOT / "tests/golden/bert_tiny" / name, directory)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two hundred sentences whose one telling word says the class."""
    lines = ["sentence\tlabel"]
    lines += [
        f"a film {'happy' if i % 2 else 'sad'} {i}\t{('negative', 'positive')[i % 2]}" for i in range(200)
    ]
    path = tmp_path_factory.mktemp("data") / "train.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    path = tmp_path_factory.mktemp("prices") / "reference.json"
    times = {training.Work(name, batch=8): training.Timing(1.0, 0.0, 1) for name in ("step", "forward")}
    training.Reference(times=times, about={}).write(path)
    return path


@pytest.fixture
def arguments(model, data, prices, tmp_path):
    given = {"model": model, "task": data, "reference": prices, "output": tmp_path / "out", "batch_size": 8}
    return given | {"length": 12, "budget": 4, "optimizers": "sgd,salsa", "learning_rates": "0.1", "seeds": 2}


def call(arguments):
    """The comparison, in this process."""
    with flagsaver.flagsaver():
        given = (f"--{name}={value}" for name, value in arguments.items())
        command.parse(["compare_optimizers", *given])
        command.guarded(compare_optimizers.main)


def refused(capsys, arguments):
    """The one line of an error, and the exit code."""
    with pytest.raises(SystemExit) as exit:
        call(arguments)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0], exit.value.code


def test_the_comparison_its_report_and_its_resumption(arguments, capsys):
    call(arguments)
    out = arguments["output"]
    record = compare.Record.read(out / "record.json")
    assert [(run.optimizer, run.learning_rate, run.seed) for run in record.runs] == [
        ("sgd", 0.1, 0), ("sgd", 0.1, 1), ("salsa", None, 0), ("salsa", None, 1),
    ]  # fmt: skip
    sgd, _, salsa, _ = record.runs
    assert (sgd.steps, sgd.reference_seconds) == (4, 4.0) and sgd.fingerprint == salsa.fingerprint
    assert salsa.steps < 4 <= salsa.reference_seconds
    trials = [row["evaluations"] for row in salsa.history if "loss" in row][-1]
    assert salsa.forward_equivalents == 3 * salsa.steps + trials
    assert salsa.reference_seconds == salsa.steps + trials
    assert all(len(row["step_size"]) == 1 for row in salsa.history if "loss" in row)
    assert sgd.temporary_bytes > 0 and sgd.heterogeneity["gini_norm"] > 0
    printed = capsys.readouterr().out
    assert re.search(r"^4/4  \d+ min left  salsa  seed 1  step \d", printed, re.MULTILINE)
    assert "over 2 seeds" in printed and f"report: {out / 'report.md'}" in printed
    assert (out / "report.html").read_text().startswith("<!doctype html>")

    error, code = refused(capsys, arguments)
    assert "resume it (--resume) or choose another directory" in error and code == command.EXIT_ERROR
    error, _ = refused(capsys, arguments | {"resume": True, "budget": 5})
    assert "budget was 4.0, is 5.0" in error
    call(arguments | {"resume": True, "seeds": 1})  # what is there is read, and is a comparison
    assert compare.Record.read(out / "record.json").runs == [sgd, salsa]


def test_prices_are_measured_once_and_kept(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_optimizers, "_TIMED", 2)
    path = tmp_path / "reference.json"
    with flagsaver.flagsaver():
        command.parse(["compare_optimizers", *(f"--{name}={value}" for name, value in arguments.items())])
        first, second = (compare_optimizers.measured(small.task_of(0), small.arms(), path) for _ in range(2))
    assert first == second and {(work.name, work.batch) for work in first.times} == {
        ("step", 8),
        ("forward", 8),
    }
    assert [timing.n for timing in first.times.values()] == [2, 2] and first.about["optimizer"] == "sgd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizers": "adawm"}, "optimizer 'adawm' is unknown: did you mean adamw"),
        ({"learning_rates": "0.1,fast"}, "flag --learning_rates=['0.1', 'fast']: must be positive numbers"),
        ({"learning_rates": "0.1,0"}, "must be positive numbers"),
        ({"budget": 0}, "budget must be in [1e-09, 1e+09], got 0.0"),
        ({"budget": -1}, "budget must be in [1e-09, 1e+09], got -1.0"),
        ({"seeds": 0}, "flag --seeds=0"),
        ({"figure": "bleu"}, "flag --figure=bleu"),
        ({"task": "missing.tsv"}, "missing.tsv: no such file"),
        ({"reference": "missing.json"}, "missing.json"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, capsys, changes, message):
    error, code = refused(capsys, arguments | changes)
    assert message in error and code == command.EXIT_USAGE
    assert not arguments["output"].exists()


def test_a_reference_that_lacks_an_operation_or_is_not_monotone_is_named(arguments, capsys, tmp_path):
    def reference(*times):
        path = tmp_path / "other.json"
        rows = [
            {"name": n, "depth": None, "batch": b, "seconds": s, "spread": 0.0, "n": 1} for n, b, s in times
        ]
        fields = json.loads(arguments["reference"].read_text())
        path.write_text(json.dumps(fields | {"times": rows}))
        return arguments | {"reference": path}

    error, _ = refused(capsys, reference(("step", 8, 1.0), ("step", 16, 0.5)))
    assert "step(batch=16) cannot be quicker than step(batch=8)" in error
    error, _ = refused(capsys, reference(("step", 8, 1.0)))
    assert "salsa cannot be trained on this task: the reference lacks forward(batch=8)" in error
