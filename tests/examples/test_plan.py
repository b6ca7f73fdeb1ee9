"""Updates are planned by the names of optimizers and models, and the table says what fits and what moves."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from examples.models import shapes
from examples.plan import make
from examples.shared.precisions import PRECISIONS
from examples.tasks import planned
from optimiz import methods
from tests.conftest import ROOT


def run(*argv):
    """The program, in a process of its own: its ``--mesh`` is not the trainers'."""
    command = [sys.executable, "-m", "examples.plan", "--target=cpu", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.long
def test_a_model_is_planned_on_this_machine_and_its_record_goes_on(tmp_path):
    for optimizers in ("adamw", "adamw,clip:sgd"):
        done = run("--model=vit-s", f"--output={tmp_path}", f"--optimizer={optimizers}")
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert [row["optimizer"] for row in record["rows"]] == ["adamw", "clip:sgd"]
    adamw, sgd = record["rows"]
    assert adamw["parameters"] == 22_050_664  # as timm counts vit_small_patch16_224
    assert adamw["arguments"]["parameters"] == 4 * 22_050_664
    assert 0 < sgd["arguments"]["state"] - 4 * 22_050_664 < 64  # the momentum, and a few scalars
    report = (tmp_path / "report.md").read_text()
    assert "22,050,664 parameters in float32" in report and "| `clip:sgd` |" in done.stdout
    refused = run("--model=vit-s", f"--output={tmp_path}", "--dtype=bfloat16")
    assert refused.returncode == 2 and "is of other settings" in refused.stderr


@pytest.mark.parametrize("name", [name for name, method in methods.METHODS.items() if not method.needs])
def test_every_method_that_needs_no_loss_is_planned_with_stacked_layers(name):
    params = shapes.structs("gpt2", "float32")
    tx = make(name)
    updates, _ = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_matrices_of_stacked_layers_are_known_as_such(name):
    state = jax.eval_shape(make(name).init, shapes.structs("gpt2", "float32"))
    paths = {jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(state)}
    if name == "soap":  # a factor for each layer, of the inputs of `up`
        assert paths["[0].factors.value[0]['layers']['up']"] == (12, 768, 768)
        assert not any("layers']['mlp_norm_scale" in path for path in paths if "factors" in path)
    else:
        assert any("muon" in path and "['up']" in path for path in paths)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("vit-b", 86_567_656),
        ("vit-l", 304_326_632),
        ("bert-base", 108_891_648),
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3-8b", 8_030_261_248),
    ],
)
def test_models_have_as_many_parameters_as_published(model, parameters):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.structs(model))) == parameters


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("vit-b", 86_567_656),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("vit-l", 304_326_632),
        ("bert-base", 108_891_648 + 2 * 768 + 2),  # and a head of two classes
        ("llama-3-8b", 8_030_261_248),
    ],
)
def test_the_step_of_a_model_trains_all_of_its_parameters(model, parameters):
    params = jax.eval_shape(planned.task(shapes.MODELS[model], 8).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
GPT2 = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_embd": 768,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}


TINY = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab_size": 100}
TINY_SIZE = 116 * 32 + 12 * 32**2 + 13 * 32 + 64


def test_a_whole_step_is_planned_with_any_optimizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    argv = [f"--model={tmp_path}/config.json", "--batch=4", "--optimizer=adamw,armijo_sgd"]
    done = run(*argv, f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert [row["optimizer"] for row in record["rows"]] == ["adamw", "armijo_sgd"]
    for row in record["rows"]:
        assert row["parameters"] == TINY_SIZE and row["arguments"]["parameters"] == 4 * TINY_SIZE
        assert row["arguments"]["batch"] == 2 * 4 * 4 * 16  # tokens and targets
        assert row["temporary"] >= 4 * 4 * 16 * 100  # the logits, at the least
    report = (tmp_path / "report.md").read_text()
    assert "of a batch of 4 at the model's full size, whose backward pass keeps all activations" in report
    assert " G | none | " in done.stdout


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_whole_step_is_planned_in_each_precision_of_the_trainers(precision, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    argv = [f"--model={tmp_path}/config.json", "--batch=4", "--optimizer=adamw", f"--output={tmp_path}"]
    done = run(*argv, f"--precision={precision}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    dtype = PRECISIONS[precision].params
    assert (record["settings"]["precision"], record["settings"]["dtype"]) == (precision, dtype.name)
    (row,) = record["rows"]
    compensation = dtype.itemsize if precision == "bfloat16_kahan" else 0
    assert row["arguments"]["parameters"] == dtype.itemsize * TINY_SIZE
    scalars = row["arguments"]["state"] - (dtype.itemsize + 4 + compensation) * TINY_SIZE  # ν is in float32
    assert 0 < scalars < 64
    report = (tmp_path / "report.md").read_text()
    assert f"parameters in {dtype.name}, on cpu" in report
    assert f"A whole step with `--precision={precision}` of a batch of 4" in report
    refused = run(*argv)
    assert refused.returncode == 2 and "is of other settings" in refused.stderr


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--precision=mixed"], "--length, --remat and --precision are of a whole step: give --batch"),
        (["--batch=4", "--dtype=bfloat16", "--precision=mixed"], "dtype=bfloat16, precision=mixed: --dtype"),
        (["--batch=4", "--dtype=float32", "--precision=bfloat16"], "precision=bfloat16: --dtype must be"),
        (["--batch=4", "--optimizer=rounded:adamw", "--precision=bfloat16"], "a --precision rounds by itself"),
    ],
)
def test_a_precision_without_a_step_or_of_another_dtype_is_refused_in_one_line(argv, named, tmp_path):
    refused = run(*argv, f"--output={tmp_path}/plan")
    assert refused.returncode == 2 and named in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "plan").exists()


def test_a_length_of_images_is_refused():
    with pytest.raises(ValueError, match="length is of a text, and a ViT reads images; got 16"):
        planned.task(shapes.MODELS["vit-s"], 8, 16)


GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "vocab_size": 50,
    "max_position_embeddings": 12,
}


