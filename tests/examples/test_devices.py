"""The whole step of every trainer, as its command line makes it, compiles for a TPU and a GPU."""

import importlib.util

import pytest
from absl.testing import flagsaver

from examples import finetune_image, finetune_lm, finetune_text, pretrain
from examples.shared import command, train_each
from optimiz import plan
from tests.examples import test_finetune_lm, test_finetune_text
from tests.examples.test_pretrain import SIZES, text

TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
GPU = pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu")
TARGETS = ["cpu", pytest.param("v5e", marks=TPU), pytest.param("h200", marks=GPU)]

language_model, chats = test_finetune_lm.model, test_finetune_lm.data
encoder, sentences = test_finetune_text.model, test_finetune_text.data


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, language_model, chats, encoder, sentences):
    """Name → the trainer, and the arguments of a small run of it."""
    lines = tmp_path_factory.mktemp("text") / "names.txt"
    lines.write_text(text(400))
    tiny = {"data": lines, "layers": 1, "hidden_size": 16, "heads": 2, "length": 16}
    language = {"model": language_model, "data": chats, "length": 96}
    return {
        "encoder": (finetune_text, {"model": encoder, "data": sentences, "length": 12}),
        "resnet": (finetune_image, {}),
        "vit": (finetune_image, {"model": "vit"}),
        **{name: (pretrain, {**tiny, "objective": name, "vocab_size": SIZES[name]}) for name in SIZES},
        "language model": (finetune_lm, language),
        "adapters": (finetune_lm, language | {"lora_rank": 2}),
    }


class Planned(Exception):
    """The run has been planned in place of trained."""


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["encoder", "resnet", "vit", *SIZES, "language model", "adapters"])
def test_the_step_of_a_trainer_compiles(arguments, name, target, tmp_path, monkeypatch):
    found = []

    def planned(task, tx, *_, **__):
        found.extend(plan.step(task, tx, target, offload_state=offloaded) for offloaded in (False, True))
        raise Planned

    monkeypatch.setattr(train_each.training, "fit", planned)
    program, given = arguments[name]
    given = {"output": tmp_path / "out", "steps": 2, "batch_size": 8, "optimizer": "adamw"} | given
    with flagsaver.flagsaver(), pytest.raises(Planned):
        command.parse([name, *(f"--{flag}={value}" for flag, value in given.items())], program.FLAGS)
        program.main()
    on_device, offloaded = found
    assert on_device.failure is None and on_device.temporary > 0
    assert on_device.arguments["state"] >= 2 * on_device.arguments["parameters"] > 0
    held = on_device.arguments["state"] - offloaded.arguments["state"]
    assert held == offloaded.host and (target == "cpu" or offloaded.traffic.from_host == held)
