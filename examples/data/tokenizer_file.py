"""A tokenizer out of files that anyone may have written: a `tokenizer.json`, or the `vocab.txt` of a BERT.

The library that reads them is written in Rust. What it cannot do it says in classes of its own, one of which no
`except Exception` catches; here all of them become one line.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from examples.data import shown
from examples.shared import strict_json

TOKENIZER, VOCABULARY, SETTINGS = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
MAX_BYTES = 2**28  # eight times the largest that is known
MAX_GROWTH = 64  # of a text, by what replaces its characters
CHARACTERS = 64  # of a token, on average, at the most: what is beyond is cut before it is read
_RARE = "\u2d63\u0f40\u1780"  # letters of three scripts that few vocabularies have


def read(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`, set neither to pad nor to cut.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no tokenizer, or none that can be trusted with any text.
    """
    name = shown.path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{name} has {size:,} bytes; a tokenizer of at most {MAX_BYTES:,} is read")
    with _told(f"{name} is not a tokenizer"), _silent():
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        normalizer = tokenizer.normalizer
        growth = 1 if normalizer is None else _growth(json.loads(normalizer.__getstate__()))
    if growth > MAX_GROWTH:
        raise ValueError(f"{name}: its normalizer makes a text {growth:,} times longer, at most {MAX_GROWTH}")
    try:
        with _told("as one without an unknown token"), _silent():
            tokenizer.encode("Ein Satz, für 2 Zwecke.", "¿Otra?")
            lost = not tokenizer.encode(_RARE, add_special_tokens=False).ids
    except ValueError as error:
        raise ValueError(f"{name} does not read every text, {error}") from None
    if lost:
        raise ValueError(f"{name} has no token for what is unknown to it, and leaves it out")
    return tokenizer


def of_bert(directory: Path) -> Tokenizer:
    """The tokenizer of a BERT out of its `vocab.txt`, a word piece a line, as `transformers` makes it.

    Whether it is cased stands in `tokenizer_config.json`; where that is not there, the vocabulary tells.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is damaged.
    """
    path = directory / VOCABULARY
    name = shown.path(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{name} has {size:,} bytes; a vocabulary of at most {MAX_BYTES:,} is read")
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
    """What `Tokenizer.encode_batch` returns.

    Raises:
        ValueError: the tokenizer cannot read a text.
    """
    with _told("the tokenizer cannot read the texts"), _silent():
        return tokenizer.encode_batch(list(inputs), **settings)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the pages of trace that Rust writes on the screen's own file where it breaks down."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there is no screen
            screen = os.dup(2)
            stack.callback(lambda: (os.dup2(screen, 2), os.close(screen)))
            nowhere = os.open(os.devnull, os.O_RDONLY)  # what is written to it is lost
            os.dup2(nowhere, 2)
            os.close(nowhere)
        yield


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """An error of the library in one line."""
    try:
        yield
    except Exception as error:  # it raises no narrower class
        raise ValueError(f"{what}: {' '.join(str(error).split())[:200]}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 has it in no module
            raise
        raise ValueError(f"{what}: it broke down: {' '.join(str(error).split())[:200]}") from None


def _growth(normalizer: Any) -> int:
    """How many times longer a text can become where characters of it are replaced."""
    growth = 1
    for step in normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []:
        if step.get("type") == "Sequence":
            growth *= _growth(step)
        elif step.get("type") == "Replace":
            pattern, content = step["pattern"], len(step["content"])
            # A regular expression can match one character, or none, before each.
            growth *= -(-content // max(len(pattern["String"]), 1)) if "String" in pattern else content + 1
            growth = max(growth, 1)
        elif step.get("type") == "Prepend":
            growth *= max(len(step["prepend"]), 1)
    return growth
