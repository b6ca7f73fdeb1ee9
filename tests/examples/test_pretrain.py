"""Pre-training at toy size, from text to a model that is read back, and what it refuses."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from examples import pretrain
from examples.data import corpus, tokenization
from examples.data.tokenization import Vocabulary
from examples.models import families, pretrained, weights
from examples.models.remat import REMAT
from examples.shared import command, signals
from examples.tasks.objectives import OBJECTIVES, Size
from examples.tasks.pretraining import Pretraining
from optimiz import compare, training
from tests.examples.layouts import losses, trained

SIZE = Size(layers=1, hidden_size=16, heads=2, length=16, dropout=0.0)
SIZES = {"causal": 300, "masked": 60, "span": 420}


def text(lines):
    random = np.random.default_rng(0)
    names = ["alpha", "beta", "gamma", "delta"]
    return "".join(f"def {random.choice(names)}({random.choice(names)}): pass\n" for _ in range(lines))


@pytest.fixture(scope="module")
def problems():
    """The problem of each objective, on a little text."""
    made = {}
    corpora = corpus.split(corpus.Corpus((text(400),), "names"), {"train": 0.8, "validation": 0.1, "test": 0.1})
    for objective, size in SIZES.items():
        algorithm = "wordpiece" if objective == "masked" else "bpe"
        tokenizer = tokenization.train(corpora["train"].documents, algorithm, size, objective)
        vocabulary = tokenization.vocabulary(tokenizer, objective)
        made[objective] = Pretraining(corpora, vocabulary, OBJECTIVES[objective](vocabulary, SIZE))
    return made


@pytest.fixture(params=OBJECTIVES)
def problem(request, problems):
    return problems[request.param]


def drawn(problem):
    """Random parameters."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(problem.task(2, 0).init, jax.random.key(0))
    return jax.tree.map(lambda p: np.float32(random.normal(0, 0.1, p.shape)), shapes)


@pytest.mark.quick(1)
def test_losses_are_the_cross_entropy_of_the_targets(problem):
    task = problem.task(batch_size=2, seed=0)
    params, batch = drawn(problem), task.batches(0)
    losses, logits_BPV = jax.jit(lambda p, b: (task.loss(p, b, None), task.logits(p, b, None)))(params, batch)
    assert logits_BPV.shape == (*batch["targets"].shape, problem.objective.config.vocab_size)
    expected = [
        np.mean([np.log(np.exp(z).sum()) - z[t] for z, t in zip(row, targets, strict=True)])
        for row, targets in zip(np.asarray(logits_BPV, np.float64), batch["targets"], strict=True)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_what_the_model_is_asked(problems):
    batch = problems["causal"].task(2, 0).batches(0)
    np.testing.assert_array_equal(batch["ids_BT"][:, 1:], batch["targets"][:, :-1])
    batch = problems["masked"].task(2, 0).batches(0)
    assert (batch["ids_BT"][:, 0] == 2).all() and (batch["ids_BT"][:, -1] == 3).all()
    assert batch["ids_BT"].shape == (2, 16) and batch["targets"].shape == (2, 2)
    batch = problems["span"].task(2, 0).batches(0)
    np.testing.assert_array_equal(batch["answer_BT"][:, 1:], batch["targets"][:, :-1])
    assert (batch["answer_BT"][:, 0] == 0).all() and batch["ids_BS"].shape[1] <= 16


@pytest.mark.parametrize(("objective", "name"), [("masked", "positions_BP"), ("span", "ids_BS")])
def test_another_step_hides_other_tokens(problems, objective, name):
    rows = np.random.default_rng(0).integers(5, 50, (8, 40)).astype(np.int32)
    first, second = (problems[objective].objective.batch(rows, 0, step)[name] for step in (0, 1))
    assert first.shape == second.shape and not np.array_equal(first, second)


def test_the_shares_of_processes_are_the_batch(problem):
    whole = problem.task(4, seed=0).batches(3)
    shares = [problem.task(4, seed=0, share=(i, 2)).batches(3) for i in range(2)]
    for name, rows in whole.items():
        np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), rows)