def traced(config, path, dtype=jnp.float32, key=None):
    """How many parameters a model has beyond the shapes of its configuration; its step is traced as well."""
    path.write_text(json.dumps(config))
    task = planned.task(shapes.configuration(str(path)), 2, dtype=dtype, remat="layers")
    params, batch = jax.eval_shape(task.init, jax.random.key(0)), task.batches(0)
    losses = jax.eval_shape(task.loss, params, batch, key)
    assert (losses.shape, losses.dtype, batch["ids_BT"].shape) == ((2,), jnp.float32, (2, 12))
    sizes = (sum(leaf.size for leaf in jax.tree.leaves(each)) for each in (params, shapes.structs(str(path))))
    return next(sizes) - next(sizes)


def test_the_step_of_any_llama_is_traced_and_its_shapes_are_those_of_the_model(tmp_path):
    path = tmp_path / "config.json"
    assert traced(GEMMA, path, jnp.bfloat16) == 0
    stacked = shapes.structs(str(path), jnp.bfloat16)
    layer = stacked["layers"]
    assert layer["query"].shape == (3, 16, 32) and layer["down"].shape == (3, 24, 16)
    assert layer["query_norm"].shape == (3, 8) and layer["mlp_post_norm"].shape == (3, 16)
    assert set(stacked) == {"embedding", "layers", "norm"}


BERT = {
    "model_type": "bert",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 30522,
}
ROBERTA = {
    "model_type": "roberta",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 50,
    "max_position_embeddings": 14,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}


def test_the_step_of_any_bert_is_traced_and_its_shapes_are_those_of_the_model(tmp_path):
    path = tmp_path / "config.json"
    assert traced(ROBERTA, path, key=jax.random.key(0)) == 2 * 16 + 2  # a head
    model, stacked = shapes.configuration(str(path)), shapes.structs(str(path))
    assert stacked["layers"]["up"].shape == (3, 16, 24) and stacked["layers"]["mlp_norm_scale"].shape == (3, 16)
    with pytest.raises(ValueError, match="length=13: the model reads at most 12 tokens"):
        planned.task(model, 2, 13)


@pytest.mark.parametrize("name", ["muon", "soap", "adam_mini"])
def test_methods_that_know_matrices_take_the_layers_of_a_bert(name):
    params = shapes.structs("bert-base")
    state = jax.eval_shape(make(name).init, params)
    assert jax.tree.leaves(state)


@pytest.mark.parametrize(("config", "model"), [(BERT, "bert-base"), (LLAMA, "llama-3-8b"), (GPT2, "gpt2")])
def test_a_configuration_of_hugging_face_is_read(config, model, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert shapes.configuration(str(path)) == shapes.MODELS[model]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "model_type must be one of llama, mistral, .*, vit, bert, .*, got 'mamba'"),
        ({"model_type": "gpt2"}, "there is no 'n_embd'"),
        ({**LLAMA, "sliding_window": 8}, "sliding_window is not known of a llama, and may change the model"),
        ({**GPT2, "n_inner": 1000}, "n_inner must be four times n_embd, got 1000"),
        ([], "config.json"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused(config, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        shapes.configuration(str(path))


def test_matrices_are_split_where_they_divide():
    params = {
        "embedding": jax.ShapeDtypeStruct((50257, 768), jnp.float32),
        "kernel": jax.ShapeDtypeStruct((12, 768, 3072), jnp.float32),
        "bias": jax.ShapeDtypeStruct((12, 768), jnp.float32),
    }
    specs = shapes.partition({"data": 4, "model": 4})(params)
    assert specs == {"embedding": P(None, "model"), "kernel": P(None, "data", "model"), "bias": P(None, None)}
