"""Read a tokenizer from untrusted files: a `tokenizer.json`, or the `vocab.txt` of a BERT.

The library that reads them is written in Rust. It raises its own error classes, one of which `except Exception`
does not catch; here all of them become a ValueError of one line.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from examples.data import shown
from examples.shared import strict_json

TOKENIZER, VOCABULARY, SETTINGS = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
MAX_BYTES = 2**28  # eight times the largest known file
MAX_GROWTH = 64  # of a text, when its characters are replaced
CHARACTERS = 64  # of a token, at most, on average: text beyond that is cut before it is encoded
_RARE = "\u2d63\u0f40\u1780"  # letters of three scripts that few vocabularies have


def read(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`, set to neither pad nor truncate.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a tokenizer, or not one that can encode any text.
    """
    name = shown.path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{name} has {size:,} bytes; a tokenizer may have at most {MAX_BYTES:,}")
    with _told(f"{name} is not a tokenizer"), _silent():
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        normalizer = tokenizer.normalizer
        growth = 1 if normalizer is None else _growth(json.loads(normalizer.__getstate__()))
    if growth > MAX_GROWTH:
        raise ValueError(f"{name}: its normalizer makes a text {growth:,} times longer, at most {MAX_GROWTH}")
    try:
        with _told("such as one without an unknown token"), _silent():
            tokenizer.encode("Ein Satz, für 2 Zwecke.", "¿Otra?")
            lost = not tokenizer.encode(_RARE, add_special_tokens=False).ids
    except ValueError as error:
        raise ValueError(f"{name} cannot encode every text, {error}") from None
    if lost:
        raise ValueError(f"{name} has no unknown token, and drops what it does not know")
    return tokenizer


def digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of the ids of all tokens, which say what a model's embeddings mean."""
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).items())
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def of_bert(directory: Path) -> Tokenizer:
    """Make the tokenizer of a BERT from its `vocab.txt`, one word piece per line, as `transformers` does.

    `tokenizer_config.json` says whether it is cased; without that file, it is inferred from the vocabulary.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is damaged.
    """
    path = directory / VOCABULARY
    name = shown.path(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{name} has {size:,} bytes; a vocabulary may have at most {MAX_BYTES:,}")
    try:
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 at byte {error.start}") from None
    ids = {piece.removesuffix("\r"): i for i, piece in enumerate(pieces)}
    missing = [piece for piece in ("[UNK]", "[CLS]", "[SEP]", "[PAD]") if piece not in ids]
    if missing or len(ids) < len(pieces):
        what = f"no {', '.join(missing)}" if missing else "a piece twice"
        raise ValueError(f"{name} has {what}; it must have a word piece of a BERT on each line")
    settings = directory / SETTINGS
    said = strict_json.read_object(settings) if settings.exists() else {}
    uncased = not any(piece != piece.lower() for piece in ids if not piece.startswith("["))
    flags: dict[str, Any] = {}
    for key, default in (("do_lower_case", uncased), ("strip_accents", None), ("tokenize_chinese_chars", True)):
        flags[key] = said.get(key, default)
        if flags[key] not in (True, False, default):
            raise ValueError(f"{shown.path(settings)}: {key} must be true or false, got {flags[key]!r}")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=flags["tokenize_chinese_chars"],
        strip_accents=flags["strip_accents"],
        lowercase=flags["do_lower_case"],
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(
        [piece for piece in ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]") if piece in ids]
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def encode(tokenizer: Tokenizer, inputs: Iterable[Any], **settings: Any) -> list[Encoding]:
    """Encode texts with `Tokenizer.encode_batch`.

    Raises:
        ValueError: the tokenizer cannot encode a text.
    """
    with _told("the tokenizer cannot encode the texts"), _silent():
        return tokenizer.encode_batch(list(inputs), **settings)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppress the long traces that Rust writes directly to standard error when it panics."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there is no standard error
            screen = os.dup(2)
            stack.callback(lambda: (os.dup2(screen, 2), os.close(screen)))
            nowhere = os.open(os.devnull, os.O_RDONLY)  # what is written to it is lost
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an error of the library into a ValueError of one line."""
    try:
        yield
    except Exception as error:  # it raises no narrower class
        raise ValueError(f"{what}: {' '.join(str(error).split())[:200]}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 exports it from no module
            raise
        raise ValueError(f"{what}: it panicked: {' '.join(str(error).split())[:200]}") from None


def _growth(normalizer: Any) -> int:
    """How many times longer a text can become when a normalizer replaces its characters."""
    growth = 1
    for step in normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []:
        if step.get("type") == "Sequence":
            growth *= _growth(step)
        elif step.get("type") == "Replace":
            pattern, content = step["pattern"], len(step["content"])
            # A regular expression can match a single character, or the empty string before each.
            growth *= -(-content // max(len(pattern["String"]), 1)) if "String" in pattern else content + 1
            growth = max(growth, 1)
        elif step.get("type") == "Prepend":
            growth *= max(len(step["prepend"]), 1)
    return growth
