"""The shapes of the parameters of well-known models, for planning: nothing is allocated or read.

Layers are stacked: the first dimension of a layer's parameter is that of the layers, as with
``flax.linen.scan`` or ``nnx.vmap``. A model may also be given by a Hugging Face ``config.json`` of one of the
families.

Source: the models' published configurations.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from examples.models import families, llama_files, pretrained, weights
from examples.models.bert import EncoderConfig
from examples.models.layout import by_path, shapes_of
from examples.models.llama import LlamaConfig
from examples.models.rotary import Rotary

Shapes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Llama:
    """A decoder of the Llama kind: the shapes are those of the model's own parameters."""

    config: LlamaConfig

    def shapes(self) -> Shapes:
        """Name → shape, or a mapping of such."""
        n, one = self.config.layers, dataclasses.replace(self.config, layers=1)
        shapes, layer = {}, {}
        for path, leaf in by_path(shapes_of(llama_files.LLAMA, one)).items():
            *_, module, kind = path.split("/")
            name = f"{module}_bias" if kind == "bias" else module
            if path.startswith("layers/"):  # all are alike
                layer[name] = (n, *leaf.shape)
            else:
                shapes["embedding" if module == "embeddings" else name] = leaf.shape
        return shapes | {"layers": layer}


@dataclasses.dataclass(frozen=True)
class Bert:
    """An encoder of the BERT kind, without a head: the shapes are those of the model's own parameters."""

    config: EncoderConfig

    def shapes(self) -> Shapes:
        """Name → shape, or a mapping of such."""
        one = shapes_of(families.BERT, dataclasses.replace(self.config, layers=1))
        layer = {}
        for path, leaf in by_path(one.pop("layers")).items():
            *_, module, kind = path.split("/")
            layer[module if kind == "kernel" else f"{module}_{kind}"] = (self.config.layers, *leaf.shape)
        return jax.tree.map(lambda leaf: leaf.shape, one) | {"layers": layer}


def _layer(n: int, d: int) -> Shapes:
    """The shapes of n layers of GPT-2 or a ViT."""
    return {
        "qkv": (n, d, 3 * d),
        "qkv_bias": (n, 3 * d),
        "output": (n, d, d),
        "output_bias": (n, d),
        "up": (n, d, 4 * d),
        "up_bias": (n, 4 * d),
        "down": (n, 4 * d, d),
        "down_bias": (n, d),
        **{f"{norm}_{part}": (n, d) for norm in ("attention_norm", "mlp_norm") for part in ("scale", "bias")},
    }


@dataclasses.dataclass(frozen=True)
class Gpt2:
    """GPT-2: the head is tied to the embedding."""

    layers: int
    width: int
    heads: int
    vocabulary: int = 50257
    positions: int = 1024

    def shapes(self) -> Shapes:
        """Name → shape, or a mapping of such."""
        d = self.width
        return {
            "embedding": (self.vocabulary, d),
            "positions": (self.positions, d),
            "layers": _layer(self.layers, d),
            "norm": {"scale": (d,), "bias": (d,)},
        }


