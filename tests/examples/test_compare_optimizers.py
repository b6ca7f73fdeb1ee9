"""The comparison as a user runs it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from optimiz import compare, training
from tests.examples import tiny_lm
from tests.examples.test_finetune_text import BAD, GOOD, REST, ROOT, data, model  # noqa: F401
from tests.examples.test_pretrain import text

# One process for several calls, for most of a call is importing and compiling.
DRIVER = """
import contextlib, io, json, sys
from absl.testing import flagsaver
from examples import compare_optimizers
from examples.shared import command
answers = []
for arguments in json.load(sys.stdin):
    printed, errors, code = io.StringIO(), io.StringIO(), 0
    with flagsaver.flagsaver(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            given = (f"--{name}={value}" for name, value in arguments.items())
            command.parse(["compare_optimizers", *given], compare_optimizers.FLAGS)
            command.guarded(compare_optimizers.main)
        except SystemExit as exit:
            code = exit.code
    answers.append({"code": code, "printed": printed.getvalue(), "errors": errors.getvalue()})
print(json.dumps(answers))
"""


def call(*calls):
    """Exit code, output and error lines of each call."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([{name: str(value) for name, value in given.items()} for given in calls]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    return [(a["code"], a["printed"], [e for e in a["errors"].splitlines() if "error:" in e]) for a in answers]


def reference(path, *times):
    """A file of prices: (name, batch size, seconds)."""
    works = {training.Work(name, batch=batch): training.Timing(price, 0.0, 1) for name, batch, price in times}
    training.Reference(times=works, about={}).write(path)
    return path


@pytest.fixture
def arguments(model, data, tmp_path):  # noqa: F811
    prices = reference(tmp_path / "prices.json", ("step", 8, 1.0), ("forward", 8, 1.0))
    given = {"model": model, "task": data, "reference": prices, "output": tmp_path / "out", "batch_size": 8}
    return given | {"length": 12, "budget": 4, "optimizers": "sgd,salsa", "learning_rates": "0.1", "seeds": 2}


@pytest.mark.long
def test_the_comparison_its_report_and_its_resumption(arguments):
    out = arguments["output"]
    again = [arguments, arguments | {"resume": True, "budget": 5}, arguments | {"resume": True, "seeds": 1}]
    (code, printed, _), held, other, resumed = call(arguments, *again)
    assert code == 0 and re.search(r"^4/4  \d+ min left  salsa  seed 1  step \d", printed, re.MULTILINE)
    assert "over 2 seeds" in printed and f"report: {out / 'report.md'}" in printed
    assert held[0] == 2 and "continue it with --resume, or choose another --output" in held[2][0]
    assert other[0] == 1 and "budget was 4.0, is 5.0" in other[2][0]
    assert resumed[0] == 0 and "step" not in resumed[1]  # what is there is read, and not run again

    runs = [compare.Run.read(path) for path in sorted((out / "runs").glob("*/*/result.json"))]
    assert [(run.optimizer, run.learning_rate, run.seed) for run in runs] == [
        ("salsa", None, 0), ("salsa", None, 1), ("sgd", 0.1, 0), ("sgd", 0.1, 1),
    ]  # fmt: skip
    salsa, _, sgd, _ = runs
    assert compare.Record.read(out / "record.json").runs == [sgd, salsa]
    assert (sgd.steps, sgd.reference_seconds) == (4, 4.0) and sgd.fingerprint == salsa.fingerprint
    rows = [row for row in salsa.history if "loss" in row]
    trials = rows[-1]["evaluations"]
    assert salsa.steps < 4 <= salsa.reference_seconds == salsa.steps + trials
    assert salsa.forward_equivalents == 3 * salsa.steps + trials
    assert all(len(row["step_size"]) == 1 for row in rows)
    assert sgd.temporary_bytes > 0 and sgd.heterogeneity["gini_norm"] > 0
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    record = compare.Record.read(out / "record.json")
    assert record.settings["metric"] == "accuracy" and record.left_out == {}
    assert record.controls.keys() == {"untrained", "half of the data", "frozen encoder"}
    assert {"most frequent class"} < record.baselines.keys()
    halves = [compare.Run.read(path) for path in sorted((out / "half_of_the_data").glob("*/*/result.json"))]
    assert [run.test for run in halves[:1]] == record.controls["half of the data"]
    assert halves[0].fingerprint != sgd.fingerprint and halves[0].steps == sgd.steps
    assert json.loads((out / "run.json").read_text())["figure"] == "accuracy"  # as in directories of 0.1.0


@pytest.mark.long
def test_decays_and_rates_are_halved_and_the_report_shows_both(arguments):
    given = {"optimizers": "sgd", "learning_rates": "0.1,0.3", "weight_decays": "0,0.1", "halving": "0.5"}
    out = arguments["output"]
    ((code, printed, _),) = call(arguments | given | {"seeds": 1, "controls": False, "extensions": 0})
    record = compare.Record.read(out / "record.json")
    assert code == 0 and "Use **sgd** at learning rate" in printed.replace("Of these optimizers, use", "Use")
    assert [len(record.rungs), len(record.runs)] == [4, 2]
    assert {run.axes["weight_decay"] for run in record.rungs} == {0.0, 0.1}
    assert {run.steps for run in record.rungs} == {2} and {run.steps for run in record.runs} == {4}
    text = (out / "report.md").read_text()
    assert text.count("| dropped |") == 2 and "| weight_decay |" in text.replace("\\_", "_")


@pytest.mark.long
def test_problems_are_printed_during_a_run_and_prices_are_measured_once_and_kept(arguments, tmp_path):
    wild = arguments | {"output": tmp_path / "wild", "optimizers": "sgd", "learning_rates": "1e30"}
    wild |= {"controls": False}
    del arguments["reference"]
    arguments |= {"optimizers": "sgd", "seeds": 1, "budget": 1e-9}
    path = arguments["output"] / "reference.json"
    (code, printed, _), (first, _, _), (second, _, _) = call(wild, arguments, arguments | {"resume": True})
    seeds = re.findall(
        r"^sgd 1e\+30, seed (\d): not finite \(step .*If the loss rose before, .*$", printed, re.M
    )
    assert seeds == ["0", "1"] and printed.index("seed 0: not finite") < printed.index("\n2/2  ")
    assert code == first == second == 0  # other prices would be refused
    times = training.Reference.read(path).times
    assert {(work.name, work.batch) for work in times} == {("step", 8), ("forward", 8)}
    assert [timing.n for timing in times.values()] == [30, 30]


def test_a_mistake_is_one_line_and_leaves_nothing(arguments, tmp_path):
    dearer = reference(tmp_path / "monotone.json", ("step", 8, 1.0), ("step", 16, 2.0))
    dearer.write_text(dearer.read_text().replace('"seconds": 2.0', '"seconds": 0.5'))
    mistakes = [
        ({"optimizers": "adawm"}, "optimizer 'adawm' is unknown: did you mean adamw"),
        ({"energy": 65}, "flags energy=65, reference="),
        ({"learning_rates": "0.1,fast"}, "'fast']: must be different numbers above 0"),
        ({"learning_rates": "0.1,0"}, "must be different numbers above 0"),
        ({"weight_decays": "0.1,-1"}, "must be different numbers in [0, 1e30]"),
        ({"warmups": "0.1,1"}, "must be different numbers in [0, 1)"),
        ({"halving": "0.5,1"}, "must be different numbers in (0, 1)"),
        ({"halving": "0.5,0.25"}, "must ascend"),
        ({"budget": 0}, "flag --budget=0.0: must be in [1e-9, 1e9]"),
        ({"budget": -1}, "flag --budget=-1.0: must be finite, at least 0"),
        ({"seeds": 0}, "flag --seeds=0"),
        ({"metric": "bleu"}, "--metric=bleu: the metrics of this task are accuracy, macro_f1, mcc, loss"),
        ({"task": "missing.tsv"}, 'missing.tsv: no such file; a task without a file is "word_order", finetu'),
        ({"task": "finetune_lm"}, "--model is of text; a trainer's is written in --task, after its name"),
        ({"text": "body"}, "no column 'body'; the columns are 'sentence', 'label'"),
        ({"label_names": "-1,+1"}, "label 'negative' is not one of '-1', '+1'"),
        ({"label_names": "good"}, "flag --label_names=['good']: must be two names or more"),
        ({"delimiter": ";"}, "--delimiter= is for a .csv file"),
        (
            {"task": "word_order", "encoding": "latin-1"},
            "--encoding describes a file, but there is none; see --task",
        ),
        ({"reference": "missing.json"}, "--reference=missing.json: No such file or directory"),
        ({"reference": dearer}, "step(batch=16) cannot be faster than step(batch=8)"),
    ]
    of_others = [
        (
            "finetune_lm --steps=3",
            "--task: --steps says how to train, which the comparison decides; leave it out",
        ),
        ("finetune_image --data=nowhere", "--task: nowhere"),
        ("finetune_text --data='a b", "--task=finetune_text --data='a b: No closing quotation"),
        (
            "finetune_text --state=int8",
            "--task: --state says how to train, which the comparison decides; leave it",
        ),
        ("finetune_image --modle=vit", "--task: Unknown command line flag 'modle'"),
        ("pretrain --objective=masked --downstream=", "--task: --downstream is not compared; leave it out"),
        ("tests.examples.own_task:missing", "task 'tests.examples.own_task:missing' cannot be imported: Attri"),
        ("tests.examples.own_task:alone", "must return (training.Task, function of parameters, number of test"),
        ("tests.examples.own_task:untested", "number of test examples ≥ 1), got (Task, function, 0)"),
        ("tests.examples.own_task:line", "--metric must name the metric that ranks"),
    ]
    general = {name: arguments[name] for name in ("output", "reference", "optimizers", "learning_rates")}
    calls = [arguments | changes for changes, _ in mistakes] + [
        general | {"task": task} for task, _ in of_others
    ]
    calls += [general | {"task": "tests.examples.own_task:line", "metric": "mae", "batch_size": 4}]
    calls += [arguments | {"mesh": "data:1"}]
    messages = [*mistakes, *of_others, ("", "--batch_size=4: tests.examples.own_task:line decides that")]
    messages += [("", "--mesh is of the trainers; a comparison runs on one device")]
    answers = call(*calls)
    for (changes, message), (code, _, errors) in zip(messages, answers, strict=True):
        assert code == 2 and len(errors) == 1 and message in errors[0], (changes, errors)
    assert not arguments["output"].exists()


@pytest.mark.long
def test_a_reference_that_lacks_an_operation_is_named_before_anything_runs(arguments, tmp_path):
    lacking = reference(tmp_path / "lacking.json", ("step", 8, 1.0))
    [(code, _, errors)] = call(arguments | {"reference": lacking})
    assert (
        code == 2 and "salsa cannot be trained on this task: the reference lacks forward(batch=8)" in errors[0]
    )
    assert not (arguments["output"] / "runs").exists()


CLASSES, TEXTS = ("accuracy", "macro_f1", "mcc", "loss"), ("bits_per_byte", "loss", "perplexity")
TFIDF, MOST = "TF-IDF + logistic regression", "most frequent class"
TINY = "--layers=1 --hidden_size=16 --heads=2 --length=16"
TASKS = {  # the task, the metrics of its test, of which the first ranks, and its baselines
    "own": ("tests.examples.own_task:line", ("mae", "worst"), set()),
    "digits": ("finetune_image --model=vit", CLASSES, {"logistic regression"}),
    "photos": ("finetune_image --model=vit --data={photos} --image_size=8", CLASSES, {"logistic regression"}),
    "text": ("finetune_text --model={model} --data={data} --length=12", CLASSES, {TFIDF, MOST}),
    "pairs": ("finetune_text --model={model} --data={pairs}", CLASSES, {TFIDF, MOST}),
    "labels": (
        "finetune_text --model={model} --data={labels} --problem_type=multi_label_classification",
        ("micro_f1", "macro_f1", "exact_match", "loss"),
        {TFIDF},
    ),
    "numbers": (
        "finetune_text --model={model} --data={numbers} --problem_type=regression",
        ("pearson", "spearman", "rmse", "loss"),
        {"TF-IDF + ridge regression"},
    ),
    "chats": (
        "finetune_lm --model={lm} --data={chats} --length=96 --lora_rank=2",
        TEXTS,
        {"the model as it was"},
    ),
    "documents": (
        "finetune_lm --model={lm} --data={lines} --length=96 --lora_rank=0",
        TEXTS,
        {"the model as it was"},
    ),
    "causal": (f"pretrain --data={{lines}} --vocab_size=300 {TINY}", TEXTS, {"frequencies of tokens"}),
    "masked": (
        f"pretrain --objective=masked --data={{lines}} --vocab_size=60 {TINY}",
        TEXTS,
        {"frequencies of tokens"},
    ),
    "span": (
        f"pretrain --objective=span --data={{lines}} --vocab_size=420 {TINY}",
        TEXTS,
        {"frequencies of tokens"},
    ),
}


@pytest.fixture(scope="module")
def files(model, data, tmp_path_factory):  # noqa: F811
    """A model and data of every kind, by the names in TASKS."""
    root, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    made = {"model": model, "data": data} | {
        name: root / name for name in ("lm", "photos", "chats.jsonl", "lines.txt")
    }
    drawn = [random.choice([*GOOD[:2], *BAD[:2], *REST], 3) for _ in range(160)]
    rows = {
        "pairs": [f"{' '.join(w)}\t{w[0]}\t{('no', 'yes')[w[0] in GOOD]}" for w in drawn],
        "labels": [
            f"{' '.join(w)}\t{','.join(['up'] * any(map(GOOD.count, w)) + ['down'] * any(map(BAD.count, w)))}"
            for w in drawn
        ],
        "numbers": [f"{' '.join(w)}\t{sum(map(GOOD.count, w))}" for w in drawn],
    }
    for name, lines in rows.items():
        header = "sentence1\tsentence2\tlabel" if name == "pairs" else "sentence\tlabel"
        made[name] = root / f"{name}.tsv"
        made[name].write_text("\n".join([header, *lines, ""]))
    for i in range(40):
        folder = made["photos"] / ("dark", "light")[i % 2] / "of today"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 100, (9, 12, 3)) + 100 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    made["lm"].mkdir()
    tiny_lm.save(made["lm"])
    tiny_lm.written(made["chats.jsonl"], tiny_lm.chats(90))
    made["lines.txt"].write_text(text(400))
    return {name.partition(".")[0]: path for name, path in made.items()}


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_the_trainers_and_one_of_the_users_own(arguments, name, files):
    task, metrics, baselines = TASKS[name]
    given = {key: arguments[key] for key in ("reference", "output", "budget", "optimizers", "learning_rates")}
    given |= {"metric": "mae"} if name == "own" else {"batch_size": 8}
    given |= {"task": task.format(**files), "seeds": 1, "extensions": 0}
    if task.startswith("pretrain"):  # whose work is charged by its depth
        timing = training.Timing(1.0, 0.0, 1)
        works = {training.Work(work, depth=1, batch=8): timing for work in ("step", "forward")}
        training.Reference(times=works, about={}).write(given["reference"])
    (code, printed, errors), again = call(given, given | {"resume": True})
    assert code == 0 == again[0], (errors, again)
    record = compare.Record.read(given["output"] / "record.json")
    assert {run.optimizer for run in record.runs} == {"sgd", "salsa"}
    assert all(run.test.keys() == {*metrics} for run in record.runs) and record.left_out == {}
    assert record.settings["metric"] == metrics[0] and record.baselines.keys() == baselines
    assert record.settings["batch_size"] == 8 and None not in record.settings.values()
    untrained = {} if task.startswith("finetune_lm") else {"untrained": {*metrics}}
    assert {control: of_seeds[0].keys() for control, of_seeds in record.controls.items()} == untrained
    best = (given["output"] / "report.md").read_text().split("because")[1]
    assert best.startswith(
        f" it has the best ({'lowest' if metrics[0] in ('mae', 'bits_per_byte') else 'highest'})"
    )
    assert "report: " in printed
