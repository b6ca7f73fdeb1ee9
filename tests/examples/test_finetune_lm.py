"""Fine-tuning of a language model: its losses do not depend on packing, and its runs keep what is promised."""

import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from safetensors.numpy import load_file

from examples import finetune_lm, generate
from examples.data import prompts
from examples.data.corpus import Corpus
from examples.models import families, lora
from examples.models.lora import Lora
from examples.shared import command
from examples.tasks.language_modeling import LanguageModeling
from optimiz import compare, training
from optimiz.training import micro_batches
from tests.examples import golden, tiny_lm
from tests.examples.layouts import losses, trained

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_lm.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_lm.written(tmp_path_factory.mktemp("data") / "chats.jsonl", tiny_lm.chats(90))


@pytest.fixture
def arguments(model, data, tmp_path):
    given = {"model": model, "data": data, "output": tmp_path / "out", "length": 96, "steps": 4}
    return given | {"batch_size": 4, "evaluate_every": 2, "lora_rank": 2}


def call(arguments, program=finetune_lm):
    """The trainer, or another program, in this process."""
    with flagsaver.flagsaver():
        argv = ["program", *(f"--{name}={value}" for name, value in arguments.items())]
        command.parse(argv, program.FLAGS)
        command.guarded(program.main)


def parts_of(data):
    parts, _ = prompts.read_parts(str(data), {"validation": None, "test": None}, template())
    return parts


def template():
    return prompts.ChatTemplate("t", finetune_lm.chat_template.compiled(tiny_lm.TEMPLATE, "t"), {})


def test_packed_losses_are_those_of_each_text_alone(model, data):
    parts = parts_of(data)
    packed, alone = (LanguageModeling(parts, model, lora=None, pack=pack) for pack in (True, False))
    assert packed.length == 96 > alone.length  # the most that the model reads, and what the texts need
    assert len(packed.rows["test"]["weight"]) < len(alone.rows["test"]["weight"])
    params = packed.task(4, 0).init(None)
    found, expected = (problem.evaluation("train")(params) for problem in (packed, alone))
    assert found == pytest.approx(expected, rel=1e-5)
    # And that is what the model itself says of each text, read on its own.
    apply = golden.apply_of(families.GPT2, packed._config)
    nats, count = 0.0, 0
    rows = alone.rows["train"]
    logits = np.asarray(apply(params, rows["ids_BT"]), np.float64)
    for row in range(len(rows["weight"])):
        for token in np.flatnonzero(rows["targets"][row] >= 0):
            scores = logits[row, token]
            nats += (
                np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[rows["targets"][row, token]]
            )
            count += 1
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5) and count == rows["weight"].sum()
    said = sum(len(row["messages"][1]["content"]) for row in tiny_lm.chats(90))
    sizes = sum(of_part.sum() for of_part in packed._bytes.values())
    assert sizes == said and found["bits_per_byte"] > 0


def test_a_llama_reads_packed_rows_as_each_text_alone_and_has_the_adapters_of_peft(tmp_path, data):
    model, parts = tiny_lm.save(tmp_path, "llama"), parts_of(data)
    adapters = Lora(2, 4.0, ("q_proj", "v_proj"))
    packed, alone = (LanguageModeling(parts, model, lora=adapters, pack=pack) for pack in (True, False))
    params = jax.tree.map(
        lambda p: 0.1 * np.cos(np.arange(p.size).reshape(p.shape)), packed.task(2, 0).init(KEY)
    )
    found, expected = (problem.evaluation("train")(params) for problem in (packed, alone))
    assert found == pytest.approx(expected, rel=1e-5) and found != packed.untuned()["test"]
    packed.save(tmp_path / "saved", params, name="x")
    described = json.loads((tmp_path / "adapter" / lora.CONFIG).read_text())
    assert described["target_modules"] == ["self_attn.q_proj", "self_attn.v_proj"]
    assert not described["fan_in_fan_out"] and described["rank_pattern"] == {}
    tensors = load_file(tmp_path / "adapter" / lora.WEIGHTS)
    assert tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"].shape == (8, 2)
    merged = LanguageModeling(parts, tmp_path / "saved")
    assert merged.evaluation("train")(merged.task(2, 0).init(KEY)) == pytest.approx(found, rel=1e-4)


def test_a_batch_is_the_mean_over_its_tokens(model, data):
    problem = LanguageModeling(parts_of(data), model, lora=None)
    task = problem.task(2, 0)
    params = task.init(None)
    batch = next(b for b in map(task.batches, range(9)) if b["weight"][0] != b["weight"][1])
    both = training.mean_loss(jax.jit(task.loss)(params, batch, None), batch)
    logits, weights_BT = jax.jit(task.logits)(params, batch, None)
    nats = -np.take_along_axis(jax.nn.log_softmax(logits), np.maximum(batch["targets"], 0)[..., None], -1)[
        ..., 0
    ]
    assert float(both) == pytest.approx(float((nats * weights_BT).sum() / weights_BT.sum()), rel=1e-5)
    assert weights_BT.sum() == batch["weight"].sum()
    # So it is in micro-batches, of which each has its own number of tokens.
    in_parts = micro_batches.value(task.loss, params, batch, KEY, 2)
    assert float(in_parts) == pytest.approx(float(both), rel=1e-6)


