"""Classification and regression of texts by a pretrained encoder, as a task that any optimizer can train.

The examples are tokenised once, into arrays of the same length, of which a batch may take a shorter part. With
a stride, a long text is several rows, its windows: each is trained with an equal share of the text's weight,
and their logits are averaged. The loss per example, and the metrics that an evaluation gives of a whole part,
are those of `text_targets`. Numbers are learned in units of their standard deviation, and the saved model gives
them as they are.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.data import baseline, buckets, measures, sampling, shown, targets, text_summary
from examples.data.summary import Summary
from examples.data.text import TextExamples, sample
from examples.models import pretrained, windows
from examples.models.adapters import Keys, from_nnx
from examples.models.bert import Classifier
from examples.models.text_classifier import TextClassifier
from examples.tasks import text_targets
from optimiz import training

EVALUATION_BATCH = 128

WHOLE = 0.99  # of the training texts are not truncated at the default length
_MEASURED = 10_000  # texts, whose lengths represent those of all
_SEQUENCES = ("ids_BT", "mask_BT", "types_BT")

Arrays = Mapping[str, np.ndarray]


class TextClassification:
    """Tokenised parts of a data set, and the model that is to predict their labels.

    Args:
        parts: "train" and others; all have the classes of "train".
        model: directory of the encoder.
        length: T, the number of tokens per example; longer texts are truncated. None for the length that leaves
            99 % of the training texts whole, or the largest that the model reads.
        dropout: dropout rate of hidden vectors and of attention weights, in [0, 1).
        pooling: ``"mean"`` or ``"first"``.
        remat: what the backward pass computes again, see `remat.REMAT`.
        bucket_count: number of lengths into which the texts are sorted, so that a batch has less padding.
        class_weights: weights of classes in the loss, see `sampling.class_weights`; empty for none.
        balanced: whether every class is seen equally often.
        stride: number of tokens that neighbouring windows of a long text share; None to truncate it.
        start: ``"pretrained"`` for the parameters in the directory; ``"post_ln"`` or ``"pre_ln"`` for an
            encoder of the same size with new ones, a control, with its norms after or before the sublayers.

    Attributes:
        length: T.
        summary: summary of the data, for the screen and a report.
        classifier: the model, to be saved with parameters and asked for predictions.
        target: loss and metrics of what is predicted.
        rows: number of rows of the training part: texts, or their windows.

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
        remat: str = "none",
        bucket_count: int = 1,
        class_weights: Sequence[str] = (),
        balanced: bool = False,
        stride: int | None = None,
        start: str = "pretrained",
    ):
        text_targets.check(parts)
        train = parts["train"]
        self._kind, self.target, self._balanced = train.problem, text_targets.TARGETS[train.problem], balanced
        self._bucket_count = bucket_count
        self._scale = text_targets.scale(train)
        config, self._encoder = pretrained.load_encoder(
            model, hidden_dropout=dropout, attention_dropout=dropout, remat=remat
        )
        self._pretrained = start == "pretrained"
        config = dataclasses.replace(config, norm_first=start == "pre_ln")
        if length is not None:
            config.check_length(length)
        tokenizer = pretrained.load_tokenizer(model, config)
        self._parts: dict[str, Arrays] = {}
        self._owners: dict[str, np.ndarray] = {}
        self._labels = {name: self._standardized(part.labels) for name, part in parts.items()}
        some = sample(train, _MEASURED)
        lengths = pretrained.lengths(tokenizer, some.texts, some.pairs, config.max_tokens)
        self.length = _length_for(lengths, config.max_tokens) if length is None else length
        pairs = train.pairs is not None
        kind, names = pretrained.read_model_type(model), train.label_names
        about = (names, self.length, pairs, train.problem, stride, train.columns)
        self.classifier = TextClassifier(kind, config, pooling, tokenizer, *about)
        cut: dict[str, int] = {}
        for name, part in parts.items():
            found = windows.encode(tokenizer, part.texts, part.pairs, self.length, stride)
            tokens, self._owners[name], cut[name] = found
            self._parts[name] = tokens | {"label": self._labels[name][self._owners[name]]}

        self.rows = len(self._owners["train"])
        self._bounds = buckets.bounds(self._lengths("train"), bucket_count, self.length)
        totals = {name: len(part.texts) for name, part in parts.items()}
        unknown = pretrained.unknown_share(tokenizer, self._parts["train"], pairs=pairs)
        self.summary = text_summary.of_texts(parts)
        self.summary |= text_summary.of_lengths(lengths, cut, totals, self.length, config.max_tokens)
        if stride is not None:
            self.summary |= text_summary.of_windows(windows.counts(self._owners["train"]), stride)
        self.summary |= text_summary.of_unknown(unknown)
        self.summary |= text_summary.of_padding(self._lengths("train"), self._bounds, self.length)
        self._weights = None
        if class_weights:
            self._weights = sampling.class_weights(class_weights, train.labels, names)
            listed = ", ".join(f"{shown.name(n)} {w:.3g}" for n, w in zip(names, self._weights, strict=True))
            self.summary |= Summary({"class weights": listed})

        def classifier(key: jax.Array) -> Classifier:
            return Classifier(config, len(names), pooling, rngs=Keys(key))

        self._make = classifier
        # The structure of the model alone: the parameters of the encoder come from the file.
        _, self._apply = from_nnx(nnx.eval_shape(lambda: classifier(jax.random.key(0))))
        self._compiled_logits = jax.jit(self._logits)

    @property
    def meaning(self) -> dict[str, Any]:
        """What the parameters mean: the labels, and a digest of the tokens."""
        meaning = self.classifier.meaning
        if self._kind == targets.NUMBER:  # in units of which the parameters predict them
            meaning["label_names"] |= dict(zip(("mean", "deviation"), self._scale, strict=True))
        return meaning

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
        train = self._parts["train"] | self._row_weights
        if of < 1:
            total = len(self._labels["train"])
            texts = np.random.default_rng(0).permutation(total)[: max(round(of * total), 1)]
            rows = np.flatnonzero(np.isin(self._owners["train"], texts))
            train = {name: array[rows] for name, array in train.items()}
        return training.Task(
            init=self._init,
            loss=self._losses,
            batches=self._batches(train, batch_size, seed, share),
            evaluate=self.evaluation("validation"),
            logits=self._logits if self._kind == targets.CLASS else None,  # of which labels can be drawn
        )

    def evaluation(self, part: str) -> Callable[[Any], dict[str, float]]:
        """A function from parameters to "loss" and the metrics of a part."""
        labels = self._labels[part]

        def evaluate(params: Any) -> dict[str, float]:
            logits = self.predict(part, params)
            measured = self.target.measure(self._as_given(logits), self._as_given(labels))
            return {"loss": float(self.target.losses(logits, labels).mean())} | measured

        return evaluate

    def predict(self, part: str, params: Any) -> np.ndarray:
        """The logits of a part, [N, C]; of a number, in units of the standard deviation."""
        arrays, lengths = self._parts[part], self._lengths(part)
        found, shorter = np.zeros((len(lengths), len(self.classifier.names)), np.float32), -1
        for bound in self._bounds:
            rows = np.flatnonzero((shorter < lengths) & (lengths <= bound))
            of_bucket = {name: arrays[name][rows, :bound] for name in _SEQUENCES}
            batches = training.padded(of_bucket, EVALUATION_BATCH) if len(rows) else []
            logits = [np.asarray(self._compiled_logits(params, batch)) for batch in batches]
            found[rows] = np.concatenate(logits)[: len(rows)] if logits else 0
            shorter = bound
        return windows.means(found, self._owners[part])

    def details(self, params: Any) -> dict[str, Any]:
        """What the test examples of each class or label are predicted to be; nothing of numbers.

        See `baseline.confusion` and `measures.of_each_label`.
        """
        if self._kind == targets.NUMBER:
            return {}
        names, labels, logits = self.classifier.names, self._labels["test"], self.predict("test", params)
        if self._kind == targets.LABELS:
            return measures.of_each_label(names, labels, logits)
        return baseline.confusion(names, labels, logits.argmax(-1))

    def save(self, directory: Path, params: Any) -> None:
        """Write the model, see `TextClassifier.save`; numbers are then predicted as they are."""
        if self._kind == targets.NUMBER:
            mean, deviation = self._scale
            wide = jax.tree.map(
                lambda leaf: np.asarray(leaf, np.float32) * np.float32(deviation), params["head"]
            )
            params = {**params, "head": wide | {"bias": wide["bias"] + np.float32(mean)}}
        self.classifier.save(directory, params)

    def fingerprint(self) -> str:
        """SHA-256 of the pretrained parameters and of every tokenised example."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves((self._encoder, self._parts)):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _standardized(self, labels: np.ndarray) -> np.ndarray:
        mean, deviation = self._scale
        return ((labels - mean) / deviation).astype(np.float32) if self._kind == targets.NUMBER else labels

    def _as_given(self, values: np.ndarray) -> np.ndarray:
        mean, deviation = self._scale
        return values * deviation + mean if self._kind == targets.NUMBER else values

    def _lengths(self, part: str) -> np.ndarray:
        return self._parts[part]["mask_BT"].sum(1)

    def _batches(
        self, train: Arrays, batch_size: int, seed: int, share: tuple[int, int]
    ) -> Callable[[int], Mapping[str, np.ndarray]]:
        if self._balanced:
            return sampling.balanced(train, train["label"], batch_size, seed, share)
        if self._bucket_count == 1:
            return training.shuffled(train, batch_size, seed, share)
        lengths = train["mask_BT"].sum(1)
        given = {"batch_size": batch_size, "seed": seed, "share": share, "sequences": _SEQUENCES}
        return training.Bucketed(train, lengths, self._bounds, **given)

    @property
    def _row_weights(self) -> dict[str, np.ndarray]:
        """The weight of each training row, unless all are 1: that of its class, divided among its windows."""
        if self._weights is None and self.classifier.stride is None:
            return {}
        owners = self._owners["train"]
        of_class = 1.0 if self._weights is None else self._weights[self._parts["train"]["label"]]
        return {"weight": (of_class / windows.counts(owners)[owners]).astype(np.float32)}

    def _init(self, key: jax.Array) -> dict[str, Any]:
        if self._pretrained:
            return self._encoder | self._new(key)
        return self._new(key)

    @functools.cached_property
    def _new(self) -> Callable[[jax.Array], dict[str, Any]]:
        """Key → new parameters: of the head alone around a pretrained encoder, which is then not allocated."""

        def made(key: jax.Array) -> dict[str, Any]:
            params = from_nnx(self._make(key))[0]
            return {"head": params["head"]} if self._pretrained else params

        return jax.jit(made)

    def _logits(self, params: Any, batch: Arrays, key: jax.Array | None = None) -> jax.Array:
        logits_BC = self._apply(params, *(batch[name] for name in _SEQUENCES), key)
        return logits_BC.astype(jnp.float32)

    def _losses(self, params: Any, batch: Arrays, key: jax.Array | None) -> jax.Array:
        return self.target.losses(self._logits(params, batch, key), batch["label"])


def _length_for(lengths: np.ndarray, most: int) -> int:
    needed = int(np.quantile(lengths, WHOLE, method="higher"))
    return min(-(-needed // buckets.STEP) * buckets.STEP, most)
