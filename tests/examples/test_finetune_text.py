import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from examples import finetune_text, predict
from examples.data import text_summary
from examples.data.text import TextExamples
from examples.models import pretrained, text_classifier
from examples.shared import command
from examples.tasks.text_classification import TextClassification
from optimiz import compare, training
from tests.conftest import ROOT
from tests.examples.layouts import losses, trained

GOOD, BAD = ["happy", "glad", "joy", "bright"], ["sad", "dull", "grim", "bleak"]
REST = ["a", "the", "film", "was", "very"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny BERT of the parity tests, of one layer only, with a tokenizer of a few words."""
    directory, tiny = tmp_path_factory.mktemp("model"), ROOT / "tests/golden/bert_tiny"
    config = json.loads((tiny / "config.json").read_text()) | {
        "num_hidden_layers": 1
    }  # compiles in half the time
    (directory / "config.json").write_text(json.dumps(config))
    tensors = load_file(tiny / "model.safetensors")
    save_file({k: x for k, x in tensors.items() if ".layer.1." not in k}, directory / "model.safetensors")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *REST]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two hundred sentences whose one telling word says the class."""
    rng = np.random.default_rng(0)
    lines = ["sentence\tlabel"]
    for i in range(200):
        words = [*rng.choice(REST, 4), rng.choice((BAD, GOOD)[i % 2]), str(i)]
        lines.append(f"{' '.join(words)}\t{('negative', 'positive')[i % 2]}")
    path = tmp_path_factory.mktemp("data") / "train.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def arguments(model, data, tmp_path):
    given = {"model": model, "data": data, "output": tmp_path / "out", "length": 12, "steps": 6}
    given |= {"batch_size": 16, "evaluate_every": 3, "optimizer": "sgd_sai,adamw"}
    return given


def call(arguments):
    """The trainer, in this process."""
    with flagsaver.flagsaver():
        command.parse(
            ["finetune_text", *(f"--{name}={value}" for name, value in arguments.items())], finetune_text.FLAGS
        )
        command.guarded(finetune_text.main)


def refused(capsys, arguments):
    """The one line of an error, and the exit code."""
    with pytest.raises(SystemExit) as exit:
        call(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0]
    return errors[0], exit.value.code


def test_the_runs_and_their_report(arguments, capsys):
    call(arguments)
    out = arguments["output"]
    record = compare.Record.read(out / "record.json")
    assert [run.optimizer for run in record.runs] == ["sgd_sai", "adamw"]
    assert [round(run.state_bytes_per_parameter, 1) for run in record.runs] == [4.0, 8.0]
    for run in record.runs:
        assert run.steps == 6 and run.test.keys() == {"loss", "accuracy", "macro_f1", "mcc"}
        assert run.training_loss()[0] == [1, 2, 3, 4, 5, 6]
        assert run.validation("accuracy")[0] == [3, 6]
        matrix = np.array(run.extra["confusion"]["matrix"])
        assert matrix.trace() / matrix.sum() == pytest.approx(run.test["accuracy"])
        assert run.extra["confusion"]["classes"] == ["negative", "positive"]
    assert "## Which classes are told apart?" in (out / "report.md").read_text()
    # The same initial parameters and the same first batch.
    first, second = (run.training_loss()[1][0] for run in record.runs)
    assert first == second == pytest.approx(np.log(2), abs=1e-5)
    assert (out / "curves.png").is_file() and (out / "report.md").read_text().startswith("# Fine-tuning")
    assert f"report: {out / 'report.md'}" in capsys.readouterr().out


@pytest.mark.long
def test_the_best_is_tested_an_early_end_is_told_and_another_run_begins_with_it(arguments, capsys, tmp_path):
    # The rate is far too high, so that the first evaluation is the best one.
    first = arguments | {"optimizer": "adamw", "steps": 40, "evaluate_every": 2, "learning_rate": 1.0}
    call(first | {"keep": "best", "patience": 2, "warmup": 0, "dropout": 0})
    (run,) = compare.Record.read(arguments["output"] / "record.json").runs
    kept, (steps, losses_) = run.extra["kept"], run.validation("loss")
    assert kept["stopped_early"] and run.steps == steps[-1] == kept["steps"] + 4 < 40
    assert kept["value"] == min(losses_) == losses_[steps.index(kept["steps"])]
    report = (arguments["output"] / "report.md").read_text()
    assert f"after {kept['steps']} updates, with the best validation loss" in report
    assert f"The run ended early, after {run.steps} of 40 updates, as 2 evaluations in a row" in report
    assert "adamw stopped early" in capsys.readouterr().out

    again = {"init": arguments["output"] / "adamw", "output": tmp_path / "again", "steps": 1}
    call(first | again | {"optimizer": "sgd_sai", "learning_rate": 1e-30, "warmup": 0, "dropout": 0})
    (second,) = compare.Record.read(tmp_path / "again/record.json").runs
    assert second.test == pytest.approx(run.test, rel=1e-6)  # of the best parameters


def predicted(capsys, run, data):
    """The rows that `examples.predict` writes of a file."""
    capsys.readouterr()
    with flagsaver.flagsaver():
        command.parse(["predict", f"--run={run}", f"--data={data}", "--format=jsonl"], predict.FLAGS)
        command.guarded(predict.main)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


LEARNS = {"optimizer": "adamw", "steps": 60, "learning_rate": 0.01, "head_rate": 1, "dropout": 0, "length": 8}


def test_several_labels_of_a_text_are_learned_saved_and_predicted(arguments, capsys):
    rng, path = np.random.default_rng(0), arguments["output"].with_name("moods.tsv")
    rows = []
    for _ in range(160):
        bad, good = map(int, rng.random(2) < 0.5)
        words = [*rng.choice(REST, 2), *rng.choice(BAD, bad), *rng.choice(GOOD, good)]
        rows.append(f"{' '.join(words)}\t{'|'.join(['down'] * bad + ['up'] * good)}")
    path.write_text("\n".join(["text\tlabel", *rows, ""]))
    given = {"data": path, "problem_type": "multi_label_classification", "separator": "|"}
    call(arguments | LEARNS | given | {"keep": "best:micro_f1", "evaluate_every": 20})
    record = compare.Record.read(arguments["output"] / "record.json")
    (run,) = record.runs
    assert run.test.keys() == {"loss", "micro_f1", "macro_f1", "exact_match"} and run.test["micro_f1"] > 0.9
    assert "TF-IDF + logistic regression" in record.baselines and "confusion" not in run.extra
    of = run.extra["labels"]
    assert of["names"] == ["down", "up"] and of["threshold"] == 0.5
    right, others = sum(of["right"]), sum(of["predicted"]) + sum(of["examples"])
    assert 2 * right / others == pytest.approx(run.test["micro_f1"])
    report = (arguments["output"] / "report.md").read_text()
    assert "## Which labels are found?" in report and f"| up | {of['examples'][1]} |" in report
    config = json.loads((arguments["output"] / "adamw/model/config.json").read_bytes())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "down", "1": "up"}
    assert config["text_columns"] == ["text"]
    said = predicted(capsys, arguments["output"] / "adamw", path)
    for row in said:
        assert row["labels"] == [name for name, p in row["probabilities"].items() if p > 0.5]
    right = ["|".join(row["labels"]) == line.split("\t")[1] for row, line in zip(said, rows, strict=True)]
    assert np.mean(right) > 0.85
    both = next(row for row in said if row["labels"] == ["down", "up"])
    assert sum(both["probabilities"].values()) > 1  # each has a probability of its own


