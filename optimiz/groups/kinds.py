"""Kinds: the part of a Transformer that a parameter belongs to, by the name of its module.

The names are those of Flax and its examples, of Hugging Face's BERT, RoBERTa, DistilBERT, BART, T5, GPT-2,
GPT-NeoX and Llama, of timm's and torchvision's ViT, and of PyTorch's own layers. A path may be joined by ``/``
or, as the keys of a checkpoint are, by ``.``.
"""

import re
from typing import Any

import optax

from optimiz.groups.rules import Leaf, embeddings, norms, read


def _named(*names: str, within: str = "") -> re.Pattern[str]:
    """A pattern of paths that have a module, or a parameter, of one of these names."""
    return re.compile(rf"(?i){within}(?:^|/)(?:{'|'.join(names)})(?:/|$)")


# Short names count only within attention, since they mean something else elsewhere.
_ATTENTION = r"(?:^|/)[^/]*att(?:n|ention)[^/]*(?:/.*)?"

# The first match decides: BERT's attention/output is not an MLP's, nor is a head's dense layer.
_KINDS = (
    ("embedding", _named("shared", "relative_attention_bias", "conv_proj", "class_token")),
    ("head", _named(r"(?:\w+_)?heads?", "classifier", "score", "pooler", "predictions", "qa_outputs")),
    ("head", _named(r"unembed\w*", r"logits\w*", "pre_logits")),
    ("qkv", _named("qkv(?:_proj)?", "wqkv", "c_attn", "query_key_value", "in_proj(?:_weight|_bias)?")),
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
        ``"q"``, ``"k"``, ``"v"``, ``"qkv"`` where the three are one tensor, ``"o"`` for the projection out of
        attention, ``"mlp"``, ``"norm"``, ``"embedding"``, ``"head"``, or ``"other"``. A bias has the
        kind of its module.

    Example:
        >>> kind("layers/0/attention/query/kernel"), kind("model.layers.0.mlp.up_proj.weight")
        ('q', 'mlp')
    """
    leaf = Leaf(path.replace(".", "/"), ())
    if norms.test(leaf):
        return "norm"
    if embeddings.test(leaf):
        return "embedding"
    return next((name for name, pattern in _KINDS if pattern.search(leaf.path)), "other")


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
    return reading.tree([kind(leaf.path) for leaf in reading.leaves])
