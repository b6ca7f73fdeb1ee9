"""Kinds: the part of a Transformer that a parameter belongs to, by the names in its module and around it.

The names are those of Flax and its examples, of Hugging Face's BERT, RoBERTa, DistilBERT, BART, T5, GPT-2,
GPT-NeoX and Llama, of timm's and torchvision's ViT, and of PyTorch's own layers. A path may be joined by ``/``
or, as the keys of a checkpoint are, by ``.``.
"""

import collections
import re
from typing import Any

import optax

from optimiz.groups.layers import LAYER_INDEX
from optimiz.groups.rules import Leaf, Reading, embeddings, norms, read


def _named(*names: str, within: str = "") -> re.Pattern[str]:
    """A pattern of paths that have a module, or a parameter, of one of these names."""
    return re.compile(rf"(?i){within}(?:^|/)(?:{'|'.join(names)})(?:/|$)")


# Short names count only within attention, since they mean something else elsewhere.
_ATTENTION = r"(?:^|/)[^/]*(?:att(?:n|ention)|mhs?a)[^/]*(?:/.*)?"
UNORDERED = _named("query_key_value")
"""Fused queries, keys and values in an order that the name does not tell: GPT-NeoX and BLOOM have q k v of one
head after another, ChatGLM all queries first."""

EXPERTS = _named(r"\w*experts?(?:_\d+)?")
"""Modules of experts."""

_LAYER = re.compile(LAYER_INDEX)

# Within a layer heads are those of attention, and conv_proj is a shortcut of a ResNet.
_OUTSIDE_LAYERS = (
    ("embedding", _named("conv_proj")),
    ("head", _named(r"(?:\w+_)?heads?")),
)
# The first match decides: BERT's attention/output is not an MLP's, nor is a head's dense layer.
_KINDS = (
    ("embedding", _named("shared", "relative_attention_bias", "class_token")),
    ("head", _named("(?:lm|shared)_head", "classifier", "score", "pooler", "predictions", "qa_outputs")),
    ("head", _named(r"unembed\w*", r"logits\w*", "pre_logits")),
    ("router", _named("router")),
    ("router", _named("gate", within=r"(?:^|/)[^/]*moe[^/]*")),
    ("qkv", _named("qkv(?:_proj)?", "wqkv", "c_attn", "query_key_value", "in_proj(?:_weight|_bias)?")),
    ("kv", _named("kv(?:_proj)?", "wkv", within=_ATTENTION)),
    ("q", _named("q_proj", "q_lin", "q_attn", "query_proj", "to_q", "wq")),
    ("q", _named("q", "query", "q_bias", within=_ATTENTION)),
    ("k", _named("k_proj", "k_lin", "key_proj", "to_k", "wk")),
    ("k", _named("k", "key", within=_ATTENTION)),
    ("v", _named("v_proj", "v_lin", "value_proj", "to_v", "wv")),
    ("v", _named("v", "value", "v_bias", within=_ATTENTION)),
    ("o", _named("o_proj", "to_out")),
    ("o", _named("o", "wo", r"out(?:put|_proj|_lin)?", "c_proj", "proj", "dense", within=_ATTENTION)),
    ("mlp", _named(r"\w*mlp\w*", r"\w*ffn\w*", r"feed_?forward\w*", r"\w*experts", "DenseReluDense")),
    ("mlp", _named("intermediate", "output/dense", "fc[12]", "c_fc", "lin(?:ear)?[12]", "w[123]")),
    ("mlp", _named("wi(?:_[01])?", "wo", "(?:gate|up|down)_proj")),
)


def kind(path: str) -> str:
    """The part of a Transformer that the parameter at a path belongs to.

    Args:
        path: path of a parameter, as in :class:`optimiz.groups.Leaf`, with ``/`` or ``.`` as separator.

    Returns:
        ``"q"``, ``"k"``, ``"v"``, ``"qkv"`` or ``"kv"`` where these are one tensor, ``"o"`` for the projection
        out of attention, ``"mlp"``, ``"router"`` for the gate of experts, ``"norm"``, ``"embedding"``,
        ``"head"``, or ``"other"``. A bias has the kind of its module.

    Example:
        >>> kind("layers/0/attention/query/kernel"), kind("model.layers.0.mlp.up_proj.weight")
        ('q', 'mlp')
    """
    leaf = Leaf(path.replace(".", "/"), ())
    if norms.test(leaf):
        return "norm"
    if embeddings.test(leaf):
        return "embedding"
    layer = _LAYER.search(leaf.path)
    outside = leaf.path if layer is None else leaf.path[: layer.start()]
    found = [name for name, pattern in _OUTSIDE_LAYERS if pattern.search(outside)]
    found += [name for name, pattern in _KINDS if pattern.search(leaf.path)]
    return found[0] if found else "other"


def kinds_by_path(reading: Reading) -> dict[str, str]:
    """The kind of each parameter of a tree, and of each hole, by its path.

    Flax's attention is known by its queries, keys, values and ``out``, whatever it is called, and a router
    called ``gate`` by the experts beside it.

    Args:
        reading: a tree.
    """
    held = collections.defaultdict(set)
    for path in reading.paths:
        keys = path.split("/")
        for i, key in enumerate(keys):
            held[tuple(keys[:i])].add(key)
    called = {}
    for module, names in held.items():
        if {"query", "key", "value", "out"} <= names:
            called[module] = "attention"
        elif "gate" in names and any(map(EXPERTS.search, names)):
            called[module] = "moe"

    def told(path: str) -> str:
        keys = path.split("/")
        for i in reversed(range(len(keys))):
            if tuple(keys[:i]) in called:
                return "/".join([*keys[:i], called[tuple(keys[:i])], *keys[i:]])
        return path

    return {path: kind(told(path)) for path in reading.paths}


def kinds(params: optax.Params) -> Any:
    """Label each parameter with its kind, see :func:`kind`.

    Args:
        params: a tree of parameters, of arrays or of their shapes.

    Returns:
        The tree of labels.

    Example:
        >>> kinds({"attention": {"query": {"bias": 1.0, "kernel": 1.0}}, "ln_1": {"scale": 1.0}})
        {'attention': {'query': {'bias': 'q', 'kernel': 'q'}}, 'ln_1': {'scale': 'norm'}}
    """
    reading = read(params)
    of = kinds_by_path(reading)
    return reading.tree([of[leaf.path] for leaf in reading.leaves])