@pytest.mark.long
def test_numbers_are_learned_in_units_of_their_deviation_and_predicted_as_they_are(arguments, capsys):
    rng, path = np.random.default_rng(0), arguments["output"].with_name("prices.tsv")
    numbers, rows = [], []
    for _ in range(160):
        words = rng.choice([*GOOD, *REST], 4)
        numbers.append(20_000 + 1000 * sum(word in GOOD for word in words))
        rows.append(f"{' '.join(words)}\t{numbers[-1]}")
    path.write_text("\n".join(["sentence\tscore", *rows, ""]))
    given = LEARNS | {"data": path, "problem_type": "regression", "evaluate_every": 20}
    call(arguments | given | {"keep": "best:pearson"})
    record = compare.Record.read(arguments["output"] / "record.json")
    (run,) = record.runs
    assert run.test.keys() == {"loss", "pearson", "spearman", "rmse"} and run.test["pearson"] > 0.9
    assert run.training_loss()[1][0] == pytest.approx(1, abs=0.6)  # of predicting the mean
    assert "TF-IDF + ridge regression" in record.baselines
    config = json.loads((arguments["output"] / "adamw/model/config.json").read_bytes())
    assert config["problem_type"] == "regression" and config["id2label"] == {"0": "score"}
    rows = predicted(capsys, arguments["output"] / "adamw", path)
    assert rows[0].keys() == {"text", "score"}
    error = np.array([row["score"] for row in rows]) - numbers
    assert np.sqrt(np.mean(error**2)) < np.std(numbers) / 2

    new = path.with_name("x")
    error, code = refused(capsys, arguments | given | {"optimizer": "sophia_g", "output": new})
    assert "'sophia_g' draws labels from logits" in error and code == command.EXIT_USAGE
    path.write_text("sentence\tscore\n" + "".join(f"a {i}\t3\n" for i in range(160)))
    error, code = refused(capsys, arguments | given | {"output": new})
    assert "all numbers in 'score' are 3; nothing can be learned" in error and code == command.EXIT_USAGE
    assert not new.exists()


