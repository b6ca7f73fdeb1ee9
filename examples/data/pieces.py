"""Texts as pieces of tokens: what a causal language model reads at once, and which of it is to be predicted.

A document is one piece, or several if it is longer than a row, each of which begins with the last token of the
one before: every token but the first is predicted once. A text with answers is one piece, of which the tokens
that begin within an answer are predicted, and the token that ends a text.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tokenizers import Encoding, Tokenizer

from examples.data import tokenizer_file
from examples.data.corpus import Corpus
from examples.data.prompts import Prompt, Prompts

_AT_ONCE = 1000  # texts to encode


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Pieces of tokens.

    Attributes:
        tokens: the ids of each piece, int32 [n + 1], and whether each is to be predicted, bool; the first never
            is.
        sizes: bytes of the text that each piece predicts.
        skipped: texts that were longer than a row.
    """

    tokens: Sequence[tuple[np.ndarray, np.ndarray]]
    sizes: Sequence[float]
    skipped: int = 0

    @property
    def lengths(self) -> list[int]:
        """The number of tokens that each piece takes in a row: all but its last, which is only predicted."""
        return [len(ids) - 1 for ids, _ in self.tokens]


def of_documents(
    corpus: Corpus, tokenizer: Tokenizer, start: int | None, end: int, length: Callable[[list[int]], int]
) -> Pieces:
    """Cut documents into pieces.

    Args:
        corpus: the documents.
        tokenizer: the tokenizer.
        start: id of the token that begins a document, unless the tokenizer adds one by itself; None for none.
        end: id of the token that ends a document.
        length: number of tokens of each document → T, the number of tokens of a row.

    Raises:
        ValueError: the tokenizer cannot encode a text, or no token is left to predict.
    """
    whole = []
    for row in _encoded(tokenizer, corpus.documents, special=True):
        begins = bool(row.special_tokens_mask and row.special_tokens_mask[0])
        ids = ([] if begins or start is None else [start]) + row.ids
        whole.append(np.array(ids if ids[-1:] == [end] and len(ids) > 1 else [*ids, end], np.int32))
    if max(map(len, whole)) < 2:
        raise ValueError(f"{corpus.source}: no document has a token to predict")
    step = length([len(ids) - 1 for ids in whole])
    tokens, sizes = [], []
    for ids, document in zip(whole, corpus.documents, strict=True):
        bytes_per_target = len(document.encode()) / max(len(ids) - 1, 1)
        for first in range(0, len(ids) - 1, step):
            piece = ids[first : first + step + 1]
            tokens.append((piece, np.arange(len(piece)) > 0))
            sizes.append(bytes_per_target * (len(piece) - 1))
    return Pieces(tokens, sizes)


def of_prompts(
    prompts: Prompts,
    tokenizer: Tokenizer,
    end: int | None,
    length: Callable[[list[int]], int],
    *,
    skip_long: bool,
) -> Pieces:
    """Encode texts with answers.

    Args:
        prompts: the texts.
        tokenizer: the tokenizer.
        end: id of the token that ends an answer; None if a chat template has written all special tokens.
        length: number of tokens of each text → T, the number of tokens of a row.
        skip_long: whether texts longer than a row are left out.

    Raises:
        ValueError: the tokenizer cannot encode a text, an answer has no token, or a text is longer than a row
            and not to be left out; the message names its place.
    """
    tokens = []
    rows = _encoded(tokenizer, [prompt.text for prompt in prompts.prompts], special=end is not None)
    for prompt, row in zip(prompts.prompts, rows, strict=True):
        ids, predicted = row.ids, _predicted(row, prompt)
        if end is not None:
            kept = len(ids) - (ids[-1:] == [end])
            ids, predicted = [*ids[:kept], end], [*predicted[:kept], True]
        if not any(predicted[1:]):
            raise ValueError(f"{prompt.place}: an answer has no token of its own to predict")
        tokens.append((np.array(ids, np.int32), np.array(predicted)))
    lengths = [len(ids) - 1 for ids, _ in tokens]
    most = length(lengths)
    long = [i for i, each in enumerate(lengths) if each > most]
    if long and not skip_long:
        more = f" ({len(long)} texts are too long)" if len(long) > 1 else ""
        first = prompts.prompts[long[0]].place
        raise ValueError(
            f"{first}: {lengths[long[0]]} tokens with its answer, and a row has {most}{more}: see --length, or "
            "leave them out with --skip_long"
        )
    if len(long) == len(tokens):
        raise ValueError(f"{prompts.source}: all of {len(tokens)} texts are longer than a row of {most} tokens")
    kept = sorted({*range(len(tokens))} - {*long})
    return Pieces([tokens[i] for i in kept], [prompts.prompts[i].size for i in kept], len(long))


def _predicted(row: Encoding, prompt: Prompt) -> list[bool]:
    """Whether each token begins within an answer."""
    return [
        not special and any(start <= offset[0] < end for start, end in prompt.answers)
        for offset, special in zip(row.offsets, row.special_tokens_mask, strict=True)
    ]


def _encoded(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool) -> Iterator[Encoding]:
    """Encode texts, a few at a time."""
    for first in range(0, len(texts), _AT_ONCE):
        yield from tokenizer_file.encode(tokenizer, texts[first : first + _AT_ONCE], add_special_tokens=special)