@pytest.mark.quick(1)
def test_the_parameters_tell_how_deep_the_model_is(problem):
    task, shallow = problem.task(2, 0), drawn(problem)
    deep = training.Growth(depths=(1, 2), at=(0.5,)).stack.doubled(shallow)
    assert (task.depth(shallow), task.depth(deep)) == (1, 2)
    begun = jax.eval_shape(lambda: problem.start(jax.random.key(0), layers=2))
    assert jax.tree.structure(deep) == jax.tree.structure(begun)
    losses = jax.jit(lambda params, on: task.loss(params, task.batches(0), None, on))
    # The copy is off: what is left is the shallow model.
    skipped, expected = losses(deep, np.array([True, False])), losses(shallow, None)
    np.testing.assert_allclose(skipped, expected, rtol=1e-5)
    assert not np.allclose(losses(deep, np.array([True, True])), expected)


def test_every_row_has_an_id_and_comes_once(problems):
    problem = problems["masked"]
    rows, ids = np.pad(problem.rows["train"], ((0, 0), (1, 1))), []  # where start and end are put
    batch = problem.task(4, seed=0).batches(3)
    hidden = np.take_along_axis(batch["ids_BT"], batch["positions_BP"], 1)
    assert (np.take_along_axis(rows[batch["id"]], batch["positions_BP"], 1) == batch["targets"]).all()
    assert not np.array_equal(hidden, batch["targets"])
    for batch in problem.once("train", seed=0):
        told = np.take_along_axis(rows[batch["id"]], batch["positions_BP"], axis=1)
        np.testing.assert_array_equal(told, batch["targets"])
        ids += batch["id"][batch["weight"] == 1].tolist()
    assert ids == list(range(len(rows)))


def test_bits_per_byte_of_a_guess(problems):
    # Of byte pairs nothing is lost: the bits of all tokens over the bytes of the text.
    problem = problems["causal"]
    rows = problem.rows["validation"]
    vocabulary = problem.objective.config.vocab_size
    written = len(problem.vocabulary.tokenizer.decode(rows[:, 1:].ravel().tolist()).encode())
    expected = rows[:, 1:].size * math.log2(vocabulary) / written
    silent = jax.tree.map(np.zeros_like, drawn(problem))
    metrics = problem.evaluation("validation")(silent)
    assert metrics["loss"] == pytest.approx(math.log(vocabulary), rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(expected, rel=0.05)
    assert metrics["perplexity"] == pytest.approx(vocabulary, rel=1e-4)


def test_frequencies_beat_a_uniform_guess(problem):
    for metrics in problem.frequencies().values():
        assert 0 < metrics["loss"] < math.log(problem.objective.config.vocab_size)


def test_what_is_saved_is_read(problem, tmp_path):
    params = drawn(problem)
    problem.save(tmp_path / "model", params)
    config, again = weights.load(tmp_path / "model", problem.objective.family)
    assert config == problem.objective.config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert tokenization.load(tmp_path / "model/tokenizer.json").get_vocab_size() <= config.vocab_size


def test_a_sample_follows_the_model(problems):
    problem = problems["causal"]
    tokenizer, size = problem.vocabulary.tokenizer, problem.objective.config.hidden_size
    silent = jax.tree.map(np.zeros_like, drawn(problem))
    silent["norm"]["bias"] += 1

    def always(text):
        """A model that is sure of one token."""
        (token,) = tokenizer.encode(text).ids
        word = np.zeros_like(silent["embeddings"]["word"]["embedding"])
        word[token] = 100 / size
        return silent | {"embeddings": silent["embeddings"] | {"word": {"embedding": word}}}

    assert problem.sample(always("x")) == ["x" * (SIZE.length - 1)]
    assert problem.sample(always("<|endoftext|>")) == []
    assert problem.sample(always("\n")) == []


def test_a_short_part_is_named(problems):
    parts = {"train": corpus.Corpus(("def",), "three letters")}
    problem = problems["causal"]
    with pytest.raises(
        ValueError, match=r"three letters, part 'train': the text must have the 17 tokens of a row"
    ):
        Pretraining(parts, problem.vocabulary, OBJECTIVES["causal"](problem.vocabulary, SIZE))


def test_dropout_is_everywhere(problems):
    size = dataclasses.replace(SIZE, dropout=0.5)
    for objective, problem in problems.items():
        config = OBJECTIVES[objective](problem.vocabulary, size).config
        rates = [value for name, value in vars(config).items() if name.endswith("dropout")]
        assert rates and set(rates) == {0.5}


def test_layers_of_every_objective_are_computed_again_if_asked(problems):
    for objective, problem in problems.items():
        for remat in REMAT:
            size = dataclasses.replace(SIZE, remat=remat)
            assert OBJECTIVES[objective](problem.vocabulary, size).config.remat == remat


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "text.txt").write_text(text(400))
    given = {"data": tmp_path / "text.txt", "output": tmp_path / "out", "steps": 4, "length": 16, "layers": 1}
    return given | {"hidden_size": 16, "heads": 2, "batch_size": 4, "vocab_size": 300, "evaluate_every": 2}


