"""Pre-training of a language model on packed text, as a task that any optimizer can train.

The text is tokenised and packed once; what the model must predict is drawn anew at every step, and once for
evaluations. The loss of a row is the mean cross-entropy of its targets.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.data import memory, token_stream
from examples.data.corpus import Corpus
from examples.data.tokenization import Vocabulary
from examples.models import weights
from examples.models.adapters import Keys, from_nnx
from examples.models.layout import shapes_of
from examples.tasks.cross_entropy import cross_entropy
from examples.tasks.objectives import Arrays, Objective
from optimiz import training

METRICS = ("loss", "perplexity", "bits_per_byte")  # of an evaluation
EVALUATION_BATCH = 32
FREQUENCY_ROWS = 100_000  # at most, of the training part
EVALUATION_ROWS = 256  # at most, per part: an evaluation should cost no more than a few steps


def depth_of(params: Any) -> int:
    """The number of layers of a model; of each, if there are an encoder and a decoder."""
    return len(params.get("encoder", params)["layers"])


def _check_size(objective: Objective) -> None:
    """Refuse a model whose parameters and gradients would take too much memory."""
    layers = objective.config.layers

    def count(layers: int) -> int:
        shapes = shapes_of(objective.family, objective.config_of(layers))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    one, two = count(1), count(2)  # every further layer is as large as the second
    parameters = one + (layers - 1) * (two - one)
    memory.check(2 * 4 * parameters, f"parameters and gradients of a model of {parameters:,}")


class LanguageModel:
    """The model of an objective, at any depth, and its loss; no text is needed.

    Args:
        objective: what is to be predicted.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        # A model that grows has one depth after the other.
        self._model = functools.cache(self._at_depth)

    def start(self, key: jax.Array, layers: int | None = None) -> Any:
        """The initial parameters of a model with a number of layers; None for that of the configuration."""
        config = self.objective.config
        config = config if layers is None else self.objective.config_of(layers)
        return from_nnx(self.objective.family.model(config, rngs=Keys(key)))[0]

    def logits(
        self, params: Any, batch: Arrays, key: jax.Array | None = None, on_N: jax.Array | None = None
    ) -> jax.Array:
        """The logits of the targets of a batch, float32 [B, P, V]."""
        return self._logits(params, batch, key, on_N).astype(jnp.float32)

    def losses(
        self, params: Any, batch: Arrays, key: jax.Array | None = None, on_N: jax.Array | None = None
    ) -> jax.Array:
        """The mean cross-entropy of the targets of each row, [B]."""
        return cross_entropy(self._logits(params, batch, key, on_N), batch["targets"]).mean(-1)

    def _logits(self, params: Any, batch: Arrays, key: jax.Array | None, on_N: jax.Array | None) -> jax.Array:
        return self.apply(params, *self.objective.arguments(batch), key, on_N=on_N)

    def apply(self, params: Any, *arguments: Any, **options: Any) -> jax.Array:
        """Call the model with these parameters, whose depth is the model's."""
        return self._model(depth_of(params))(params, *arguments, **options)

    def _at_depth(self, layers: int) -> Callable[..., jax.Array]:
        family, config = self.objective.family, self.objective.config_of(layers)
        return from_nnx(nnx.eval_shape(lambda: family.model(config, rngs=Keys(0))))[1]