@pytest.mark.long
def test_classes_are_weighted_or_drawn_equally_often(model):
    labels = np.array([0] * 12 + [1] * 4, np.int32)
    train = TextExamples(("the film",) * 12 + ("a bright",) * 4, None, labels, ("a", "b"), "x.tsv")
    made = lambda **given: TextClassification(  # noqa: E731
        {"train": train, "validation": train}, model, length=8, dropout=0.0, pooling="mean", **given
    )
    weighted = made(class_weights=["balanced"])
    assert weighted.summary.facts["class weights"] == "a 0.667, b 2"
    task = weighted.task(16, 0)
    batch, params = task.batches(0), jax.tree.map(lambda x: x + 0.01, task.init(jax.random.key(0)))
    params["head"]["bias"] += np.float32([0.5, 0])
    found = task.loss(params, batch, None)
    of = [np.asarray(found)[batch["label"] == i].mean() for i in (0, 1)]
    assert float(training.mean_loss(found, batch)) == pytest.approx(np.mean(of), rel=1e-5)
    assert float(np.mean(found)) != pytest.approx(np.mean(of), rel=1e-2)
    assert np.bincount(made(balanced=True).task(16, 0).batches(3)["label"]).tolist() == [8, 8]
    plain = made().evaluation("validation")(params)  # an evaluation weights nothing
    assert weighted.evaluation("validation")(params) == plain


@pytest.mark.long
def test_buckets_change_no_prediction_and_leave_less_padding(model):
    texts = tuple(" ".join(["the"] * (1 + i % 9)) for i in range(40))
    labels = np.arange(40, dtype=np.int32) % 2
    train = TextExamples(texts, None, labels, ("a", "b"), "x.tsv")
    parts = {"train": train, "validation": train}
    one, several = (
        TextClassification(parts, model, length=12, dropout=0.0, pooling="mean", bucket_count=count)
        for count in (1, 3)
    )
    params = jax.tree.map(lambda x: x + 0.01, one.task(8, 0).init(jax.random.key(0)))
    np.testing.assert_allclose(one.predict("train", params), several.predict("train", params), atol=1e-6)
    # A text has two special tokens: lengths are 3 to 11, and up to 8 in two thirds of the texts.
    lengths = np.array([3 + i % 9 for i in range(40)])
    padding = [1 - lengths.sum() / total for total in (40 * 12, np.where(lengths <= 8, 8, 12).sum())]
    first, second = (f"{share:.1%}" for share in padding)
    assert one.summary.facts["padding"] == f"{first} of the tokens; --buckets=2 would leave {second}"
    told = several.summary.facts["padding"]
    assert told == f"{second} of the tokens in buckets of 8 and 12, {first} in batches of one length"
    batches = several.task(8, 0).batches
    assert batches.bounds == [8, 12] and batches.steps_per_epoch == 5


