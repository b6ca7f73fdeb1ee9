"""ViT keeps its promises; `test_model_parity` compares it with PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models import families, weights
from examples.models.adapters import from_nnx
from examples.models.vit import Embeddings, ViT, ViTConfig
from tests.examples import golden

TINY = ViTConfig(image_size=8, patch_size=4, hidden_size=16, layers=2, heads=4, intermediate_size=32, classes=3)


def test_what_is_written_is_what_was_read(tmp_path):
    golden.check_round_trip("vit_tiny", families.VIT, tmp_path)


def test_without_its_head_it_gives_what_the_head_takes():
    config, params = weights.load(golden.GOLDEN / "vit_tiny", families.VIT, classes=0)
    assert config == dataclasses.replace(TINY, classes=0) and "head" not in params
    whole, apply, arrays = golden.loaded("vit_tiny", families.VIT)
    images = arrays["pixel_values"].transpose(0, 2, 3, 1)
    features_BD = golden.apply_of(families.VIT, config)(params, images)
    logits_BL = features_BD @ whole["head"]["kernel"] + whole["head"]["bias"]
    np.testing.assert_allclose(logits_BL, apply(whole, images), atol=1e-5)


@pytest.mark.long
def test_a_fresh_head_is_undecided():
    config = dataclasses.replace(TINY, layers=1)
    params, apply = from_nnx(ViT(config, rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(jax.jit(apply)(params, jnp.ones((2, 8, 8, 3))), np.zeros((2, 3)))


@pytest.mark.long
def test_positions_begin_as_large_as_patches():
    config = ViTConfig(32, 2, 64, 1, 4, 256, channels=3)
    embeddings = Embeddings(config, rngs=nnx.Rngs(0))
    patches_BTD = embeddings.patch(jax.random.normal(jax.random.key(0), (2, 32, 32, 3)))
    assert embeddings.position[...].std() == pytest.approx(1, abs=0.02)
    assert patches_BTD.std() == pytest.approx(1, abs=0.1)


@pytest.mark.quick(1)
@pytest.mark.parametrize("field", [None, "hidden_dropout", "attention_dropout"])
def test_each_rate_drops(field):
    params, evaluate, arrays = golden.loaded("vit_tiny", families.VIT)
    images = arrays["pixel_values"].transpose(0, 2, 3, 1)
    config = dataclasses.replace(TINY, **({} if field is None else {field: 0.5}))
    logits_BL = golden.apply_of(families.VIT, config)(params, images, jax.random.key(0))
    assert np.allclose(logits_BL, evaluate(params, images), atol=1e-6) == (field is None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 0),
        ("patch_size", 3),
        ("heads", 3),
        ("classes", -1),
        ("activation", "swish"),
        ("norm_eps", 0.0),
        ("hidden_dropout", 1.0),
    ],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {value!r}$"):
        dataclasses.replace(TINY, **{field: value})


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 16, 16, 3)])
def test_images_of_another_size_are_refused(shape):
    params, apply = golden.drawn(lambda: ViT(TINY, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"must have shape \[B, 8, 8, 3\], got \[1, "):
        apply(params, jnp.zeros(shape))
