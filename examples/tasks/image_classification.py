"""Image classification, as a task that any optimizer can train.

Images are normalized by the mean and deviation of the training images, or of those that a pretrained model was
trained on. In training they are augmented at random: padded by an eighth and cropped back, and mirrored if
requested. That happens inside the loss, with its key, so that every trial of a line search sees the same images
as its step. The loss is the cross-entropy with smoothed labels. Evaluations neither augment nor smooth.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from examples.data import baseline
from examples.data.images import ImageExamples
from examples.models import families, preprocessing, pretrained, resnet, vit, weights
from examples.models.adapters import from_nnx
from examples.models.image_classifier import Config, ImageClassifier
from optimiz import compare, training

STATISTICS_BATCH, STATISTICS_BATCHES = 128, 8  # of training images, for the statistics of batch norms
CROP, FLIP = "crop", "flip"

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that predicts the classes.

    Attributes:
        config: its configuration.
        trained: pretrained parameters, without the new head.
        mean: mean of the pixels by which it normalizes, in [0, 1]; None for that of the training images.
        deviation: standard deviation, likewise.
    """

    config: Config
    trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mean: Sequence[float] | None = None
    deviation: Sequence[float] | None = None


def choose(name: str, size: int, channels: int, classes: int, dropout: float, remat: str = "none") -> Model:
    """A ResNet for small images, a ViT, or a pretrained ViT from its directory.

    Args:
        name: `"resnet"`, `"vit"`, or the directory of the model, or of a run that has saved it.
        size: side of the images, I.
        channels: number of channels of the images, C.
        classes: number of classes.
        dropout: dropout rate of a ViT, in [0, 1).
        remat: what the backward pass computes again, see `remat.REMAT`.

    Raises:
        FileNotFoundError: there is no such directory, or it lacks a file.
        ValueError: it is damaged, or the model takes images of another size.
    """
    if name == "resnet":
        return Model(resnet.cifar(8, classes, channels=channels))
    settings = {"hidden_dropout": dropout, "attention_dropout": dropout, "remat": remat}
    if name == "vit":
        patch = max(p for p in range(1, size // 4 + 1) if size % p == 0) if size >= 4 else 1
        return Model(vit.ViTConfig(size, patch, 64, 4, 4, 256, classes=classes, channels=channels, **settings))
    if not Path(name).is_dir():
        raise FileNotFoundError(f"model must be 'resnet', 'vit' or a directory, got {name!r}")
    directory = pretrained.saved_in(Path(name))
    config, trained = weights.load(directory, families.VIT, classes=0, **settings)
    if (config.image_size, config.channels) != (size, channels):
        raise ValueError(
            f"{directory} takes images of {config.image_size} × {config.image_size} × {config.channels}, got "
            f"{size} × {size} × {channels}"
        )
    mean, deviation = preprocessing.norm(directory, channels)
    return Model(dataclasses.replace(config, classes=classes), trained, mean, deviation)


class ImageClassification:
    """Parts of a data set of images, and the model that is to predict their classes.

    Args:
        parts: "train" and others; all have the size and the classes of "train".
        model: from `choose`.
        augment: `"crop"`, `"flip"`, both or neither.
        smoothing: ε in [0, 1): a label has the probability 1 - ε, and ε is spread over all classes.

    Attributes:
        classifier: the model, to be saved with parameters and asked for predictions.

    Raises:
        ValueError: a part has images of another size than "train".
    """

    def __init__(
        self, parts: Mapping[str, ImageExamples], model: Model, *, augment: Sequence[str], smoothing: float
    ):
        train = parts["train"].images
        for name, part in parts.items():
            if part.images.shape[1:] != train.shape[1:]:
                raise ValueError(
                    f"images of {name} must be {list(train.shape[1:])}, as in training, got "
                    f"{list(part.images.shape[1:])}"
                )
        self._model, self._augment, self._smoothing = model, augment, smoothing
        self._classes = len(parts["train"].label_names)
        self._parts = {name: {"image": part.images, "label": part.labels} for name, part in parts.items()}
        axes = (0, 1, 2)
        mean = train.mean(axes) / 255 if model.mean is None else model.mean
        deviation = train.std(axes) / 255 if model.deviation is None else model.deviation
        self.classifier = ImageClassifier(
            model.config,
            train.shape[1],
            mean,
            np.maximum(deviation, 1 / 255),
            parts["train"].label_names,
        )
        self._apply = self.classifier.apply
        self._compiled_statistics = jax.jit(self._statistics_of)

    def task(self, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)) -> training.Task:
        """The task of the training part, evaluated on the validation part.

        Args:
            batch_size: B, images per update.
            seed: seed of the order of the images.
            share: which part of each batch this process reads, see ``training.Layout.share``.
        """
        return training.Task(
            init=lambda key: dict(from_nnx(self.classifier.module(key))[0]) | dict(self._model.trained),
            loss=self._losses,
            batches=training.shuffled(self._parts["train"], batch_size, seed, share),
            evaluate=self.evaluation("validation"),
            logits=self._logits,
        )

    def predict(self, part: str, params: Any) -> np.ndarray:
        """The logits of a part, [N, L]; batch norms use the statistics of training images."""
        return self.classifier.logits(params, self._parts[part]["image"], self._statistics(params))

    def save(self, directory: Path, params: Any) -> None:
        """Write the model, see `ImageClassifier.save`."""
        self.classifier.save(directory, params, self._statistics(params))

    def evaluation(self, part: str) -> Callable[[Any], dict[str, float]]:
        """A function from parameters to the metrics of a part: "loss", "accuracy", "macro_f1", "mcc"."""
        labels = self._parts[part]["label"]

        def evaluate(params: Any) -> dict[str, float]:
            logits = self.predict(part, params)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return {"loss": float(losses.mean())} | baseline.metrics(labels, logits.argmax(-1))

        return evaluate

    def confusion(self, params: Any) -> dict[str, Any]:
        """What the test images are mistaken for, see `baseline.confusion`."""
        labels, said = self._parts["test"]["label"], self.predict("test", params).argmax(-1)
        return baseline.confusion(self.classifier.names, labels, said)

    def fingerprint(self) -> str:
        """SHA-256 of the trained parameters, and of every image and label."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves((dict(self._model.trained), self._parts)):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _statistics(self, params: Any) -> resnet.Statistics | None:
        """The statistics of a ResNet's batch norms on training images; None for a ViT."""
        if not self.classifier.is_resnet:
            return None
        draw = training.shuffled(self._parts["train"], STATISTICS_BATCH, 0)
        drawn = [self._compiled_statistics(params, draw(i)["image"]) for i in range(STATISTICS_BATCHES)]
        return resnet.average_statistics(lambda found: found, drawn)

    def _logits(self, params: Any, batch: Arrays, key: jax.Array | None = None) -> jax.Array:
        images, keys = self.classifier.normed(batch["image"]), ()
        if key is not None:
            place_key, dropout_key = jax.random.split(key)
            images = moved(images, self._augment, place_key)
            keys = () if self.classifier.is_resnet else (dropout_key,)
        found = self._apply(params, images, *keys)
        return (found[0] if self.classifier.is_resnet else found).astype(jnp.float32)

    def _statistics_of(self, params: Any, images: jax.Array) -> resnet.Statistics:
        return self._apply(params, self.classifier.normed(images))[1]

    def _losses(self, params: Any, batch: Arrays, key: jax.Array | None) -> jax.Array:
        logits_BL = self._logits(params, batch, key)
        targets_BL = optax.smooth_labels(jax.nn.one_hot(batch["label"], self._classes), self._smoothing)
        return optax.softmax_cross_entropy(logits_BL, targets_BL)


def moved(images_BIIC: jax.Array, augment: Sequence[str], key: jax.Array) -> jax.Array:
    """Shift each image within a margin of an eighth, and mirror it, at random."""
    place_key, flip_key = jax.random.split(key)
    count, side, _, channels = images_BIIC.shape
    if CROP in augment:
        margin = max(side // 8, 1)
        padded = jnp.pad(images_BIIC, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        corners = jax.random.randint(place_key, (count, 2), 0, 2 * margin + 1)
        shape = (side, side, channels)
        images_BIIC = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), shape))(
            padded, corners
        )
    if FLIP in augment:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (count, 1, 1, 1))
        images_BIIC = jnp.where(mirrored, images_BIIC[:, :, ::-1], images_BIIC)
    return images_BIIC


def draw_mistakes(examples: ImageExamples, logits: np.ndarray, path: Path, *, at_most: int = 24) -> int:
    """Draw the misclassified images, the most confident mistakes first, and return their number.

    Args:
        examples: N images.
        logits: [N, L].
        path: path of the picture.
        at_most: largest number of images to draw.
    """
    said = logits.argmax(-1)
    shifted = logits - logits.max(-1, keepdims=True)
    surety = -np.log(np.exp(shifted).sum(-1))  # log-probability of the prediction
    mistaken = np.flatnonzero(said != examples.labels)
    shown = mistaken[np.argsort(-surety[mistaken], kind="stable")][:at_most]
    rows = max(math.ceil(len(shown) / 8), 1)
    figure = Figure(figsize=(9, 1.4 * rows), layout="constrained")
    for axes in (grid := figure.subplots(rows, 8, squeeze=False).ravel()):
        axes.set_axis_off()
    for axes, i in zip(grid, shown, strict=False):
        image = examples.images[i]
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        names = examples.label_names
        axes.set_title(compare.drawn(f"{names[examples.labels[i]]}, not {names[said[i]]}"), fontsize=8)
    compare.save(figure, path, dpi=120)
    return len(mistaken)
