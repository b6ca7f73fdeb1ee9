"""A tokenizer for pre-training, learned from the text or loaded, with the special tokens of an objective.

Byte-pair encoding works on bytes: every text can be encoded, and decoded unchanged. WordPiece works on words
and punctuation, and white space is lost.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from examples.data import tokenizer_file
from optimiz import training

BPE, WORDPIECE = "bpe", "wordpiece"
SENTINELS = 100
_LONG = re.compile(r"\S{1000}")

# Objective → role of a special token → its name, as in GPT-2, BERT and T5. The first has id 0.
SPECIAL: Mapping[str, Mapping[str, str]] = {
    "causal": {"end": "<|endoftext|>"},
    "masked": {"pad": "[PAD]", "unknown": "[UNK]", "start": "[CLS]", "end": "[SEP]", "mask": "[MASK]"},
    "span": {"pad": "<pad>", "end": "</s>", "unknown": "<unk>"},
}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and what pre-training needs to know about it.

    Attributes:
        tokenizer: the tokenizer, which neither pads nor truncates.
        size: size of the model's vocabulary, at least the number of ids of the tokenizer.
        ids: ids of the special tokens, by role.
        ordinary: ids of all other tokens.
    """

    tokenizer: Tokenizer
    size: int
    ids: Mapping[str, int]
    ordinary: tuple[int, ...]

    def encode(self, documents: Iterable[str]) -> list[list[int]]:
        """The ids of each text, without special tokens."""
        return [row.ids for row in tokenizer_file.encode(self.tokenizer, documents, add_special_tokens=False)]


def train(documents: Iterable[str], algorithm: str, size: int, objective: str) -> Tokenizer:
    """Learn a tokenizer from texts.

    WordPiece's training is not reproducible, because ties are broken by the order of a hash map: a tokenizer
    that is to be used again must be kept.

    Args:
        documents: the texts.
        algorithm: `"bpe"` or `"wordpiece"`.
        size: size of the vocabulary, including special tokens; for byte-pair encoding, also the 256 bytes.
        objective: the objective whose special tokens it gets.

    Raises:
        ValueError: `size` leaves no room, or the algorithm is unknown.
    """
    special = list(SPECIAL[objective].values())
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))] if objective == "span" else []
    least = len(special) + len(sentinels) + (256 if algorithm == BPE else 1)
    if size < least:
        raise ValueError(f"vocab_size must be at least {least} for {algorithm} and {objective}, got {size}")
    settings: dict[str, Any] = {
        "vocab_size": size - len(sentinels),
        "special_tokens": special,
        "show_progress": False,
    }
    if algorithm == BPE:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **settings)
    elif algorithm == WORDPIECE:
        unknown = SPECIAL[objective].get("unknown", special[0])
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**settings)
    else:
        raise ValueError(f"tokenizer must be {BPE!r}, {WORDPIECE!r} or a file, got {algorithm!r}")
    # Training time grows with the square of a word's length: very long words are cut, but only for training.
    tokenizer.train_from_iterator((_LONG.sub(r"\g<0> ", document) for document in documents), trainer)
    tokenizer.add_special_tokens(sentinels)
    if objective == "masked":
        start, end = (SPECIAL[objective][role] for role in ("start", "end"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            pair=f"{start} $A {end} $B:1 {end}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
        )
    return tokenizer


def load(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as for `tokenizer_file.read`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; tokenizer must be {BPE!r}, {WORDPIECE!r} or a file")
    return tokenizer_file.read(path)


def kept_or_learned(
    kept: Path | None, documents: Iterable[str], algorithm: str, size: int, objective: str
) -> Tokenizer:
    """The tokenizer that a run has kept, or else one that the first process learns for all.

    Args:
        kept: file of the tokenizer that a run has kept, if it exists; None to learn a new one.
        documents: as for :func:`train`.
        algorithm: likewise.
        size: likewise.
        objective: likewise.

    Raises:
        ValueError: as for :func:`load` and :func:`train`.
    """

    def found() -> str:
        there = kept is not None and kept.exists()
        return (load(kept) if there else train(documents, algorithm, size, objective)).to_str()

    return Tokenizer.from_str(training.from_first(found))


def vocabulary(tokenizer: Tokenizer, objective: str, size: int | None = None) -> Vocabulary:
    """What an objective needs to know about a tokenizer.

    Args:
        tokenizer: the tokenizer.
        objective: the objective whose special tokens it must have.
        size: size of the model's vocabulary; None for that of the tokenizer.

    Raises:
        ValueError: it lacks a special token, or has more ids than `size`; for spans, its last ids are not the
            sentinels.
    """
    names = tokenizer.get_vocab(with_added_tokens=True)
    missing = [name for name in SPECIAL[objective].values() if name not in names]
    if missing:
        raise ValueError(f"the tokenizer has no {', '.join(missing)}, which {objective} needs")
    highest = max(names.values())
    size = highest + 1 if size is None else size
    if highest >= size:
        raise ValueError(f"the tokenizer gives ids up to {highest}, but vocab_size is {size}")
    sentinels = range(size - SENTINELS, size) if objective == "span" else range(0)
    if objective == "span" and any(names.get(f"<extra_id_{i}>") != size - 1 - i for i in range(SENTINELS)):
        raise ValueError(
            f"the last {SENTINELS} ids of the vocabulary must be <extra_id_0> and so on, descending"
        )
    ids = {role: names[name] for role, name in SPECIAL[objective].items()}
    special = {*ids.values(), *sentinels}
    ordinary = tuple(sorted(set(names.values()) - special))
    return Vocabulary(tokenizer, size, ids, ordinary)


def choose(
    name: str | None, objective: str, size: int | None, documents: Iterable[str], kept: Path | None
) -> Vocabulary:
    """The vocabulary that a user requests: from a file, from a resumed run, or learned from the text.

    Args:
        name: BPE, WORDPIECE, or the path of a tokenizer.json; None for the algorithm that suits the objective.
        objective: the objective whose special tokens it must have.
        size: size of the model's vocabulary; None for that of the file, or 4096.
        documents: the texts to learn from.
        kept: as for :func:`kept_or_learned`.

    Raises:
        OSError: the file cannot be read.
        ValueError: as for :func:`load`, :func:`train` and :func:`vocabulary`.
    """
    algorithm = name or (WORDPIECE if objective == "masked" else BPE)
    if algorithm not in (BPE, WORDPIECE):
        return vocabulary(load(Path(algorithm)), objective, size)
    return vocabulary(kept_or_learned(kept, documents, algorithm, size or 4096, objective), objective)
