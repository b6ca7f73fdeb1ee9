"""Measures every model against the numbers that PyTorch has of it.

    python -m tests.golden.model_parity_record    writes `tests/records/model_parity.json`
    python -m examples.records                    renders the table in docs/models.md from it

The models are small and random, and wide: their attention is far from uniform.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.models import decoders, families
from examples.models.adapters import from_nnx
from examples.models.bert import Encoder
from examples.models.pretrained import load_encoder
from examples.models.resnet import ResNet, ResNetConfig
from optimiz.compare import environment
from tests.examples import golden

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests/records/model_parity.json"
BOUND = 1e-5

Pair = tuple[np.ndarray, np.ndarray]  # ours and PyTorch's

BOTTLENECK = ResNetConfig((2, 1), (8, 16), classes=3, stem_width=8, bottleneck=True)
CIFAR = dataclasses.replace(BOTTLENECK, bottleneck=False, cifar=True)


def states(name: str) -> Pair:
    """Of an encoder: the hidden states before and after each layer, where there is a token."""
    file = np.load(golden.GOLDEN / name / "states.npz")
    config, params = load_encoder(golden.GOLDEN / name)
    graph, _ = nnx.split(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0))))
    batch = file["ids"], file["mask"], file["types"]
    found = jax.jit(lambda p: nnx.merge(graph, p).hidden_states(*batch))(params)
    tokens = file["mask"] != 0  # RoBERTa gives padding a position of its own
    return np.stack(found)[:, tokens], file["states"][:, tokens]


def masked_bert(name: str) -> Pair:
    """The logits of some tokens of each text."""
    params, apply, arrays = golden.loaded(name, families.MASKED_BERT)
    positions_BP = np.array([[0, 8], [3, 11], [2, 0], [4, 4]])
    names = ("input_ids", "attention_mask", "token_type_ids")
    logits_BPV = apply(params, *(arrays[name] for name in names), positions_BP)
    return logits_BPV, np.take_along_axis(arrays["logits"], positions_BP[..., None], axis=1)


def decoder(name: str) -> Pair:
    """The logits after each token, padding included, and those of a generation, from what it remembers."""
    family = decoders.family(golden.GOLDEN / name)
    params, apply, arrays = golden.loaded(name, family)
    logits_BTV = apply(params, arrays["input_ids"], arrays["attention_mask"])
    steps_BNV = golden.steps(name, family, arrays["prompts"], arrays["prompts_mask"], arrays["answers"])
    ours, theirs = (logits_BTV, steps_BNV), (arrays["logits"], arrays["steps"])
    return tuple(np.concatenate([each.ravel() for each in pair]) for pair in (ours, theirs))


def t5(name: str) -> Pair:
    """The logits of an answer to padded texts."""
    params, apply, arrays = golden.loaded(name, families.T5)
    names = ("input_ids", "decoder_input_ids", "attention_mask")
    return apply(params, *(arrays[name] for name in names)), arrays["logits"]


def vit(name: str) -> Pair:
    """The logits of images."""
    params, apply, arrays = golden.loaded(name, families.VIT)
    return apply(params, arrays["pixel_values"].transpose(0, 2, 3, 1)), arrays["logits"]


def resnet(name: str, config: ResNetConfig) -> Pair:
    """The logits of images, first with given statistics, then with those of the batch."""
    params, statistics, file = read_resnet(name, config)
    apply = jax.jit(from_nnx(nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0))))[1])
    images = file["images"].transpose(0, 2, 3, 1)
    given, taken = apply(params, images, statistics)
    jax.tree.map(np.testing.assert_array_equal, taken, statistics)
    return np.stack([given, apply(params, images)[0]]), np.stack([file["given"], file["of_batch"]])


def read_resnet(name: str, config: ResNetConfig) -> tuple[Any, Any, Mapping[str, np.ndarray]]:
    """The parameters and the statistics in a golden file of a ResNet, and its arrays."""
    file = np.load(golden.GOLDEN / f"{name}.npz")
    statistics = []

    def convolution(key):
        return {"kernel": file[f"{key}.convolution.weight"].transpose(2, 3, 1, 0)}

    def norm(key):
        statistics.append((file[f"{key}.running_mean"], file[f"{key}.running_var"]))
        return {"scale": file[f"{key}.weight"], "bias": file[f"{key}.bias"]}

    def layer(key):
        count = 3 if config.bottleneck else 2
        found = {
            "convolutions": {i: convolution(f"{key}.layer.{i}") for i in range(count)},
            "norms": {i: norm(f"{key}.layer.{i}.normalization") for i in range(count)},
        }
        if f"{key}.shortcut.convolution.weight" in file:
            found["shortcut"] = convolution(f"{key}.shortcut")
            found["shortcut_norm"] = norm(f"{key}.shortcut.normalization")
        return found

    stem = "resnet.embedder.embedder"
    embeddings = {"convolution": convolution(stem), "norm": norm(f"{stem}.normalization")}
    places = [(stage, i) for stage, depth in enumerate(config.depths) for i in range(depth)]
    layers = [layer(f"resnet.encoder.stages.{stage}.layers.{i}") for stage, i in places]
    head = {"kernel": file["classifier.1.weight"].T, "bias": file["classifier.1.bias"]}
    params = {"embeddings": embeddings, "layers": dict(enumerate(layers)), "head": head}
    return *jax.tree.map(jnp.asarray, (params, statistics)), file


# The golden file, what it is of, and how the two are had.
MODELS: dict[str, tuple[str, Callable[[str], Pair]]] = {
    "bert_tiny": ("BERT, hidden states", states),
    "bert_tiny_roberta": ("RoBERTa, hidden states", states),
    "bert_tiny_masked": ("BERT with the head of masked tokens", masked_bert),
    "gpt2_tiny": ("GPT-2", decoder),
    "gpt2_tiny_untied": ("GPT-2 with a head of its own", decoder),
    "llama2_tiny": ("Llama 2", decoder),
    "llama3_tiny": ("Llama 3 with biases, tied embeddings and wide heads", decoder),
    "llama_dynamic_tiny": ("Llama with the dynamic scaling", decoder),
    "mistral_tiny": ("Mistral with a window", decoder),
    "qwen2_tiny": ("Qwen 2.5 with YaRN", decoder),
    "qwen3_tiny": ("Qwen 3 with a window in some layers", decoder),
    "gemma_tiny": ("Gemma", decoder),
    "gemma2_tiny": ("Gemma 2", decoder),
    "gemma3_tiny": ("Gemma 3", decoder),
    "t5_tiny": ("T5 with tied embeddings", t5),
    "t5_tiny_untied": ("T5 v1.1", t5),
    "vit_tiny": ("ViT", vit),
    "resnet_tiny": ("ResNet with bottlenecks", partial(resnet, config=BOTTLENECK)),
    "resnet_tiny_cifar": ("ResNet for CIFAR", partial(resnet, config=CIFAR)),
}


def difference(name: str) -> dict[str, float]:
    """The greatest absolute difference from PyTorch, and the greatest absolute number that PyTorch has."""
    ours, theirs = MODELS[name][1](name)
    assert ours.shape == theirs.shape
    return {"difference": float(np.abs(ours - theirs).max()), "largest": float(np.abs(theirs).max())}


def measure() -> dict[str, Any]:
    """The record: every model, measured on this machine."""
    versions = json.loads((golden.GOLDEN / "models.json").read_text(encoding="utf-8"))["versions"]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "environment": environment(),
        "golden": versions,
        "models": {name: {"title": title} | difference(name) for name, (title, _) in MODELS.items()},
    }


def render(record: Mapping[str, Any]) -> str:
    """The table, as Markdown for a page in docs."""
    lines = ["| model | worst difference | largest number |", "| --- | ---: | ---: |"]
    lines += [
        f"| {row['title']} | {row['difference']:.0e} | {row['largest']:.0f} |"
        for row in record["models"].values()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in record["golden"].items())
    legend = (
        f"In float32, on small random models and padded batches, compared with {versions}; {record['date']}. "
        "Logits, unless the row says otherwise; of causal decoders also those of a generation."
    )
    return "\n".join(lines) + f"\n\n{legend}"


def main() -> None:
    """Write the record."""
    record = measure()
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