def call(arguments):
    """The trainer, in this process."""
    with flagsaver.flagsaver():
        command.parse(["pretrain", *(f"--{name}={value}" for name, value in arguments.items())], pretrain.FLAGS)
        command.guarded(pretrain.main)


def test_the_run_its_report_its_sample_and_its_model(arguments, capsys):
    call(arguments | {"optimizer": "sophia_g"})
    (run,) = compare.Record.read(arguments["output"] / "record.json").runs
    assert run.optimizer == "sophia_g" and run.test.keys() == {"loss", "perplexity", "bits_per_byte"}
    assert run.validation("bits_per_byte")[0] == [2, 4]
    config, _ = weights.load(arguments["output"] / "sophia_g/model", families.GPT2)
    assert (config.layers, config.hidden_size, config.max_positions) == (1, 16, 16)
    shown = capsys.readouterr().out
    assert "shares of the text: 90.0% train, 5.0% validation, 5.0% test" in shown
    assert "validation bits_per_byte" in shown and "sophia_g writes" in shown
    assert (arguments["output"] / "report.md").read_text().startswith("# Pre-training (causal) with sophia_g")


@pytest.mark.long
def test_what_a_report_can_do_without_is_left_out_with_the_reason(arguments, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no")

    for name in ("frequencies", "sample"):
        monkeypatch.setattr(Pretraining, name, fails)
    call(arguments | {"optimizer": "sophia_g"})
    report = (arguments["output"] / "report.md").read_text()
    assert "baseline of frequencies is left out: RuntimeError: no" in report
    assert "sample of sophia_g is left out: RuntimeError: no" in report


@pytest.mark.long
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_learns(arguments, objective):
    given = {
        "objective": objective,
        "steps": 400,
        "batch_size": 16,
        "hidden_size": 64,
        "vocab_size": 450,
        "evaluate_every": 50,
    }
    arguments["data"].write_text(text(4_000))  # a twentieth of less holds a handful of targets
    arguments["length"] = 19  # a row of 16 is two lines, whose places would be learned in place of their words
    call(arguments | given)
    record = compare.Record.read(arguments["output"] / "record.json")
    guess = record.baselines["frequencies of tokens"]["test"]["bits_per_byte"]
    assert record.runs[0].test["bits_per_byte"] < 0.8 * guess


@pytest.mark.long
def test_a_masked_model_is_fine_tuned_at_once(arguments, monkeypatch, tmp_path):
    asked = []
    monkeypatch.chdir(tmp_path)
    rows = [f"sentence {i} of {kind}\t{kind}\n" for i in range(60) for kind in ("ham", "spam")]
    (tmp_path / "a b.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    monkeypatch.setattr(signals, "replace_process", lambda *command: asked.append(list(command)))
    call(arguments | {"objective": "masked", "downstream": "--steps=3 --data='a b.tsv'"})
    model, output = arguments["output"] / "adamw/model", arguments["output"] / "downstream"
    expected = ["-m", "examples.finetune_text", f"--model={model}", f"--output={output}", "--steps=3"]
    assert asked == [[*expected, "--data=a b.tsv"]]
    config, _ = pretrained.load_encoder(model)
    tokenizer = pretrained.load_tokenizer(model, config)
    arrays, cut = pretrained.encode(tokenizer, ["def alpha"], None, 8)
    assert cut == 0 and arrays["ids_BT"][0, 0] == 2


@pytest.mark.long
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_mesh_and_two_processes_have_the_losses_of_one_device(arguments, tmp_path, objective):
    del arguments["output"]
    one, *others = trained(
        "pretrain", arguments | {"objective": objective, "vocab_size": 450}, tmp_path, devices=4
    )
    for output in others:
        assert losses(output) == pytest.approx(losses(one), abs=1e-5)
        assert (output / "adamw/model/model.safetensors").exists()


@pytest.mark.long
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("optimizer", ["sophia_g", "sophia_h"])
def test_curvature_is_measured(arguments, objective, optimizer):
    call(
        arguments
        | {
            "objective": objective,
            "optimizer": optimizer,
            "learning_rate": 1e-3,
            "steps": 20,
            "vocab_size": 450,
        }
    )
    losses = compare.Record.read(arguments["output"] / "record.json").runs[0].training_loss()[1]
    assert len(losses) == 20 and np.mean(losses[-5:]) < losses[0]


@pytest.mark.long
def test_from_text_to_the_accuracy_of_a_task_in_one_command(arguments):
    data = arguments["data"].with_name("names.tsv")
    lines = [f"def {name}({name}): pass {i}\t{name}" for i in range(60) for name in ("alpha", "beta")]
    data.write_text("\n".join(["text\tlabel", *lines]))
    downstream = f"--data={data} --length=16 --steps=3 --optimizer=adamw --batch_size=8"
    with pytest.raises(SystemExit) as exit:
        call(arguments | {"objective": "masked", "downstream": downstream})
    assert exit.value.code == 0
    fine_tuned = compare.Record.read(arguments["output"] / "downstream/record.json")
    assert fine_tuned.task["model"] == str(arguments["output"] / "adamw/model")
    (run,) = fine_tuned.runs
    assert run.steps == 3 and 0 <= run.test["accuracy"] <= 1
    # Before the first update the task's loss is that of a new head, whatever was pre-trained; not after.
    losses = run.training_loss()[1]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5) and losses[-1] != losses[0]


@pytest.mark.long
@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_a_finished_run_is_read_back(arguments, objective):
    arguments |= {"objective": objective}
    call(arguments)
    path = Path(arguments["output"]) / "record.json"
    before = json.loads(path.read_text())["runs"][0]["test"]
    call(arguments | {"resume": True})
    assert json.loads(path.read_text())["runs"][0]["test"] == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere"}, "nowhere: no such file or folder"),
        ({"vocab_size": 200}, "vocab_size must be at least 257 for bpe and causal, got 200"),
        ({"tokenizer": "unigram"}, "unigram: no such file; tokenizer must be 'bpe', 'wordpiece' or a file"),
        ({"heads": 3}, "flags hidden_size=16, heads=3: --heads must divide --hidden_size"),
        ({"length": 4}, "flag --length=4"),
        ({"length": 4096}, "part 'train': the text must have the 4097 tokens of a row, got "),
        ({"objective": "prefix"}, "flag --objective=prefix"),
        ({"optimizer": "sofia"}, "optimizer 'sofia' is unknown: did you mean soap or sophia_g"),
        ({"objective": "masked", "downstream": "--stepz=3"}, "downstream: Unknown command line flag 'stepz'"),
        ({"objective": "masked", "downstream": "--model=x"}, "--model is the one that is pre-trained here"),
        ({"objective": "masked", "downstream": "--output=/"}, "downstream: --output=/ is not empty; choose"),
        ({"objective": "masked", "downstream": "--steps=0"}, "downstream: flag --steps=0"),
        ({"objective": "masked", "downstream": "a.tsv"}, "downstream: flags must begin with --, got a.tsv"),
        ({"downstream": ""}, "--downstream needs --objective=masked, whose model is an encoder"),
        ({"dropout": 1.0}, "flag --dropout=1.0: must be in [0, 1)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, capsys, changes, message):
    refused(arguments | changes, capsys, message)


def test_a_vocabulary_smaller_than_the_ids(arguments, capsys):
    path = arguments["data"].with_name("tokenizer.json")
    tokenization.train([text(400)], "bpe", 300, "causal").save(str(path))
    changes = {"tokenizer": path, "vocab_size": 270}
    highest = tokenization.load(path).get_vocab_size() - 1
    refused(arguments | changes, capsys, f"the tokenizer gives ids up to {highest}, but vocab_size is 270")


def refused(arguments, capsys, message):
    """One line says what is wrong, and nothing is written."""
    with pytest.raises(SystemExit) as exit:
        call(arguments)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and exit.value.code == command.EXIT_USAGE
    assert not arguments["output"].exists()


def test_more_spans_than_sentinels_are_refused(problems):
    """Their ids would be those of words."""
    size = dataclasses.replace(SIZE, length=2048)
    with pytest.raises(ValueError, match=r"length 2048 means 1\d\d spans per row, but there are 100 sentinels"):
        OBJECTIVES["span"](problems["span"].vocabulary, size)
    OBJECTIVES["span"](problems["span"].vocabulary, dataclasses.replace(SIZE, length=1024))


def test_a_text_without_spaces_is_one_unknown_word_to_word_pieces(problems):
    vocabulary = problems["masked"].vocabulary
    parts = {"train": corpus.Corpus(("x" * 5000,), "letters")}
    with pytest.raises(
        ValueError, match=r"letters, part 'train': .*; 50% of the tokens are unknown to the tokeni"
    ):
        Pretraining(parts, vocabulary, OBJECTIVES["masked"](vocabulary, SIZE))


def test_words_that_the_tokenizer_does_not_know_are_counted(problems):
    vocabulary = problems["masked"].vocabulary
    parts = {name: corpus.Corpus(("def " * 30 + "\U0001d55d " * 10,), "words") for name in ("train", "test")}
    problem = Pretraining(parts, vocabulary, OBJECTIVES["masked"](vocabulary, SIZE))
    assert problem.unknown == pytest.approx(10 / 41)
    assert (
        Pretraining(
            {"train": corpus.Corpus((text(20),), "names")}, vocabulary, OBJECTIVES["masked"](vocabulary, SIZE)
        ).unknown
        == 0
    )


@pytest.mark.parametrize("objective", ["causal", "masked", "span"])
def test_a_model_that_no_machine_has_room_for_is_refused(objective):
    """Before its text is tokenised, and without making it."""
    ids = dict.fromkeys(("pad", "unknown", "start", "end", "mask"), 0)
    vocabulary = Vocabulary(None, 4096, ids, ())
    size = Size(layers=1000, hidden_size=2**16, heads=64, length=128, dropout=0.0)
    number = r"\d{2,3}(,\d{3}){4}"
    with pytest.raises(ValueError, match=f"parameters and gradients of a model of {number} would take"):
        Pretraining({"train": None}, vocabulary, OBJECTIVES[objective](vocabulary, size))