@dataclasses.dataclass(frozen=True)
class Vit:
    """ViT on square images."""

    layers: int
    width: int
    heads: int
    patch: int = 16
    image: int = 224
    classes: int = 1000

    def shapes(self) -> Shapes:
        """Name → shape, or a mapping of such."""
        d = self.width
        return {
            "patches": {"kernel": (self.patch, self.patch, 3, d), "bias": (d,)},
            "class": (1, 1, d),
            "positions": (1, (self.image // self.patch) ** 2 + 1, d),
            "layers": _layer(self.layers, d),
            "norm": {"scale": (d,), "bias": (d,)},
            "head": {"kernel": (d, self.classes), "bias": (self.classes,)},
        }


Model = Llama | Gpt2 | Vit | Bert

MODELS: dict[str, Model] = {
    "gpt2": Gpt2(12, 768, 12),
    "gpt2-medium": Gpt2(24, 1024, 16),
    "gpt2-large": Gpt2(36, 1280, 20),
    "gpt2-xl": Gpt2(48, 1600, 25),
    "vit-s": Vit(12, 384, 6),
    "vit-b": Vit(12, 768, 12),
    "vit-l": Vit(24, 1024, 16),
    "bert-base": Bert(EncoderConfig(30522, 768, 12, 12, 3072)),
    "llama-2-7b": Llama(LlamaConfig(32000, 4096, 32, 32, 32, 128, 11008, 4096)),
    "llama-2-13b": Llama(LlamaConfig(32000, 5120, 40, 40, 40, 128, 13824, 4096)),
    "llama-2-70b": Llama(LlamaConfig(32000, 8192, 80, 64, 8, 128, 28672, 4096)),
    "llama-3-8b": Llama(LlamaConfig(128256, 4096, 32, 32, 8, 128, 14336, 8192, rotary=Rotary(500000.0))),
}


def _of_llama(config: Mapping[str, Any]) -> Llama:
    return Llama(weights.config_of(llama_files.LAYOUTS[config["model_type"]], dict(config)))


def _of_gpt2(config: Mapping[str, Any]) -> Gpt2:
    if config.get("n_inner") not in (None, 4 * config["n_embd"]):
        raise ValueError(f"n_inner must be four times n_embd, got {config['n_inner']}")
    layers, width, heads = config["n_layer"], config["n_embd"], config["n_head"]
    return Gpt2(layers, width, heads, config["vocab_size"], config["n_positions"])


def _of_vit(config: Mapping[str, Any]) -> Vit:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if config["intermediate_size"] != 4 * width:
        raise ValueError(f"intermediate_size must be four times hidden_size, got {config['intermediate_size']}")
    classes = len(config.get("id2label") or range(1000))
    return Vit(config["num_hidden_layers"], width, heads, config["patch_size"], config["image_size"], classes)


def _of_bert(config: Mapping[str, Any]) -> Bert:
    model_type = config["model_type"]
    found = weights.config_of(pretrained.family(model_type), dict(config))
    return Bert(pretrained.with_offset(found, model_type))


_FAMILIES: dict[str, Callable[[Mapping[str, Any]], Model]] = {
    **dict.fromkeys(llama_files.LAYOUTS, _of_llama),
    "gpt2": _of_gpt2,
    "vit": _of_vit,
    **dict.fromkeys(pretrained.CLASSES, _of_bert),
}


def configuration(model: str) -> Model:
    """Look up a model by name, or read its configuration.

    Args:
        model: one of :data:`MODELS`, or the path of a Hugging Face ``config.json``.

    Raises:
        ValueError: there is no such model, or its family or one of its settings is not supported.
    """
    if model in MODELS:
        return MODELS[model]
    path = Path(model)
    if not path.is_file():
        raise ValueError(f"model must be one of {', '.join(MODELS)}, or a config.json, got {model!r}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        family = config["model_type"]
        if family not in _FAMILIES:
            raise ValueError(f"model_type must be one of {', '.join(_FAMILIES)}, got {family!r}")
        return _FAMILIES[family](config)
    except KeyError as error:
        raise ValueError(f"{path}: there is no {error}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def structs(model: str, dtype: Any = jnp.float32) -> dict[str, Any]:
    """A model's parameters.

    Args:
        model: as for :func:`configuration`.
        dtype: dtype of every parameter.

    Returns:
        A tree of ``jax.ShapeDtypeStruct``.

    Example:
        >>> sum(leaf.size for leaf in jax.tree.leaves(structs("gpt2")))
        124439808
        >>> sum(leaf.size for leaf in jax.tree.leaves(structs("llama-2-7b")))
        6738415616
    """
    return as_structs(configuration(model).shapes(), dtype)


def as_structs(shapes: Any, dtype: Any) -> Any:
    """A tree of shapes as a tree of ``jax.ShapeDtypeStruct``."""
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, dtype), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def unstacked(shapes: Shapes) -> Shapes:
    """The same shapes with the parameters of each layer by themselves, under the name of the layer."""
    layer = shapes["layers"]
    layers = {f"layer_{i}": {name: shape[1:] for name, shape in layer.items()} for i in range(layer["down"][0])}
    return {name: shape for name, shape in shapes.items() if name != "layers"} | layers


def counted(shapes: Shapes) -> dict[str, tuple[tuple[int, ...], int]]:
    """The distinct shapes of unstacked parameters, by the first name of each, and how many have it."""
    flat = jax.tree_util.tree_leaves_with_path(unstacked(shapes), is_leaf=lambda s: isinstance(s, tuple))
    counts = collections.Counter(shape for _, shape in flat)
    names = {
        shape: "_".join(part.key for part in path if not part.key.startswith("layer_"))
        for path, shape in reversed(flat)
    }
    return {names[shape]: (shape, times) for shape, times in counts.items()}


def partition(mesh: Mapping[str, int]) -> Callable[[Any], Any]:
    """Rules that split every matrix along both axes of a mesh, as FSDP with tensor parallelism does.

    Args:
        mesh: axis → size. The last dimension is split along ``model``, the one before along ``data``, each if
            it is divisible; any other axis splits nothing.

    Returns:
        Parameters → a tree of ``PartitionSpec``. Vectors are replicated.
    """

    def spec(leaf: Any) -> P:
        entries: list[str | None] = [None] * leaf.ndim
        if leaf.ndim >= 2 and math.prod(leaf.shape[-2:]) >= 2**16:
            for dimension, axis in ((leaf.ndim - 1, "model"), (leaf.ndim - 2, "data")):
                if leaf.shape[dimension] % mesh.get(axis, 1) == 0 and mesh.get(axis, 1) > 1:
                    entries[dimension] = axis
        return P(*entries)

    return lambda params: jax.tree.map(spec, params)