def test_the_run_its_report_its_model_and_its_adapter(arguments, model, capsys):
    call(arguments | {"lora_ratio": 4})
    out = arguments["output"]
    (run,) = compare.Record.read(out / "record.json").runs
    assert run.test.keys() == {"loss", "perplexity", "bits_per_byte"} and run.validation("loss")[0] == [2, 4]
    shown = capsys.readouterr().out
    assert "conversations: " in shown and "in adapters" in shown
    # Moments for adapters alone: 8 bytes for each of their parameters.
    assert run.state_bytes_per_parameter == pytest.approx(8, abs=0.1)
    adapters = load_file(out / "adamw/adapter" / lora.WEIGHTS)
    assert any(tensor.any() for name, tensor in adapters.items() if "lora_B" in name)
    described = json.loads((out / "adamw/adapter" / lora.CONFIG).read_text())
    assert (
        described["r"] == 2
        and described["lora_alpha"] == 4
        and str(model) == described["base_model_name_or_path"]
    )
    merged, before = (load_file(folder / "model.safetensors") for folder in (out / "adamw/model", model))
    changed = {name for name in before if not np.array_equal(merged[name], before[name])}
    assert changed == {name for name in before if ".c_" in name and name.endswith("weight")}
    # The merged model is one to fine-tune again, and as good as the one with adapters was.
    again = LanguageModeling(parts_of(arguments["data"]), out / "adamw/model", length=96)
    assert again.untuned()["test"]["loss"] == pytest.approx(run.test["loss"], rel=1e-4)
    assert (out / "adamw/model/tokenizer_config.json").exists()
    # Of another model, or at another scale, the adapters would be other functions.
    others = {"frozen parameters": {"model": out / "adamw/model"}, "scales of adapters": {"lora_alpha": 8}}
    for words, change in others.items():
        with pytest.raises(SystemExit):
            call(arguments | change | {"init": out / "adamw", "output": out.with_name("further")})
        assert f"adamw: its {words} are not those of this run" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_is_resumed_to_the_bit(arguments, tmp_path):
    call(arguments)
    other = arguments | {"output": tmp_path / "other"}
    call(other | {"save_every": 2})
    for entry in (tmp_path / "other/adamw/checkpoints").iterdir():
        if entry.name == "000000004":
            for file in sorted(entry.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            entry.rmdir()
    call(other | {"save_every": 2, "resume": True})
    one, two = (
        load_file(folder / "adamw/adapter" / lora.WEIGHTS)
        for folder in (arguments["output"], tmp_path / "other")
    )
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.long
@pytest.mark.parametrize(
    "optimizer", ["sgd_sai", "lion", "salsa", "sophia_g", "adam_mini", "schedule_free_adamw", "prodigy"]
)
def test_it_learns_with_any_method(arguments, optimizer):
    rate = {} if optimizer == "salsa" else {"learning_rate": {"prodigy": 1.0}.get(optimizer, 0.03)}
    call(
        arguments
        | rate
        | {"optimizer": optimizer, "steps": 40, "lora_rank": 4, "lora_alpha": 32, "weight_decay": 0}
    )
    losses = compare.Record.read(arguments["output"] / "record.json").runs[0].training_loss()[1]
    assert np.mean(losses[-5:]) < losses[0] - 0.1  # beside a random model that stays


@pytest.mark.long
def test_the_whole_model_learns_documents_and_remat_changes_nothing(arguments, tmp_path):
    (tmp_path / "books").mkdir()
    for i in range(200):
        word = tiny_lm.WORDS[i % 3]
        (tmp_path / f"books/{i}.txt").write_text(f"{i}: {word} please, say {word}! " * 6)
    given = arguments | {"data": tmp_path / "books", "lora_rank": 0, "learning_rate": 0.01, "steps": 40}
    call(given)
    record = compare.Record.read(arguments["output"] / "record.json")
    assert record.runs[0].test["loss"] < 0.7 * record.baselines["the model as it was"]["test"]["loss"]
    assert not (arguments["output"] / "adamw/adapter").exists()
    call(given | {"output": tmp_path / "remat", "remat": "layers"})
    assert losses(tmp_path / "remat") == pytest.approx(losses(arguments["output"]), rel=1e-4)


@pytest.mark.long
def test_the_model_below_adapters_may_have_fewer_bits(arguments):
    call(
        arguments | {"precision": "mixed", "learning_rate": 0.03, "steps": 40, "lora_rank": 4, "lora_alpha": 32}
    )
    losses = compare.Record.read(arguments["output"] / "record.json").runs[0].training_loss()[1]
    assert np.mean(losses[-5:]) < losses[0] - 0.1  # beside a random model that stays
    tensors = load_file(arguments["output"] / "adamw/adapter" / lora.WEIGHTS)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}


