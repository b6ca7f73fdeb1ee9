"""ResNet keeps its promises; `test_model_parity` compares it with PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models.adapters import from_nnx
from examples.models.resnet import Norm, ResNet, ResNetConfig, average_statistics, cifar
from tests.examples import golden
from tests.golden.model_parity_record import BOTTLENECK, CIFAR


def build(config):
    return golden.drawn(lambda: ResNet(config, rngs=nnx.Rngs(0)))


def test_statistics_of_a_batch_repeat_its_logits():
    params, apply = build(CIFAR)
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3)) + 3
    of_batch, statistics = apply(params, images)
    given, _ = apply(params, images[:2], statistics)
    np.testing.assert_allclose(given, of_batch[:2], atol=1e-5)


def test_statistics_of_equal_parts_are_those_of_the_whole():
    images = jax.random.normal(jax.random.key(0), (8, 4, 4, 2)) * jnp.arange(1, 9)[:, None, None, None]

    def of_batch(batch):
        return [(batch.mean((0, 1, 2)), batch.var((0, 1, 2)))]

    ((mean, variance),) = average_statistics(of_batch, jnp.split(images, 4))
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(variance, images.var((0, 1, 2)), rtol=1e-5)


@pytest.mark.long
def test_group_norm_needs_no_batch():
    config = dataclasses.replace(CIFAR, norm="group", groups=4)
    params, apply = build(config)
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))
    logits, statistics = apply(params, images)
    assert statistics == []
    np.testing.assert_allclose(apply(params, images[:1])[0], logits[:1], atol=1e-5)
    (width,) = params["embeddings"]["norm"]["scale"].shape
    x = jax.random.normal(jax.random.key(1), (2, 3, 3, width)) * 5 + 2
    expected = nnx.GroupNorm(width, num_groups=4, epsilon=1e-5, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(Norm(config, width)(x, None), expected, atol=1e-5)


def test_the_variant_for_cifar():
    config = cifar(20, classes=10)
    assert (config.depths, config.widths, config.stem_width) == ((3, 3, 3), (16, 32, 64), 16)
    params, _ = from_nnx(nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 272_474
    with pytest.raises(ValueError, match="depth must be 6 n \\+ 2, at least 8, got 18"):
        cifar(18, classes=10)


def test_resnet_50_has_its_number_of_parameters():
    config = ResNetConfig((3, 4, 6, 3), (256, 512, 1024, 2048), classes=1000, bottleneck=True)
    params, _ = from_nnx(nnx.eval_shape(lambda: ResNet(config, rngs=nnx.Rngs(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 25_557_032


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depths", ()),
        ("widths", (8,)),
        ("classes", 0),
        ("norm", "layer"),
        ("norm_eps", 0.0),
        ("widths", (8, 18)),
    ],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got "):
        dataclasses.replace(BOTTLENECK, **{field: value})


def test_groups_must_divide():
    with pytest.raises(ValueError, match=r"^groups must be a divisor of every number of channels, got 3$"):
        dataclasses.replace(CIFAR, norm="group", groups=3)


def test_another_number_of_channels_is_refused():
    params, apply = build(CIFAR)
    with pytest.raises(ValueError, match=r"must have 3 channels, got \[1, 8, 8, 1\]"):
        apply(params, jnp.zeros((1, 8, 8, 1)))
