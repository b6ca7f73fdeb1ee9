"""The documents of a corpus as one stream of token ids; that of a corpus in shards lies in a file."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from examples.data.corpus import Corpus
from examples.data.tokenization import Vocabulary
from optimiz import training

_AT_ONCE = 1000  # documents


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """The documents, each followed by the token that ends it.

    Attributes:
        ids: int32 [N].
        size: number of bytes of the text, as UTF-8.
        unknown: number of tokens that the tokenizer does not know.
    """

    ids: np.ndarray
    size: int
    unknown: int


def encoded(corpus: Corpus, vocabulary: Vocabulary, folder: Path | None, name: str) -> TokenStream:
    """Encode the documents of a corpus.

    Args:
        corpus: the corpus.
        vocabulary: its tokenizer.
        folder: where the tokens of a corpus in shards are kept. A file of the same documents and tokenizer is
            read again.
        name: name of the part of the corpus, for the name of the file.

    Raises:
        ValueError: the corpus is in shards, and there is no folder or no document in them.
    """
    if corpus.in_memory:
        chunks = list(_chunks(corpus, vocabulary))
        ids = [ids for ids, _, _ in chunks]
        size, unknown = (sum(counts) for counts in list(zip(*chunks, strict=True))[1:])
        return TokenStream(np.concatenate(ids), size, unknown)
    if folder is None:
        raise ValueError(f"{corpus.source} is in shards: a folder must be given for its tokens")
    told = f"{corpus.source}\0{vocabulary.tokenizer.to_str()}"
    path = folder / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.int32"
    counts = training.from_first(lambda: _kept_or_written(path, corpus, vocabulary))
    if not counts["size"]:
        raise ValueError(f"{corpus.source}: too few documents for a part {name!r}")
    return TokenStream(np.memmap(path, np.int32, mode="r"), counts["size"], counts["unknown"])


def _kept_or_written(path: Path, corpus: Corpus, vocabulary: Vocabulary) -> dict[str, Any]:
    counted = path.with_suffix(".json")  # written last
    if counted.exists():
        return json.loads(counted.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = {"size": 0, "unknown": 0}
    with path.open("wb") as file:
        for ids, size, unknown in _chunks(corpus, vocabulary):
            ids.tofile(file)
            counts = {"size": counts["size"] + size, "unknown": counts["unknown"] + unknown}
    training.write_whole(counted, json.dumps(counts))
    return counts


def _chunks(corpus: Corpus, vocabulary: Vocabulary) -> Iterator[tuple[np.ndarray, int, int]]:
    """Ids, bytes and number of unknown tokens of some documents after the others."""
    unknown, end = vocabulary.ids.get("unknown"), vocabulary.ids["end"]
    documents = iter(corpus.documents)
    while texts := list(itertools.islice(documents, _AT_ONCE)):
        rows = vocabulary.encode(texts)
        ids = np.concatenate([np.array([*row, end], np.int32) for row in rows])
        size = sum(len(text.encode()) for text in texts)
        yield ids, size, 0 if unknown is None else sum(row.count(unknown) for row in rows)
