"""ViT, the Transformer encoder over patches of an image.

An image is cut into P × P patches, each mapped to a vector. A learned class token comes before them, and the
classes are predicted from its vector. With n a LayerNorm, A multi-head self-attention and F the MLP

    y = x + A(n_a(x))     x' = y + F(n_f(y))     logits = n(x)[0] W + b after the last,

where x starts as [class, patches] + position. Dropout follows the embeddings, the attention weights and each
sublayer.

Letters in names: B batch, I height and width of an image, C channels, P height and width and R rows of patches,
T tokens, D hidden size, N layers, L classes.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv:2010.11929).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models import blocks, fields
from examples.models.blocks import ACTIVATIONS, Linear, Norm, PreNormLayer
from examples.models.dropout import Key, dropout, split


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a ViT; the defaults, except for the sizes, are those of `transformers`.

    `image_size` and `patch_size` are the lengths of a side, in pixels. Without `classes` there is no head.
    `remat` says what the backward pass computes again, see `remat.REMAT`.

    Raises:
        ValueError: a field is outside its domain.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    classes: int = 0
    channels: int = 3
    activation: str = "gelu"
    norm_eps: float = 1e-12
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    remat: str = "none"

    def __post_init__(self) -> None:
        fields.check_remat(self)
        sizes = "image_size patch_size hidden_size layers heads intermediate_size channels"
        fields.check_sizes(self, *sizes.split())
        check = partial(fields.check_field, self)
        check("patch_size", self.image_size % self.patch_size == 0, f"a divisor of {self.image_size}")
        check("heads", self.hidden_size % self.heads == 0, f"a divisor of {self.hidden_size}")
        check("classes", self.classes >= 0, "at least 0")
        check("activation", self.activation in ACTIVATIONS, f"one of {list(ACTIVATIONS)}")
        check("norm_eps", self.norm_eps > 0, "positive")
        fields.check_rates(self, "hidden_dropout", "attention_dropout")

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class Patches(nnx.Module):
    """A linear map of each patch: a convolution whose stride is its size, as one matrix product."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        size = config.patch_size
        shape_PPCD = (size, size, config.channels, config.hidden_size)
        # Scaled by the inputs, as in the authors' code: pixels of variance 1 give patches of variance 1.
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape_PPCD))
        self.bias = nnx.Param(jnp.zeros(config.hidden_size))

    def __call__(self, images_BIIC: jax.Array) -> jax.Array:
        """Map `[B, I, I, C]` to `[B, T, D]`, row by row of patches."""
        P, _, C, D = self.kernel.shape
        B, rows = len(images_BIIC), images_BIIC.shape[1] // P
        x_BRRPPC = images_BIIC.reshape(B, rows, P, rows, P, C).swapaxes(2, 3)
        # All patches of the batch as rows of one matrix, as in `Linear`.
        x_NE = x_BRRPPC.reshape(B * rows * rows, -1).astype(self.kernel.dtype)
        y_ND = x_NE @ self.kernel[...].reshape(-1, D) + self.bias[...].astype(self.kernel.dtype)
        return y_ND.reshape(B, rows * rows, D)


class Embeddings(nnx.Module):
    """The class token and the patches, each with its position."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        initial = nnx.initializers.truncated_normal(0.02)
        size = config.hidden_size
        self.patch = Patches(config, rngs=rngs)
        self.cls_token = nnx.Param(initial(rngs.params(), (1, 1, size)))
        # As large as a patch: with the authors' 0.02, a short run would ignore the order of the patches.
        self.position = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (1, 1 + config.patches, size)))

    def __call__(self, images_BIIC: jax.Array, key: Key) -> jax.Array:
        """Return `[B, T, D]`."""
        side, channels = self.config.image_size, self.config.channels
        if images_BIIC.shape[1:] != (side, side, channels):
            raise ValueError(
                f"images_BIIC must have shape [B, {side}, {side}, {channels}], got {list(images_BIIC.shape)}"
            )
        patches_BTD = self.patch(images_BIIC)
        first_B1D = jnp.broadcast_to(self.cls_token[...], (len(patches_BTD), 1, patches_BTD.shape[-1]))
        x_BTD = jnp.concatenate([first_B1D.astype(patches_BTD.dtype), patches_BTD], axis=1)
        return dropout(x_BTD + self.position[...], self.config.hidden_dropout, key)


class ViT(nnx.Module):
    """A model that maps images, floating point `[B, I, I, C]`, to logits, or to the class token's vector.

    It returns the vector if it has no head. The booleans `on_N` say which layers are on; the others are not
    computed. A call raises a ValueError for images of another size, or if `on_N` does not have one entry per
    layer.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)

        def layer() -> PreNormLayer:
            return PreNormLayer(
                config.hidden_size,
                config.heads,
                config.intermediate_size,
                activation=config.activation,
                eps=config.norm_eps,
                hidden_dropout=config.hidden_dropout,
                attention_dropout=config.attention_dropout,
                rngs=rngs,
            )

        self.layers = nnx.List([layer() for _ in range(config.layers)])
        self.norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)
        if config.classes:
            # With a head of zeros the first loss is log L for every seed.
            self.head = Linear(config.hidden_size, config.classes, std=0.0, rngs=rngs)

    def __call__(self, images_BIIC: jax.Array, key: Key = None, on_N: jax.Array | None = None) -> jax.Array:
        """Return the logits, `[B, L]`, or `[B, D]`."""
        embeddings_key, *layer_keys = split(key, 1 + self.config.layers)
        x_BTD = self.embeddings(images_BIIC, embeddings_key)
        remat = self.config.remat
        x_BTD = blocks.states(self.layers, x_BTD, None, keys=layer_keys, on_N=on_N, remat=remat)[-1]
        x_BD = self.norm(x_BTD[:, 0])
        return self.head(x_BD) if self.config.classes else x_BD