def long_texts(count, most, least=0, seed=0):
    """Texts of up to `most` words and a telling one, before which there are at least `least`."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        words = list(rng.choice(REST, int(rng.integers(least, most + 1))))
        words.insert(int(rng.integers(least, len(words) + 1)), rng.choice((BAD, GOOD)[i % 2]))
        found.append(" ".join(words))
    return tuple(found)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("problem", "labels", "names", "weights"),
    [
        ("single_label_classification", np.arange(24, dtype=np.int32) % 2, ("a", "b"), ["a=3"]),
        ("multi_label_classification", np.eye(3, dtype=np.float32)[np.arange(24) % 3], ("a", "b", "c"), []),
        ("regression", np.arange(24, dtype=np.float32), ("score",), []),
    ],
)
def test_a_long_text_counts_once_in_training_and_is_the_mean_of_its_windows(
    model, problem, labels, names, weights
):
    train = TextExamples(long_texts(24, most=40), None, labels, names, "x.tsv", problem)
    given = {"length": 12, "dropout": 0.0, "pooling": "mean", "class_weights": weights, "stride": 3}
    parts = {"train": train, "validation": train}
    one, in_buckets = (TextClassification(parts, model, bucket_count=count, **given) for count in (1, 2))
    params = jax.tree.map(lambda x: x + 0.02, one.task(8, 0).init(jax.random.key(0)))
    kernel = params["head"]["kernel"]
    params["head"]["kernel"] = kernel + np.linspace(0, 1, kernel.size).reshape(kernel.shape)
    # A window has 10 tokens of a text, of which 3 are shared.
    windows = [-(-max(len(text.split()) - 3, 1) // 7) for text in train.texts]
    assert one.rows == sum(windows) > 50
    whole = one.task(one.rows, 0).batches(0)  # an epoch in one batch
    of_class = np.where(whole["label"] == 0, 3.0, 1.0) if weights else 1.0
    shares = whole["weight"] / of_class
    assert sorted(np.rint(1 / shares)) == sorted(n for n in windows for _ in range(n))
    if weights:  # each text has the weight of its class
        for label, weight in enumerate((3, 1)):
            assert whole["weight"][whole["label"] == label].sum() == pytest.approx(12 * weight, rel=1e-5)

    logits = one.predict("train", params)
    assert logits.shape == (24, len(names))
    np.testing.assert_allclose(in_buckets.predict("train", params), logits, atol=1e-5)
    metrics = one.evaluation("validation")(params)
    scaled = (labels - labels.mean()) / labels.std() if problem == "regression" else labels
    assert metrics["loss"] == pytest.approx(float(np.mean(one.target.losses(logits, scaled))), rel=1e-4)


@pytest.mark.long
def test_what_is_far_into_a_text_is_learned_with_windows_and_predicted_without_a_flag(arguments, capsys):
    texts, path = long_texts(160, most=16, least=10), arguments["output"].with_name("long.tsv")
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts)))
    given = arguments | LEARNS | {"data": path, "length": 12, "stride": 2, "accumulate": 2, "buckets": 2}
    call(given)
    record = compare.Record.read(arguments["output"] / "record.json")
    assert record.settings["stride"] == 2
    assert record.task["windows"].endswith("neighbours share 2 tokens")
    assert sum(map(sum, record.runs[0].extra["confusion"]["matrix"])) == record.test_examples
    said = predicted(capsys, arguments["output"] / "adamw", path)
    assert [row["text"] for row in said] == list(texts)
    # By chance it were 0.5, with a standard error of 0.04: no text has a telling word before the eleventh.
    assert np.mean([row["label"] == str(i % 2) for i, row in enumerate(said)]) > 0.75
    error, _ = refused(capsys, given | {"resume": True, "stride": 1})
    assert "stride was 2, is 1" in error


@pytest.mark.long
def test_a_run_in_buckets_has_the_same_losses_on_a_mesh_and_in_two_processes(arguments, tmp_path):
    given = arguments | {"optimizer": "adamw", "dropout": 0, "buckets": 2}
    one, *others = trained("finetune_text", given, tmp_path, devices=4)
    for output in others:
        assert losses(output) == pytest.approx(losses(one), abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"sampler": "balanced", "buckets": 2},
            "--sampler=balanced goes without --buckets, --class_weights and --stride",
        ),
        ({"class_weights": "balanced,negative=2"}, "must be balanced alone, or weights"),
        ({"class_weights": "negative"}, "class_weights 'negative' must be balanced, or NAME=WEIGHT"),
        ({"class_weights": "bad=2"}, "--class_weights=bad=2: there is no class 'bad' among 'negative', 'pos"),
        ({"problem_type": "regression", "label_names": "a,b"}, "--label_names needs --problem_type=single"),
        ({"problem_type": "regression", "class_weights": "balanced"}, "--class_weights and --sampler=balanced"),
        ({"problem_type": "regression", "keep": "best:accuracy"}, "evaluation: loss, pearson, spearman, rmse"),
        (
            {"sampler": "balanced", "stride": 2},
            "--sampler=balanced goes without --buckets, --class_weights and",
        ),
        ({"stride": 10}, "stride must be below the 10 tokens of a text in a window of 12, got 10"),
        ({"stride": -1}, "flag --stride=-1"),
        ({"separator": "|"}, "--separator needs --problem_type=multi_label_classification"),
        ({"problem_type": "regression"}, ":2: label must be a number, at most 1e+30, got 'negative'"),
        ({"buckets": 0}, "flag --buckets=0"),
    ],
)
def test_what_does_not_go_together_with_labels_is_refused(arguments, capsys, flags, message):
    error, code = refused(capsys, arguments | flags)
    assert message in error and code == command.EXIT_USAGE
    assert not arguments["output"].exists()


def test_what_is_frozen_stays_as_it_was_pretrained_and_the_report_says_so(arguments, capsys, model):
    frozen = arguments | {"optimizer": "adamw", "freeze": "encoder", "layerwise_decay": 0.5}
    call(frozen)
    params = training.load_params(arguments["output"] / "adamw")
    _, pretrained_params = pretrained.load_encoder(model)
    for name, part in pretrained_params.items():
        jax.tree.map(np.testing.assert_array_equal, params[name], part)
    assert params["head"]["kernel"].any()
    record = compare.Record.read(arguments["output"] / "record.json")
    assert record.runs[0].state_bytes_per_parameter < 1  # moments of the head alone
    assert record.settings["freeze"] == ["encoder"] and record.settings["layerwise_decay"] == 0.5
    assert record.task["multipliers of the rate"] == "head 50"
    assert f"frozen: {record.task['frozen']}" in capsys.readouterr().out.splitlines()
    error, _ = refused(capsys, frozen | {"resume": True, "freeze": "^embeddings/"})
    assert 'freeze was ["encoder"], is ["^embeddings/"]' in error


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("encodr", "--freeze=encodr: path('encodr') matches no parameter; there are embeddings/norm/bias"),
        ("encoder,head", "--freeze=encoder,head freezes every parameter, and nothing would be trained"),
    ],
)
def test_freezing_what_is_not_there_or_everything_is_refused_before_training(
    arguments, capsys, freeze, message
):
    error, code = refused(capsys, arguments | {"freeze": freeze})
    assert message in error and code == command.EXIT_USAGE
    assert not arguments["output"].exists()


@pytest.mark.long
def test_every_precision_trains_the_same_model_to_its_rounding(arguments, tmp_path):
    found = {}
    for precision in ("float32", "mixed", "bfloat16"):
        given = {"precision": precision, "output": tmp_path / precision, "optimizer": "adamw", "dropout": 0}
        call(arguments | given | {"steps": 12})
        found[precision] = losses(tmp_path / precision)
        dtypes = {x.dtype.name for x in jax.tree.leaves(training.load_params(tmp_path / precision / "adamw"))}
        assert dtypes == {"bfloat16" if precision == "bfloat16" else "float32"}
        model, params = text_classifier.load(tmp_path / precision / "adamw/model")
        assert np.isfinite(model.predictions(params, ["a happy film"], None)).all()
    for precision in ("mixed", "bfloat16"):
        assert found[precision] == pytest.approx(found["float32"], rel=2e-2)
        assert found[precision] != found["float32"]


@pytest.mark.long
def test_a_baseline_that_cannot_be_computed_is_told_before_training_and_left_out(arguments, capsys, tmp_path):
    rows = [f"{' '.join('abcdefghij'[int(digit)] for digit in f'{i:03}')}\t{'xy'[i % 2]}" for i in range(200)]
    arguments |= {"data": tmp_path / "letters.tsv", "optimizer": "adamw"}
    arguments["data"].write_text("\n".join(["sentence\tlabel", *rows]))
    call(arguments)
    said = capsys.readouterr().out
    assert said.index("warning: TF-IDF baseline is left out of the report: no words") < said.index("adamw  1/6")
    assert (
        "TF-IDF baseline is left out: no words of two letters"
        in (arguments["output"] / "report.md").read_text()
    )
    record = compare.Record.read(arguments["output"] / "record.json")
    assert record.baselines == {} and "no words" in record.left_out["TF-IDF baseline"]


@pytest.mark.long
def test_the_model_learns(arguments):
    call(arguments | {"optimizer": "adamw", "learning_rate": 0.01, "steps": 60, "head_rate": 1, "dropout": 0})
    (run,) = compare.Record.read(arguments["output"] / "record.json").runs
    assert run.test["accuracy"] > 0.9
    losses = run.training_loss()[1]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


@pytest.mark.long
@pytest.mark.parametrize(
    "named", ["optax:rmsprop", pytest.param("lamb,sophia_g,armijo_sgd", marks=pytest.mark.long)]
)
def test_optimizers_of_every_kind_and_of_the_user_train_the_model(arguments, capsys, named):
    call(arguments | {"optimizer": named, "learning_rate": 1e-3, "steps": 2})
    names = named.replace(":", ".").split(",")
    runs = compare.Record.read(arguments["output"] / "record.json").runs
    assert [run.optimizer for run in runs] == names
    assert [run.learning_rate for run in runs] == [None if name == "armijo_sgd" else 1e-3 for name in names]
    assert all((arguments["output"] / name / "run.json").exists() for name in names)
    if ":" in named:
        assert f"warning: {named} has no argument weight_decay" in capsys.readouterr().out


@pytest.mark.long
def test_a_rate_too_high_is_told_while_it_trains_once_and_with_a_remedy(arguments, capsys):
    call(arguments | {"optimizer": "adamw", "learning_rate": 10, "steps": 60, "head_rate": 1})
    lines = capsys.readouterr().out.splitlines()
    told = [i for i, line in enumerate(lines) if line.startswith("adamw: learning rate too high (step ")]
    last = next(i for i, line in enumerate(lines) if line.startswith("adamw  60/60  loss "))
    assert len(told) == 1 and told[0] < last - 1  # there are looks after it
    assert "Divide the learning rate by 3, and again if need be" in lines[told[0]]


@pytest.mark.long
def test_a_mesh_of_one_device_is_that_device(arguments, tmp_path):
    one = arguments | {"optimizer": "adamw", "steps": 3}
    call(one)
    call(one | {"output": tmp_path / "mesh", "mesh": "data:1", "shard_state": True})
    call(one | {"output": tmp_path / "host", "offload": True})
    for other in ("mesh", "host"):
        assert losses(tmp_path / other) == pytest.approx(losses(one["output"]), abs=1e-5)


@pytest.mark.long
def test_a_mesh_of_four_devices_and_two_processes_have_the_losses_of_one_device(arguments, tmp_path):
    given = arguments | {"optimizer": "adamw", "dropout": 0}
    one, *others = trained("finetune_text", given, tmp_path, devices=4)
    for output in others:
        assert losses(output) == pytest.approx(losses(one), abs=1e-5)
        (run,) = compare.Record.read(output / "record.json").runs
        assert run.test.keys() == {"loss", "accuracy", "macro_f1", "mcc"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mesh": "data:3"}, 'mesh "data:3" needs 3 devices, got 1'),
        ({"mesh": "4"}, 'a mesh must be described as in "data:4,model:2", got "4"'),
        ({"shard_state": True}, "--shard_state needs a --mesh to split the state over"),
        ({"cluster": True, "processes": 2}, "--cluster replaces --coordinator, --processes and --process"),
        ({"processes": 2}, "--coordinator, --processes and --process go together"),
    ],
)
def test_flags_of_devices_that_do_not_fit_are_refused(arguments, capsys, flags, message):
    error, code = refused(capsys, arguments | flags)
    assert message in error and code == command.EXIT_USAGE
    assert not arguments["output"].exists()


@pytest.mark.long
def test_a_stopped_run_goes_on_to_the_same_record(arguments, tmp_path):
    one = arguments | {"optimizer": "sgd_sai"}
    call(one)
    stopped = one | {"output": tmp_path / "stopped", "save_every": 2}
    code = """
