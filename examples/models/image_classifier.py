"""A trained classifier of images: saved, read back, and asked for probabilities.

A ViT is saved in the Hugging Face layout. `transformers` has no ResNet of CIFAR's shape; one is saved under the
names of its parameters here, with the statistics of its batch norms, and only this page reads it back. Both
have a `preprocessor_config.json`, which says how pixels are normalized.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from examples.models import families, label_names, preprocessing, resnet, vit, weights
from examples.models.adapters import Keys, from_nnx
from examples.models.layout import by_path, check_names
from examples.models.tensors import CONFIG, WEIGHTS, opened
from optimiz import training

_BATCH = 128
_RESNET = "optimiz-resnet"
MODEL_TYPES = (families.VIT.model_type, _RESNET)

Config = resnet.ResNetConfig | vit.ViTConfig


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClassifier:
    """A classifier of images.

    Attributes:
        config: configuration of the model.
        size: side of the images, in pixels, I.
        mean: mean of the pixels of each channel by which images are normalized, in [0, 1].
        deviation: standard deviation, likewise, at least 1 / 255.
        names: names of the classes, L.
    """

    config: Config
    size: int
    mean: Sequence[float]
    deviation: Sequence[float]
    names: Sequence[str]

    @property
    def meaning(self) -> dict[str, Any]:
        """What its parameters mean: the names of the classes."""
        return {"label_names": list(self.names)}

    @property
    def is_resnet(self) -> bool:
        """Whether the model is a ResNet, which returns its statistics too."""
        return isinstance(self.config, resnet.ResNetConfig)

    def module(self, key: jax.Array) -> nnx.Module:
        """The model, with random parameters."""
        return (resnet.ResNet if self.is_resnet else vit.ViT)(self.config, rngs=Keys(key))  # type: ignore[arg-type]

    def normed(self, images_BIIC: jax.Array) -> jax.Array:
        """Images of numbers from 0 to 255, normalized, in float32."""
        mean, deviation = (np.float32(255) * np.asarray(x, np.float32) for x in (self.mean, self.deviation))
        return (jnp.asarray(images_BIIC, jnp.float32) - mean) / deviation

    def logits(self, params: Any, images_NIIC: np.ndarray, statistics: Any = None) -> np.ndarray:
        """The logits of images, float32 [N, L].

        Args:
            params: the parameters.
            images_NIIC: uint8 [N, I, I, C], N ≥ 1.
            statistics: those of the batch norms of a ResNet.
        """
        batches = training.padded({"image": images_NIIC}, _BATCH)
        logits = [self._evaluated(params, batch["image"], statistics) for batch in batches]
        return np.concatenate(logits)[: len(images_NIIC)]

    def probabilities(self, params: Any, images_NIIC: np.ndarray, statistics: Any = None) -> np.ndarray:
        """The probabilities of the classes for each image, float32 [N, L]; arguments as for `logits`."""
        return np.asarray(jax.nn.softmax(self.logits(params, images_NIIC, statistics)))

    @functools.cached_property
    def apply(self) -> Any:
        """The model as a function of its parameters."""
        return from_nnx(nnx.eval_shape(lambda: self.module(jax.random.key(0))))[1]

    @functools.cached_property
    def _evaluated(self) -> Any:
        def evaluated(params: Any, images: jax.Array, statistics: Any) -> jax.Array:
            found = self.apply(params, self.normed(images), *([statistics] if self.is_resnet else []))
            return (found[0] if self.is_resnet else found).astype(jnp.float32)

        return jax.jit(evaluated)

    def save(self, directory: Path, params: Any, statistics: Any = None) -> None:
        """Write configuration, normalization, parameters and statistics, so that `load` reads them back."""
        if not self.is_resnet:
            weights.save(directory, families.VIT, self.config, params, more=label_names.keys(self.names))
        else:
            directory.mkdir(parents=True, exist_ok=True)
            arrays = by_path({"params": params, "statistics": statistics})
            tensors = {path.replace("/", "."): np.asarray(array, np.float32) for path, array in arrays.items()}
            about = {"model_type": _RESNET, "image_size": self.size, **dataclasses.asdict(self.config)}
            training.write_whole(directory / WEIGHTS, safetensors.numpy.save(tensors))
            config = json.dumps(about | label_names.keys(self.names), indent=2)
            training.write_whole(directory / CONFIG, config + "\n")
        preprocessing.save(directory, self.size, self.mean, self.deviation)


def load(directory: Path) -> tuple[ImageClassifier, Any, Any]:
    """Read a classifier, its parameters and its statistics, which are None for a ViT.

    Args:
        directory: directory that `ImageClassifier.save` has written.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is damaged, or the files are not those of such a classifier.
    """
    description = weights.read_description(directory)
    names = label_names.read(directory, description)
    if description.get("model_type") != _RESNET:
        config, params = weights.load(directory, families.VIT)
        mean, deviation = preprocessing.norm(directory, config.channels)
        if mean is None or deviation is None:
            raise FileNotFoundError(f"{directory} has no {preprocessing.PREPROCESSOR}")
        return ImageClassifier(config, config.image_size, mean, deviation, names), params, None
    config, size = _resnet_config(directory, description)
    mean, deviation = preprocessing.norm(directory, config.channels)
    if mean is None or deviation is None or len(names) != config.classes:
        raise ValueError(f"{directory} is not a ResNet that finetune_image has saved")
    classifier = ImageClassifier(config, size, mean, deviation, names)
    model = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: classifier.module(jax.random.key(0))), nnx.Param))
    images = jax.ShapeDtypeStruct((1, size, size, config.channels), jnp.float32)
    like = {"params": model, "statistics": jax.eval_shape(classifier.apply, model, images)[1]}
    expected = {path.replace("/", "."): f"float {list(leaf.shape)}" for path, leaf in by_path(like).items()}
    with opened(directory) as file:
        found = {key: file.described(key) for key in file.keys()}  # noqa: SIM118
        check_names(f"{file.path} is not the model that {CONFIG} describes", found, expected)
        arrays = [jnp.asarray(file.read(key)) for key in expected]
    read = jax.tree.unflatten(jax.tree.structure(like), arrays)
    return classifier, read["params"], read["statistics"]


def _resnet_config(directory: Path, description: Mapping[str, Any]) -> tuple[resnet.ResNetConfig, int]:
    """The configuration of a ResNet, and the side of its images."""
    fields = {field.name for field in dataclasses.fields(resnet.ResNetConfig)}
    given = {name: tuple(x) if isinstance(x, list) else x for name, x in description.items() if name in fields}
    size = description.get("image_size")
    try:
        if type(size) is not int or size < 1:
            raise ValueError(f"image_size must be a number of pixels, got {size!r}")
        return resnet.ResNetConfig(**given), size
    except (TypeError, ValueError) as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from None
