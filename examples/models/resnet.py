"""ResNet, in its variants for ImageNet and for CIFAR.

A layer is y = relu(x + F(x)), where F is two 3 × 3 convolutions (basic), or a 1 × 1, a 3 × 3 and a 1 × 1
convolution (bottleneck), with a norm after each and a relu between them. If the channels or the stride change,
x goes through a 1 × 1 convolution and a norm first. The layers are preceded by a 7 × 7 convolution of stride 2
and a max-pool (ImageNet), or by a 3 × 3 convolution of stride 1 (CIFAR), and followed by the mean over the
image and a linear map.

A batch norm is a pure function here. In training it uses the mean and variance of its batch. For evaluation
they are passed as an argument, `Statistics`, which `average_statistics` computes from training images with the
final parameters. A running average would be state that changes outside of the optimizer, that even a rejected
trial of a line search would change, and that lags behind the parameters. With `norm="group"` there are no
statistics.

Letters in names: B batch, I height and width of an image, C channels, L classes.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385); the statistics are those
of Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv:2105.07576); Wu and He, "Group Normalization"
(arXiv:1803.08494).

Departures: shortcuts of the CIFAR variant are convolutions (option B of the paper), not padding with zeros; the
stride of a bottleneck is in its 3 × 3 convolution, as in PyTorch.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models import blocks, fields

Statistics = list[tuple[jax.Array, jax.Array]]
"""Mean and variance, float32 [C], of the inputs of each batch norm, in the order of computation."""


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet.

    `depths` and `widths` count the layers and the channels of each stage; from the second stage on, the first
    layer halves the image.

    Raises:
        ValueError: a field is outside its domain.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    classes: int
    stem_width: int = 64
    bottleneck: bool = False
    cifar: bool = False
    norm: str = "batch"
    groups: int = 32
    channels: int = 3
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        fields.check_sizes(self, "classes", "stem_width", "groups", "channels")
        check = partial(fields.check_field, self)
        check("depths", len(self.depths) > 0 and min(self.depths) >= 1, "one number or more, at least 1")
        same = len(self.widths) == len(self.depths) and min(self.widths) >= 1
        check("widths", same, f"{len(self.depths)} numbers, at least 1")
        check("norm", self.norm in ("batch", "group"), "'batch' or 'group'")
        check("norm_eps", self.norm_eps > 0, "positive")
        if self.bottleneck:
            check("widths", all(width % 4 == 0 for width in self.widths), "multiples of 4")
        if self.norm == "group":
            inner = [width // 4 for width in self.widths] if self.bottleneck else []
            fits = all(width % self.groups == 0 for width in (*self.widths, *inner, self.stem_width))
            check("groups", fits, "a divisor of every number of channels")


def cifar(depth: int, classes: int, **fields: Any) -> ResNetConfig:
    """The ResNet of the paper's experiments on CIFAR, with 6 n + 2 layers in three stages.

    Raises:
        ValueError: `depth` is not such a number.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6 n + 2, at least 8, got {depth}")
    stages = ((depth - 2) // 6,) * 3
    return ResNetConfig(stages, (16, 32, 64), classes, stem_width=16, cifar=True, **fields)


class Convolution(nnx.Conv):
    """A K × K convolution without a bias, padded so that stride 1 keeps the size."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, *, rngs: nnx.Rngs):
        super().__init__(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=[(size // 2, size // 2)] * 2,
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            rngs=rngs,
        )

    def __call__(self, x_BIIC: jax.Array) -> jax.Array:
        """Map `[B, I, I, inputs]` to `[B, I, I, outputs]`, in the dtype of the kernel."""
        return super().__call__(x_BIIC.astype(self.kernel.dtype))


class Moments:
    """The statistics given to the norms of a forward pass, and those that they used."""

    def __init__(self, given: Statistics | None):
        self.given: Iterator[Any] = itertools.repeat(None) if given is None else iter(given)
        self.taken: Statistics = []


class Norm(nnx.Module):
    """Batch norm or group norm, with a scale and a bias per channel."""

    def __init__(self, config: ResNetConfig, width: int):
        self.config = config
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x_BIIC: jax.Array, moments: Moments) -> jax.Array:
        """Map `[B, I, I, C]` to `[B, I, I, C]`."""
        wide = x_BIIC.astype(jnp.float32)
        if self.config.norm == "group":
            grouped = wide.reshape(*wide.shape[:3], self.config.groups, -1)
            mean = grouped.mean((1, 2, 4), keepdims=True)
            variance = grouped.var((1, 2, 4), keepdims=True)
            normed = (grouped - mean) * jax.lax.rsqrt(variance + self.config.norm_eps)
            normed = normed.reshape(wide.shape)
        else:
            mean, variance = next(moments.given) or (wide.mean((0, 1, 2)), wide.var((0, 1, 2)))
            moments.taken.append((mean, variance))
            normed = (wide - mean) * jax.lax.rsqrt(variance + self.config.norm_eps)
        scaled = normed.astype(x_BIIC.dtype) * self.scale[...] + self.bias[...]
        return scaled.astype(x_BIIC.dtype)


class Layer(nnx.Module):
    """Two or three convolutions with a shortcut around them."""

    def __init__(self, config: ResNetConfig, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        inner = outputs // 4 if config.bottleneck else outputs
        sizes = ((1, 1), (3, stride), (1, 1)) if config.bottleneck else ((3, stride), (3, 1))
        widths = [inputs, *[inner] * (len(sizes) - 1), outputs]
        self.convolutions = nnx.List(
            [
                Convolution(before, after, *size, rngs=rngs)
                for (before, after), size in zip(itertools.pairwise(widths), sizes, strict=True)
            ]
        )
        self.norms = nnx.List([Norm(config, width) for width in widths[1:]])
        self.changes = inputs != outputs or stride != 1
        if self.changes:
            self.shortcut = Convolution(inputs, outputs, 1, stride, rngs=rngs)
            self.shortcut_norm = Norm(config, outputs)

    def __call__(self, x_BIIC: jax.Array, moments: Moments) -> jax.Array:
        """Map `[B, I, I, inputs]` to `[B, I, I, outputs]`, I divided by the stride."""
        y_BIIC = x_BIIC
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y_BIIC = norm(convolution(jax.nn.relu(y_BIIC) if i else y_BIIC), moments)
        if self.changes:
            x_BIIC = self.shortcut_norm(self.shortcut(x_BIIC), moments)
        return jax.nn.relu(x_BIIC + y_BIIC)


class Embeddings(nnx.Module):
    """The stem, before the layers."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        size, stride = (3, 1) if config.cifar else (7, 2)
        self.convolution = Convolution(config.channels, config.stem_width, size, stride, rngs=rngs)
        self.norm = Norm(config, config.stem_width)

    def __call__(self, images_BIIC: jax.Array, moments: Moments) -> jax.Array:
        """Map `[B, I, I, channels]` to `[B, I, I, stem_width]`, I unchanged or divided by 4."""
        x_BIIC = jax.nn.relu(self.norm(self.convolution(images_BIIC), moments))
        if self.config.cifar:
            return x_BIIC
        return nnx.max_pool(x_BIIC, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class ResNet(nnx.Module):
    """A model that maps images, floating point `[B, I, I, C]`, to logits.

    A call raises a ValueError for another number of channels.
    """

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        layers, inputs = [], config.stem_width
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            for i in range(depth):
                layers.append(Layer(config, inputs, width, 2 if stage and not i else 1, rngs=rngs))
                inputs = width
        self.layers = nnx.List(layers)
        # With a head of zeros the first loss is log L for every seed.
        self.head = blocks.Linear(inputs, config.classes, std=0.0, rngs=rngs)

    def __call__(
        self, images_BIIC: jax.Array, statistics: Statistics | None = None
    ) -> tuple[jax.Array, Statistics]:
        """Return the logits `[B, L]`, and the statistics used: those given, or those of this batch."""
        if images_BIIC.shape[-1] != self.config.channels:
            raise ValueError(
                f"images_BIIC must have {self.config.channels} channels, got {list(images_BIIC.shape)}"
            )
        moments = Moments(statistics)
        x_BIIC = self.embeddings(images_BIIC, moments)
        for layer in self.layers:
            x_BIIC = layer(x_BIIC, moments)
        return self.head(x_BIIC.mean((1, 2))), moments.taken


def average_statistics(of_batch: Callable[[Any], Statistics], batches: Iterable[Any]) -> Statistics:
    """The statistics of a whole data set, from batches of equal size.

    Args:
        of_batch: batch → statistics.
        batches: batches of training images, at least one.

    Returns:
        The mean of the means, and the total variance: the mean of the variances plus the variance of the means.
    """
    found: Sequence[Statistics] = [of_batch(batch) for batch in batches]
    averaged = []
    for norm in zip(*found, strict=True):
        means, variances = (jnp.stack(of) for of in zip(*norm, strict=True))
        averaged.append((means.mean(0), variances.mean(0) + means.var(0)))
    return averaged