import os, signal
from optimiz.training.storage import checkpoint
from examples import finetune_text
from examples.shared import command
save = checkpoint.save
def save_and_die(*args, **kwargs):
    save(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = save_and_die
command.run(finetune_text.main, finetune_text.FLAGS)
"""
    argv = [f"--{name}={value}" for name, value in stopped.items()]
    killed = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=300
    )
    assert killed.returncode == -9
    assert [p.name for p in (stopped["output"] / "sgd_sai/checkpoints").iterdir()] == ["000000002"]
    call(stopped | {"resume": True})
    whole, resumed = (d["output"] / "sgd_sai/metrics.jsonl" for d in (one, stopped))
    assert whole.read_bytes() == resumed.read_bytes()
    whole, resumed = (compare.Record.read(d["output"] / "record.json").runs[0] for d in (one, stopped))
    assert whole.test == resumed.test


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adawm"}, "optimizer 'adawm' is unknown: did you mean adamw"),
        ({"optimizer": "zzz"}, "optimizer 'zzz' is unknown: there are adafactor, adagrad, adam"),
        ({"learning_rate": "nan"}, "flag --learning_rate=nan: must be finite, at least 0"),
        ({"learning_rate": -1}, "flag --learning_rate=-1.0: must be finite, at least 0"),
        ({"learning_rate": "fast"}, "flag --learning_rate=fast"),
        ({"steps": 0}, "flag --steps=0"),
        ({"batch_size": 0}, "flag --batch_size=0"),
        ({"warmup": 1.0}, "flag --warmup=1.0: must be in [0, 1)"),
        ({"dropout": 1.5}, "flag --dropout=1.5: must be in [0, 1)"),
        ({"length": 2}, "length must be above the 2 special tokens, got 2"),
        ({"length": 13}, "length=13: the model reads at most 12 tokens"),
        ({"pooling": "max"}, "flag --pooling=max"),
        ({"data": "missing.tsv"}, "missing.tsv: no such file"),
        ({"label": "class"}, "no column 'class'; the columns are 'sentence', 'label'"),
        ({"model": "no/such/model"}, "model must be a directory or a Hub repository, got 'no/such/model'"),
        ({"gpus": 1}, "Unknown command line flag 'gpus'; --help lists the flags"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, capsys, changes, message):
    error, code = refused(capsys, arguments | changes)
    assert message in error and code == command.EXIT_USAGE
    assert not arguments["output"].exists()


def test_an_unknown_label_of_the_test_file_is_named(arguments, capsys, tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("sentence\tlabel\na film\tpositive\na film\tmixed\n")
    error, code = refused(capsys, arguments | {"test": path})
    assert f"{path}:3: label 'mixed' is not one of 'negative', 'positive'" in error
    assert code == command.EXIT_USAGE


@pytest.mark.long
def test_what_is_there_is_not_overwritten(arguments, capsys):
    call(arguments)
    report = arguments["output"] / "report.md"
    before = report.stat().st_mtime_ns
    error, code = refused(capsys, arguments)
    assert "holds a run: continue it with --resume, or choose another --output" in error
    assert code == command.EXIT_USAGE
    error, _ = refused(capsys, arguments | {"resume": True, "batch_size": 8})
    assert "batch_size was 16, is 8" in error
    error, _ = refused(capsys, arguments | {"resume": True, "learning_rate": 0.5})
    assert "learning_rate" in error
    with training.claimed(
        arguments["output"], json.loads((arguments["output"] / "run.json").read_bytes()), True
    ):
        error, _ = refused(capsys, arguments | {"resume": True})
        assert f"is in use by process {os.getpid()}" in error
    assert report.stat().st_mtime_ns == before


def test_flags_is_the_only_way_in(arguments, capsys):
    with pytest.raises(SystemExit) as exit, flagsaver.flagsaver():
        command.parse(["finetune_text", "train.tsv", "--output=x"], finetune_text.FLAGS)
    assert exit.value.code == command.EXIT_USAGE
    assert "flags must begin with --, got train.tsv" in capsys.readouterr().err


@pytest.mark.long
def test_the_files_are_read_as_the_flags_say(arguments, capsys, tmp_path):
    lines = [
        "Inhalt;Klasse",
        *(f'"{word} größe; {i}";{"-1" if i % 2 else "+1"}' for i in range(120) for word in "a"),
    ]
    path = tmp_path / "mails.csv"
    path.write_bytes("\n".join(lines).encode("latin-1"))
    given = arguments | {"data": path, "steps": 1, "optimizer": "adamw"}
    error, _ = refused(capsys, given)
    assert "one column, 'Inhalt;Klasse'; if ';' separates the fields" in error and "--delimiter=';'" in error
    given |= {"delimiter": ";"}
    error, _ = refused(capsys, given)
    assert f"{path}:2: byte 0xf6 at 5 is not UTF-8; set its encoding, such as --encoding=cp1252" in error
    given |= {"encoding": "latin-1"}
    error, _ = refused(capsys, given)
    assert "which column is the text? Name it in --text=" in error
    given |= {"text": "Inhalt", "label": "Klasse"}
    error, _ = refused(capsys, given)
    assert "Klasse '-1' means no label; if it is a class, name all classes in --label_names=" in error
    call(given | {"label_names": "-1,+1"})
    assert str(compare.Record.read(arguments["output"] / "record.json").task["classes"]).startswith("2")


def test_a_test_that_is_trained_on_is_refused_and_a_few_of_its_texts_are_left_out(
    arguments, capsys, data, tmp_path
):
    error, _ = refused(capsys, arguments | {"test": data})
    assert f"error: {data}: 200 of its 200 texts are in --data too, from which a model learns them; " in error
    rows, other = data.read_text().splitlines(), tmp_path / "other.tsv"
    other.write_text("\n".join([rows[0], *(f"new {row}" for row in rows[1:50]), rows[7]]))
    given = [f"--{name}={value}" for name, value in (arguments | {"test": other}).items()]
    with flagsaver.flagsaver():
        command.parse(["finetune_text", *given], finetune_text.FLAGS)
        parts = finetune_text.read_data()
    assert sum(len(parts[name].texts) for name in ("train", "validation")) == 199
    summary = text_summary.of_texts(parts)
    assert summary.facts["texts left out of training, as another part has them"] == "1"
    assert not any("shares" in warning for warning in summary.warnings)


@pytest.mark.parametrize("flag", ["text", "label_names", "encoding", "test"])
def test_what_says_how_a_file_is_read_goes_with_a_file(arguments, capsys, flag):
    del arguments["data"]
    error, code = refused(capsys, arguments | {flag: "a,b"})
    assert f"--{flag} " in error and "--data" in error and code == command.EXIT_USAGE


@pytest.mark.long
def test_the_data_are_summed_up_on_the_screen_and_in_the_report_and_say_the_length(arguments, capsys):
    del arguments["length"]
    path = arguments["output"].with_name("mails.tsv")
    short = [f"a film was {i % 9}\t{i % 2}" for i in range(190)]
    path.write_text("\n".join(["text\tlabel", *short, *["a the film was very bright\t1"] * 5, *["\t0"] * 15]))
    call(arguments | {"data": path, "steps": 1, "optimizer": "adamw"})
    shown, record = capsys.readouterr().out, compare.Record.read(arguments["output"] / "record.json")
    assert record.settings["length"] == 8  # all are whole
    assert "truncated: 0 of 210 texts (0.0%), to 8 tokens" in shown and record.task["truncated"] in shown
    assert "tokens of a text: median 6, 95% within 6, " in shown
    assert "warning: 15 empty texts, from which nothing can be learned" in shown.splitlines()
    assert "15 empty texts" in (arguments["output"] / "report.md").read_text()
    call(
        arguments
        | {"data": path, "steps": 1, "optimizer": "adamw", "length": 5, "output": path.with_name("cut")}
    )
    assert (
        "of the texts are longer than 5 tokens and are truncated: see --length and --stride"
        in capsys.readouterr().out
    )


def of_texts(texts, names=("a", "b"), pairs=None):
    return TextExamples(tuple(texts), pairs, np.arange(len(texts), dtype=np.int32) % 2, names, "x.tsv")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (of_texts([]), r"test \(x\.tsv\) has no examples"),
        (
            of_texts(["the"], ("b", "a")),
            r"test \(x\.tsv\) must have the classes of train, 'a', 'b', got 'b', 'a'",
        ),
        (
            of_texts(["the"], pairs=("a",)),
            r"train has single texts, but test \(x\.tsv\) has pairs of texts",
        ),
    ],
)
def test_parts_of_different_kinds_are_refused(model, test, message):
    with pytest.raises(ValueError, match=message):
        TextClassification(
            {"train": of_texts(["a", "the"]), "test": test}, model, length=8, dropout=0.0, pooling="mean"
        )