class Pretraining(LanguageModel):
    """Packed parts of a corpus, and the model that is to predict them.

    Args:
        parts: "train" and others.
        vocabulary: the tokenizer.
        objective: what is to be predicted.
        folder: where the tokens of a corpus in shards are kept.

    Attributes:
        rows: part → rows of text, [N, ...].
        source: where the text comes from.
        unknown: share of the training tokens that the tokenizer does not know.

    Raises:
        ValueError: a part is shorter than one row (the message names it), or the model does not fit into
            memory.
    """

    def __init__(
        self,
        parts: Mapping[str, Corpus],
        vocabulary: Vocabulary,
        objective: Objective,
        folder: Path | None = None,
    ):
        super().__init__(objective)
        self.vocabulary = vocabulary
        _check_size(objective)
        self.source = next(iter(parts.values())).source
        self.rows: dict[str, np.ndarray] = {}
        self.unknown = 0.0
        self._bytes_per_token: dict[str, float] = {}
        for name, part in parts.items():
            stream = token_stream.encoded(part, vocabulary, folder, name)
            if name == "train":
                self.unknown = stream.unknown / len(stream.ids)
            self._bytes_per_token[name] = stream.size / len(stream.ids)
            try:
                self.rows[name] = objective.pack(stream.ids)
            except ValueError as error:
                known = (
                    f"; {self.unknown:.0%} of the tokens are unknown to the tokenizer" if self.unknown else ""
                )
                raise ValueError(f"{part.source}, part {name!r}: {error}{known}") from None
        self._compiled_losses = jax.jit(self.losses)
        self._next_token = jax.jit(self._draw)

    def task(
        self, batch_size: int, seed: int, part: str = "train", share: tuple[int, int] = (0, 1)
    ) -> training.Task:
        """The task of a part, evaluated on the validation part; ids of examples are indices of its rows.

        Args:
            batch_size: B, rows per update.
            seed: seed of the order of the rows, and of what is drawn at every step.
            part: the part to train on.
            share: which part of each batch this process trains on, see ``training.Layout.share``.
        """
        rows_of, (place, places) = training.shuffled(self._numbered(part), batch_size, seed), share
        kept = slice(place * batch_size // places, (place + 1) * batch_size // places)

        def batches(step: int) -> Arrays:
            # What is drawn for a row depends on its place in the whole batch: each process draws all of it.
            return {name: rows[kept] for name, rows in self._batch(rows_of(step), seed, step).items()}

        return training.Task(
            init=self.start,
            loss=self.losses,
            batches=batches,
            evaluate=self.evaluation("validation"),
            logits=self.logits,
            depth=depth_of,
        )

    def once(self, part: str, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """Every row of a part once, in batches with ids, the last one padded; the targets are drawn once."""
        for index, numbered in enumerate(training.padded(self._numbered(part), EVALUATION_BATCH)):
            yield self._batch(numbered, seed, index) | {"weight": numbered["weight"]}

    def evaluation(self, part: str) -> Callable[[Any], dict[str, float]]:
        """A function from parameters to the metrics of a part: "loss", "perplexity", "bits_per_byte".

        The loss is in nats per target. Bits per byte refer to the text that is predicted, whatever its tokens
        are: to all of it if the objective is causal and the tokens are byte pairs. WordPiece does not predict
        white space.
        """
        rows = self.rows[part][:EVALUATION_ROWS]
        batches = training.padded(self.objective.batch(rows, 0, 0), EVALUATION_BATCH)

        def evaluate(params: Any) -> dict[str, float]:
            losses = [self._compiled_losses(params, batch) for batch in batches]
            return self._metrics(float(np.concatenate(losses)[: len(rows)].mean()), part)

        return evaluate

    def frequencies(self) -> dict[str, dict[str, float]]:
        """The metrics of guessing by the frequency of targets in training, for each part except "train"."""
        counts = np.ones(self.objective.config.vocab_size)
        targets = self.objective.batch(self.rows["train"][:FREQUENCY_ROWS], 0, 0)["targets"]
        counts += np.bincount(targets.ravel(), minlength=len(counts))
        nats = -np.log(counts / counts.sum())
        others = {name: rows[:EVALUATION_ROWS] for name, rows in self.rows.items() if name != "train"}
        return {
            name: self._metrics(float(nats[self.objective.batch(rows, 0, 0)["targets"]].mean()), name)
            for name, rows in others.items()
        }

    def save(self, directory: Path, params: Any) -> None:
        """Write configuration, parameters and tokenizer in the Hugging Face layout."""
        family, config = self.objective.family, self.objective.config
        weights.save(directory, family, config, params, self.vocabulary.ids)
        training.write_whole(directory / "tokenizer.json", self.vocabulary.tokenizer.to_str(pretty=True))

    def fingerprint(self) -> str:
        """SHA-256 of every row."""
        digest = hashlib.sha256()
        for rows in self.rows.values():
            for start in range(0, len(rows), EVALUATION_ROWS):
                digest.update(rows[start : start + EVALUATION_ROWS].tobytes())
        return digest.hexdigest()

    def sample(self, params: Any, *, lines: int = 8, temperature: float = 0.7, seed: int = 0) -> list[str]:
        """Sample lines of a new document from the model, token by token; for the causal objective.

        Args:
            params: parameters of the model.
            lines: largest number of nonempty lines.
            temperature: sampling temperature, > 0.
            seed: seed of the sampling.
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

    def _numbered(self, part: str) -> Arrays:
        """The rows of a part, with their indices as ids."""
        return {"rows": self.rows[part], "id": np.arange(len(self.rows[part]))}

    def _batch(self, numbered: Arrays, seed: int, step: int) -> dict[str, np.ndarray]:
        return {**self.objective.batch(numbered["rows"], seed, step), "id": numbered["id"]}

    def _draw(
        self, params: Any, ids_T: jax.Array, position: jax.Array, key: jax.Array, temperature: float
    ) -> jax.Array:
        """The token after a position, drawn from the model."""
        return jax.random.categorical(key, self.apply(params, ids_T[None])[0, position] / temperature)

    def _metrics(self, loss: float, part: str) -> dict[str, float]:
        bits = loss * self.objective.targets_per_token / math.log(2) / self._bytes_per_token[part]
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits}
