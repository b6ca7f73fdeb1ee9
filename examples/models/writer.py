"""A causal language model with its tokenizer, which goes on from texts."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from examples.data import tokenizer_file
from examples.models import decoders, fields, generation, weights
from examples.models.tensors import CONFIG, existing

_BATCH = 16  # texts that are gone on from at once
_STEP = 32  # prompts are padded to multiples of this, so that few programs are compiled


def read_tokenizer(directory: Path, vocab_size: int) -> tokenizer_file.Tokenizer:
    """Read the tokenizer of a language model.

    Args:
        directory: directory of the model.
        vocab_size: number of tokens that the model knows.

    Raises:
        FileNotFoundError: there is no `tokenizer.json`.
        ValueError: it is damaged, or gives ids that the model does not have.
    """
    path = existing(directory, tokenizer_file.TOKENIZER)
    tokenizer = tokenizer_file.read(path)
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= vocab_size:
        raise ValueError(f"{path} gives token ids up to {highest}; vocab_size in {CONFIG} is {vocab_size}")
    return tokenizer


class Writer:
    """A model that writes.

    Args:
        directory: directory of the model.
        most: largest number of tokens that it writes, at least 1.
        choose: choice of a token, `generation.greedy` or from `generation.sampled`.

    Raises:
        FileNotFoundError: the directory lacks a file.
        ValueError: a file is damaged, or `most` is less than 1.
    """

    def __init__(self, directory: Path, most: int, choose: generation.Choice = generation.greedy):
        family = decoders.family(directory)
        config, self._params = weights.load(directory, family)
        self._config, self._most = config, most
        self._tokenizer, self._end = read_tokenizer(directory, config.vocab_size), decoders.end_ids(directory)
        self._generate = generation.generator(family, config, most, end=self._end, choose=choose)

    def __call__(
        self, texts: Sequence[str], *, whole: bool, seed: int = 0, places: Sequence[str] = ()
    ) -> list[str]:
        """What the model writes after each text, without special tokens.

        Args:
            texts: the texts.
            whole: whether they have their special tokens, as a chat template writes them.
            seed: seed of what is drawn.
            places: place of each text, for messages; none to number them.

        Raises:
            ValueError: a text has no token, or with what follows more than the model can read; the message
                begins with its place.
        """
        encoded = tokenizer_file.encode(self._tokenizer, texts, add_special_tokens=not whole)
        places = places or [f"prompt {number}" for number in range(1, len(texts) + 1)]
        for place, text, row in zip(places, texts, encoded, strict=True):  # before anything is written
            if not row.ids:
                raise ValueError(f"{place}: a prompt must have a token, got {text!r}")
            try:
                fields.check_slots(self._config, len(row.ids) + self._most)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
        answers = []
        for first in range(0, len(texts), _BATCH):
            rows = [row.ids for row in encoded[first : first + _BATCH]]
            answers += self._answers(rows, jax.random.fold_in(jax.random.key(seed), first))
        return answers

    def _answers(self, rows: list[list[int]], key: jax.Array) -> list[str]:
        longest = max(map(len, rows))
        length = max(longest, min(-(-longest // _STEP) * _STEP, self._config.max_positions - self._most))
        mask_BT = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        ids_BT = np.array([row + [0] * (length - len(row)) for row in rows])
        found = self._generate(self._params, ids_BT, mask_BT, key)
        written = zip(np.asarray(found.ids_BN), np.asarray(found.lengths_B), strict=True)
        return [self._tokenizer.decode(ids[:count].tolist()) for ids, count in written]