@pytest.mark.long
def test_a_mesh_and_two_processes_have_the_losses_of_one_device(arguments, tmp_path):
    del arguments["output"]
    one, *others = trained("finetune_lm", arguments, tmp_path, devices=4)
    for output in others:
        assert losses(output) == pytest.approx(losses(one), abs=1e-5)
        assert (output / "adamw/adapter" / lora.WEIGHTS).exists()


@pytest.mark.long
def test_without_a_model_one_is_pre_trained(arguments, monkeypatch):
    given = (
        "--vocab_size=300",
        "--steps=2",
        "--layers=1",
        "--hidden_size=16",
        "--heads=2",
        "--evaluate_every=0",
    )
    monkeypatch.setattr(finetune_lm, "_OWN_MODEL", given)
    monkeypatch.setattr(
        finetune_lm.pretrain.corpus, "standard_library", lambda: Corpus(("import red\n" * 9000,), "a")
    )
    arguments = {name: value for name, value in arguments.items() if name not in ("model", "data", "length")}
    call(arguments | {"steps": 2})
    record = compare.Record.read(arguments["output"] / "record.json")
    assert record.task["model"] == "a GPT-2 of Python's library" and "docstrings" in record.task["data"]
    call(arguments | {"steps": 2, "resume": True})  # nothing is pre-trained again


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"model": "/nowhere"}, "model must be a directory or a Hub repository, got '/nowhere'"),
        ({"length": 97}, "length=97: the model reads at most 96 tokens"),
        ({"length": 8}, "chats.jsonl:"),
        (
            {"lora_targets": "q_proj"},
            "'q_proj' is no linear map of the model; there are all-linear, attention/key",
        ),
        ({"lora_rank": 0, "lora_alpha": 2}, "--lora_rank=0 trains the whole model, which has no adapters"),
        ({"lora_ratio": 0}, "flag --lora_ratio=0.0: must be above 0"),
        ({"lora_ratio": 2, "optimizer": "armijo_sgd"}, "--lora_ratio needs an optimizer that takes a rate"),
        ({"optimizer": "adamv"}, "optimizer 'adamv' is unknown: did you mean adam"),
        (
            {"optimizer": "adamw,muon", "model": "/nowhere"},
            "muon does not train adapters: give another optimizer",
        ),
        (
            {"lora_rank": 0, "freeze": "encoder"},
            "--freeze=encoder: the head is the table of embeddings; name parts, such as ^layers/",
        ),
        ({"dropout": 1}, "flag --dropout=1.0: must be in [0, 1)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, capsys, changes, message):
    with pytest.raises(SystemExit) as exit:
        call(arguments | changes)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and exit.value.code == command.EXIT_USAGE
    assert not arguments["output"].exists()


def test_the_type_of_a_model_is_checked_before_its_template(arguments, capsys):
    for program in (finetune_lm, generate):
        given = {"model": golden.GOLDEN / "bert_tiny", "data": arguments["data"], "output": arguments["output"]}
        with pytest.raises(SystemExit):
            call(given, program)
        assert "bert_tiny/config.json: model_type must be one of ['gpt2', " in capsys.readouterr().err


def changed(model, directory, **keys):
    directory.mkdir()
    for file in model.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return directory


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": "bert"}, r"config.json: model_type must be one of \['gpt2'"),
        ({"model_type": ["gpt2"]}, r"config.json: model_type must be one of"),
        ({"eos_token_id": 999}, r"config.json: eos_token_id must be an id below \d+, got 999"),
        ({"eos_token_id": None}, "config.json has no eos_token_id, with which texts are to end"),
    ],
)
def test_a_model_that_does_not_fit(model, tmp_path, keys, message):
    rows = [prompts.Prompt("a b", ((1, 3),), "a", 2, "a:1", is_whole=False)]
    with pytest.raises(ValueError, match=message):
        LanguageModeling({"train": prompts.Prompts(tuple(rows), "a")}, changed(model, tmp_path / "m", **keys))


def test_without_a_lora_there_is_nothing_frozen(model, data):
    parts = parts_of(data)
    assert LanguageModeling(parts, model).task(2, 0).frozen is None
    task = LanguageModeling(parts, model, lora=Lora(1, 1.0)).task(2, 0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes)} == {"lora_a", "lora_b"}


@pytest.mark.long
def test_mixed_precision_and_micro_batches_train_the_same_adapters(arguments, tmp_path):
    """The frozen model is in bfloat16 then, and a part of a batch has its own number of tokens."""
    found = []
    for more in ({}, {"accumulate": 2}, {"accumulate": 2, "precision": "mixed"}):
        output = tmp_path / str(len(found))
        call(arguments | more | {"output": output})
        found.append(losses(output))
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=2e-2) and found[2] != found[1]
