"""Pre-training of a language model on packed text, as a task that any optimizer can train.

Three objectives, each with its model: the next token of each (causal, GPT-2), tokens that were hidden (masked,
BERT) and stretches that were cut out (span, T5 v1.1). The text is tokenised and packed once; what is hidden or
cut out is drawn anew at every step, and once for an evaluation. The loss of a row is the mean cross-entropy of
its targets.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from examples.data import masking, packing, spans
from examples.data.corpus import Corpus
from examples.data.tokenization import Vocabulary
from examples.models import bert, families, gpt2, t5, weights
from examples.models.adapters import from_nnx
from examples.models.layout import Layout
from optimiz import training

EVALUATION_BATCH = 32
EVALUATION_ROWS = 256  # of a part, at the most: an evaluation is to cost no more than a few steps

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        layers: of the encoder or the decoder; of each, where there are both.
        hidden_size: D.
        heads: H, a divisor of D.
        length: T, tokens that the model reads of a row.
        dropout: rate in [0, 1), everywhere.
    """

    layers: int
    hidden_size: int
    heads: int
    length: int
    dropout: float


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is to be told, and by which model.

    Attributes:
        family: layout of the model's files.
        config: of the model.
        pack: (ids of documents) → rows of text, int32 [N, ...].
        batch: (rows [B, ...], seed, step) → the batch, with its targets [B, P] as `targets`.
        arguments: batch → arguments of the model, whose logits are [B, P, V].
        targets_per_token: of the text that is told.
    """

    family: Layout
    config: Any
    pack: Callable[[list[list[int]]], np.ndarray]
    batch: Callable[[np.ndarray, int, int], Arrays]
    arguments: Callable[[Arrays], tuple[Any, ...]]
    targets_per_token: float = 1.0


def causal(vocabulary: Vocabulary, size: Size) -> Objective:
    """Each token from those before it, by a GPT-2."""
    config = gpt2.GPT2Config(
        vocabulary.size,
        size.hidden_size,
        size.layers,
        size.heads,
        max_positions=size.length,
        embedding_dropout=size.dropout,
        attention_dropout=size.dropout,
        hidden_dropout=size.dropout,
    )

    def batch(rows: np.ndarray, seed: int, step: int) -> Arrays:
        return {"ids_BT": rows[:, :-1], "targets": rows[:, 1:]}

    pack = partial(packing.pack, end=vocabulary.ids["end"], length=size.length + 1, overlap=1)
    return Objective(families.GPT2, config, pack, batch, lambda batch: (batch["ids_BT"], None))


def masked(vocabulary: Vocabulary, size: Size) -> Objective:
    """Hidden tokens from those around them, by a BERT; every row is between the tokens of start and end."""
    config = bert.EncoderConfig(
        vocabulary.size,
        size.hidden_size,
        size.layers,
        size.heads,
        4 * size.hidden_size,
        max_positions=size.length,
        pad_token_id=vocabulary.ids["pad"],
        hidden_dropout=size.dropout,
        attention_dropout=size.dropout,
    )
    start, end, mask_id = (vocabulary.ids[role] for role in ("start", "end", "mask"))
    ordinary = np.array(vocabulary.ordinary)

    def pack(documents: list[list[int]]) -> np.ndarray:
        rows = packing.pack(documents, end, size.length - 2)
        return np.pad(
            np.pad(rows, ((0, 0), (1, 0)), constant_values=start), ((0, 0), (0, 1)), constant_values=end
        )

    def batch(rows: np.ndarray, seed: int, step: int) -> Arrays:
        hidden = masking.mask(rows, mask_id, ordinary, seed, step)
        targets = hidden.pop("targets_BP")
        return hidden | {"targets": targets}

    def arguments(batch: Arrays) -> tuple[Any, ...]:
        ids_BT = batch["ids_BT"]
        return ids_BT, jax.numpy.ones_like(ids_BT), jax.numpy.zeros_like(ids_BT), batch["positions_BP"]

    return Objective(families.MASKED_BERT, config, pack, batch, arguments)


def span(vocabulary: Vocabulary, size: Size) -> Objective:
    """Stretches that were cut out from what is left, by a T5."""
    config = t5.T5Config(
        vocabulary.size,
        size.hidden_size,
        size.layers,
        size.layers,
        size.heads,
        size.hidden_size // size.heads,
        # Two matrices go up and one down: so they have the parameters of an MLP of 4 D.
        round(8 / 3 * size.hidden_size),
        dropout=size.dropout,
    )
    shape = spans.shape_of_inputs(size.length)
    end, pad = vocabulary.ids["end"], vocabulary.ids["pad"]

    def batch(rows: np.ndarray, seed: int, step: int) -> Arrays:
        cut = spans.corrupt(rows, end, vocabulary.size, seed, step)
        targets = cut["targets_BT"]
        answer_BT = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=pad)
        return {"ids_BS": cut["ids_BS"], "answer_BT": answer_BT, "targets": targets}

    pack = partial(packing.pack, end=end, length=shape.length)
    return Objective(
        families.T5,
        config,
        pack,
        batch,
        lambda batch: (batch["ids_BS"], batch["answer_BT"], None),
        targets_per_token=shape.answers / shape.cut,
    )


OBJECTIVES = {"causal": causal, "masked": masked, "span": span}


class Pretraining:
    """Packed parts of a corpus, and the model that is to tell them.

    Args:
        parts: "train" and others.
        vocabulary: the tokenizer.
        objective: what is to be told.

    Attributes:
        rows: part → rows of text, [N, ...].

    Raises:
        ValueError: a part is shorter than one row; the message names it.
    """

    def __init__(self, parts: Mapping[str, Corpus], vocabulary: Vocabulary, objective: Objective):
        self.objective, self.vocabulary = objective, vocabulary
        self.rows: dict[str, np.ndarray] = {}
        self._bytes_per_token: dict[str, float] = {}
        for name, part in parts.items():
            documents = vocabulary.encode(part.documents)
            tokens = sum(len(document) + 1 for document in documents)
            self._bytes_per_token[name] = part.size / tokens
            try:
                self.rows[name] = objective.pack(documents)
            except ValueError as error:
                raise ValueError(f"{part.source}, part {name!r}: {error}") from None
        self._make = lambda key: objective.family.model(objective.config, rngs=nnx.Rngs(key))
        _, self._apply = from_nnx(nnx.eval_shape(lambda: self._make(jax.random.key(0))))
        self._compiled_losses = jax.jit(self._losses)
        self._next_token = jax.jit(self._draw)

    def task(self, batch_size: int, seed: int) -> training.Task:
        """The task of the training part, evaluated on the validation part.

        Args:
            batch_size: B, rows per update.
            seed: of the order of the rows, and of what is drawn at every step.
        """
        rows_of = training.shuffled({"rows": self.rows["train"]}, batch_size, seed)
        return training.Task(
            init=lambda key: from_nnx(self._make(key))[0],
            loss=self._losses,
            batches=lambda step: dict(self.objective.batch(rows_of(step)["rows"], seed, step)),
            evaluate=self.evaluation("validation"),
            logits=self._logits,
        )

    def evaluation(self, part: str) -> Callable[[Any], dict[str, float]]:
        """A function from parameters to the figures of a part: "loss", "perplexity", "bits_per_byte".

        The loss is in nats per target. Bits per byte are of the text that is told, whatever its tokens are: all
        of it where the objective is causal and the tokens are byte pairs. WordPiece leaves white space untold.
        """
        rows = self.rows[part][:EVALUATION_ROWS]
        batches = training.padded(self.objective.batch(rows, 0, 0), EVALUATION_BATCH)

        def evaluate(params: Any) -> dict[str, float]:
            losses = [self._compiled_losses(params, batch) for batch in batches]
            return self._figures(float(np.concatenate(losses)[: len(rows)].mean()), part)

        return evaluate

    def frequencies(self) -> dict[str, dict[str, float]]:
        """The figures of guessing by the frequency of targets in training, by part other than "train"."""
        counts = np.ones(self.objective.config.vocab_size)
        targets = self.objective.batch(self.rows["train"], 0, 0)["targets"]
        counts += np.bincount(targets.ravel(), minlength=len(counts))
        nats = -np.log(counts / counts.sum())
        others = {name: rows[:EVALUATION_ROWS] for name, rows in self.rows.items() if name != "train"}
        return {
            name: self._figures(float(nats[self.objective.batch(rows, 0, 0)["targets"]].mean()), name)
            for name, rows in others.items()
        }

    def save(self, directory: Path, params: Any) -> None:
        """Write configuration, parameters and tokenizer in the Hugging Face layout."""
        weights.save(directory, self.objective.family, self.objective.config, params)
        self.vocabulary.tokenizer.save(str(directory / "tokenizer.json"))

    def fingerprint(self) -> str:
        """SHA-256 of every row."""
        digest = hashlib.sha256()
        for rows in self.rows.values():
            digest.update(rows.tobytes())
        return digest.hexdigest()

    def sample(self, params: Any, *, lines: int = 8, temperature: float = 0.7, seed: int = 0) -> list[str]:
        """Lines of a new document, token by token from the model; for the causal objective.

        Args:
            params: of the model.
            lines: that are not empty, at the most.
            temperature: > 0, of the choice of tokens.
            seed: of the choice.
        """
        length, end = self.objective.config.max_positions, self.vocabulary.ids["end"]
        ids = np.full(length, end, np.int32)
        text: list[str] = []
        for position in range(length - 1):
            key = jax.random.fold_in(jax.random.key(seed), position)
            ids[position + 1] = self._next_token(params, ids, position, key, temperature)
            if ids[position + 1] == end:
                break
            written = self.vocabulary.tokenizer.decode(ids[1 : position + 2].tolist())
            text = [line for line in written.split("\n") if line.strip()]
            if len(text) > lines or (len(text) == lines and written.endswith("\n")):
                break
        return text[:lines]

    def _draw(
        self, params: Any, ids_T: jax.Array, position: jax.Array, key: jax.Array, temperature: float
    ) -> jax.Array:
        """The token after a position, drawn from the model."""
        return jax.random.categorical(key, self._apply(params, ids_T[None])[0, position] / temperature)

    def _figures(self, loss: float, part: str) -> dict[str, float]:
        bits = loss * self.objective.targets_per_token / math.log(2) / self._bytes_per_token[part]
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits}

    def _logits(self, params: Any, batch: Arrays, key: jax.Array | None = None) -> jax.Array:
        return self._apply(params, *self.objective.arguments(batch), key)

    def _losses(self, params: Any, batch: Arrays, key: jax.Array | None = None) -> jax.Array:
        logits_BPV = self._logits(params, batch, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BPV, batch["targets"]).mean(-1)
