"""Text classification by a pretrained encoder, as a task that any optimizer can train.

The examples are tokenised once, into arrays of the same length. The loss is the cross-entropy per example; an
evaluation gives the mean loss, accuracy, macro-F1 and Matthews correlation of a whole part.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from examples.data import baseline, shown, text_summary
from examples.data.text import TextExamples, sample
from examples.models import pretrained
from examples.models.adapters import Keys, from_nnx
from examples.models.bert import Classifier
from examples.models.text_classifier import TextClassifier
from optimiz import training

EVALUATION_BATCH = 128

WHOLE = 0.99  # of the training texts are not truncated at the default length
_MEASURED = 10_000  # texts, whose lengths represent those of all
_STEP = 8  # default lengths are multiples of this

Arrays = Mapping[str, np.ndarray]


class TextClassification:
    """Tokenised parts of a data set, and the model that is to predict their classes.

    Args:
        parts: "train" and others; all have the classes of "train".
        model: directory of the encoder.
        length: T, the number of tokens per example; longer texts are truncated. None for the length that leaves
            99 % of the training texts whole, or the largest that the model reads.
        dropout: dropout rate of hidden vectors and of attention weights, in [0, 1).
        pooling: ``"mean"`` or ``"first"``.
        remat: whether the backward pass computes layers again, see `blocks.states`.

    Attributes:
        length: T.
        summary: summary of the data, for the screen and a report.
        classifier: the model, to be saved with parameters and asked for predictions.

    Raises:
        FileNotFoundError: the directory lacks a file.
        ValueError: a file is damaged, an argument is outside its domain, or the parts are of different kinds.
    """

    def __init__(
        self,
        parts: Mapping[str, TextExamples],
        model: Path,
        *,
        length: int | None,
        dropout: float,
        pooling: str,
        remat: bool = False,
    ):
        _check(parts)
        config, self._encoder = pretrained.load_encoder(
            model, hidden_dropout=dropout, attention_dropout=dropout, remat=remat
        )
        if length is not None and length > config.max_tokens:
            raise ValueError(f"length={length}: the model reads at most {config.max_tokens} tokens")
        tokenizer = pretrained.load_tokenizer(model, config)
        self._parts: dict[str, Arrays] = {}
        some = sample(parts["train"], _MEASURED)
        lengths = pretrained.lengths(tokenizer, some.texts, some.pairs, config.max_tokens)
        self.length = _length_for(lengths, config.max_tokens) if length is None else length
        pairs = parts["train"].pairs is not None
        self.classifier = TextClassifier(
            pretrained.read_model_type(model),
            config,
            pooling,
            tokenizer,
            parts["train"].label_names,
            self.length,
            pairs,
        )
        cut: dict[str, int] = {}
        for name, part in parts.items():
            tokens, cut[name] = pretrained.encode(tokenizer, part.texts, part.pairs, self.length)
            self._parts[name] = tokens | {"label": part.labels}

        totals = {name: len(part.texts) for name, part in parts.items()}
        unknown = pretrained.unknown_share(tokenizer, self._parts["train"], pairs=pairs)
        self.summary = text_summary.of_texts(parts)
        self.summary |= text_summary.of_lengths(lengths, cut, totals, self.length, config.max_tokens)
        self.summary |= text_summary.of_unknown(unknown)

        def classifier(key: jax.Array) -> Classifier:
            return Classifier(config, len(parts["train"].label_names), pooling, rngs=Keys(key))

        self._make = classifier
        # The structure of the model alone: the parameters of the encoder come from the file.
        _, self._apply = from_nnx(nnx.eval_shape(lambda: classifier(jax.random.key(0))))
        self._compiled_logits = jax.jit(self._logits)

    def task(
        self, batch_size: int, seed: int, share: tuple[int, int] = (0, 1), *, of: float = 1.0
    ) -> training.Task:
        """The task of the training part, evaluated on the validation part.

        Args:
            batch_size: B, examples per update.
            seed: seed of the order of the examples.
            share: which part of each batch this process reads, see ``training.Layout.share``.
            of: fraction of the training examples, in (0, 1], drawn at random, but always the same.
        """
        train = self._parts["train"]
        if of < 1:
            total = len(train["label"])
            rows = np.sort(np.random.default_rng(0).permutation(total)[: max(round(of * total), 1)])
            train = {name: array[rows] for name, array in train.items()}
        return training.Task(
            init=lambda key: self._encoder | self._head(key),
            loss=self._losses,
            batches=training.shuffled(train, batch_size, seed, share),
            evaluate=self.evaluation("validation"),
            logits=self._logits,
        )

    def evaluation(self, part: str) -> Callable[[Any], dict[str, float]]:
        """A function from parameters to the metrics of a part: "loss", "accuracy", "macro_f1", "mcc"."""
        labels = self._parts[part]["label"]

        def evaluate(params: Any) -> dict[str, float]:
            logits = self.predict(part, params)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return {"loss": float(losses.mean())} | baseline.metrics(labels, logits.argmax(-1))

        return evaluate

    def predict(self, part: str, params: Any) -> np.ndarray:
        """The logits of a part, [N, C]."""
        batches = training.padded(self._parts[part], EVALUATION_BATCH)
        logits = [self._compiled_logits(params, batch) for batch in batches]
        return np.concatenate(logits)[: len(self._parts[part]["label"])]

    def confusion(self, params: Any) -> dict[str, Any]:
        """What the test examples are mistaken for, see `baseline.confusion`."""
        labels, said = self._parts["test"]["label"], self.predict("test", params).argmax(-1)
        return baseline.confusion(self.classifier.names, labels, said)

    def fingerprint(self) -> str:
        """SHA-256 of the pretrained parameters and of every tokenised example."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves((self._encoder, self._parts)):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _head(self, key: jax.Array) -> dict[str, Any]:
        # Compiled, so that the encoder around it is never allocated.
        return jax.jit(lambda key: {"head": from_nnx(self._make(key))[0]["head"]})(key)

    def _logits(self, params: Any, batch: Arrays, key: jax.Array | None = None) -> jax.Array:
        logits_BC = self._apply(params, batch["ids_BT"], batch["mask_BT"], batch["types_BT"], key)
        return logits_BC.astype(jnp.float32)

    def _losses(self, params: Any, batch: Arrays, key: jax.Array | None) -> jax.Array:
        logits_BC = self._logits(params, batch, key)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BC, batch["label"])


def _length_for(lengths: np.ndarray, most: int) -> int:
    needed = int(np.quantile(lengths, WHOLE, method="higher"))
    return min(-(-needed // _STEP) * _STEP, most)


def _check(parts: Mapping[str, TextExamples]) -> None:
    train = parts["train"]
    for name, part in parts.items():
        if not part.texts:
            raise ValueError(f"{name} ({part.source}) has no examples")
        if part.label_names != train.label_names:
            raise ValueError(
                f"{name} ({part.source}) must have the classes of train, {shown.values(train.label_names)}, "
                f"got {shown.values(part.label_names)}"
            )
        if (part.pairs is None) != (train.pairs is None):
            one, two = ("pairs of texts", "single texts")[:: 1 if train.pairs is not None else -1]
            raise ValueError(f"train has {one}, but {name} ({part.source}) has {two}")
