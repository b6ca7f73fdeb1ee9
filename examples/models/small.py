"""Small classifiers of 8 × 8 images, to be trained from scratch: a Transformer and a residual network.

The Transformer reads 16 patches of 2 × 2 pixels as tokens. It has four layers of width 64, those of
``bert.py``. Its two variants differ only in the place of the norms, after each residual sum (Post-LN) or before
each sublayer (Pre-LN): they have the same parameters and the same initial values. So there is no norm after the
embedding, as in BERT, and none after the last layer, as usual in Pre-LN models.

The residual network has three blocks of two convolutions. It normalizes groups of channels, because batch
normalization would keep running means besides the parameters.

Weights are drawn with a standard deviation of 1/√inputs. Letters in names: B images, T tokens, D channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models.bert import EncoderConfig, Layer

PIXELS, PATCH = 8, 2
TOKENS = (PIXELS // PATCH) ** 2
WIDTH, LAYERS, HEADS = 64, 4, 4


class PatchTransformer(nnx.Module):
    """Images `[B, 8, 8, 1]` to logits `[B, classes]`: patches, layers, the mean over tokens, a linear head.

    With `norm_first` a Pre-LN Transformer, else a Post-LN one.
    """

    def __init__(self, classes: int, norm_first: bool, *, rngs: nnx.Rngs):
        config = EncoderConfig(
            vocab_size=1,
            hidden_size=WIDTH,
            layers=LAYERS,
            heads=HEADS,
            intermediate_size=2 * WIDTH,
            max_positions=TOKENS,
            norm_first=norm_first,
        )
        self.patch = nnx.Linear(PATCH**2, WIDTH, rngs=rngs)
        self.position = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (TOKENS, WIDTH)))
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(LAYERS)])
        self.head = nnx.Linear(WIDTH, classes, rngs=rngs)
        for layer in self.layers:
            attention, mlp = layer.attention, layer.mlp
            for linear in (attention.query, attention.key, attention.value, attention.output, mlp.up, mlp.down):
                # BERT's 0.02 is for a width of 768.
                shape = linear.kernel.shape
                linear.kernel[...] = nnx.initializers.lecun_normal()(rngs.params(), shape)

    def __call__(self, image_BHWC: jax.Array) -> jax.Array:
        """Return the logits, `[B, classes]`."""
        side = PIXELS // PATCH
        patches = image_BHWC.reshape(-1, side, PATCH, side, PATCH).swapaxes(2, 3)
        x_BTD = self.patch(patches.reshape(-1, TOKENS, PATCH**2)) + self.position[...]
        mask_BT = jnp.ones(x_BTD.shape[:2])
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT, None)
        return self.head(x_BTD.mean(1))


class Conv(nnx.Module):
    """A 3 × 3 convolution with zero padding, as one matrix product.

    XLA's convolutions are fast on a CPU, but not inside a loop, where curvatures are measured.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.stride = stride
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (9 * inputs, outputs)))

    def __call__(self, x_BHWD: jax.Array) -> jax.Array:
        """Map `[B, H, W, inputs]` to `[B, H/s, W/s, outputs]`."""
        (height, width), s = x_BHWD.shape[1:3], self.stride
        padded = jnp.pad(x_BHWD, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, i : i + height : s, j : j + width : s] for i in range(3) for j in range(3)]
        windows = jnp.concatenate(shifted, -1)
        y_ND = windows.reshape(-1, windows.shape[-1]) @ self.kernel[...]
        return y_ND.reshape(*windows.shape[:-1], -1)


class ResidualBlock(nnx.Module):
    """Two normalized convolutions with a shortcut, `[B, H, W, inputs]` to `[B, H/s, W/s, outputs]`."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.first = Conv(inputs, outputs, stride, rngs=rngs)
        self.first_norm = nnx.GroupNorm(outputs, num_groups=8, rngs=rngs)
        self.second = Conv(outputs, outputs, rngs=rngs)
        self.second_norm = nnx.GroupNorm(outputs, num_groups=8, rngs=rngs)
        self.stride = stride
        self.shortcut = None if inputs == outputs else nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)

    def __call__(self, x_BHWD: jax.Array) -> jax.Array:
        """Return the block's output."""
        y_BHWD = nnx.relu(self.first_norm(self.first(x_BHWD)))
        y_BHWD = self.second_norm(self.second(y_BHWD))
        x_BHWD = x_BHWD[:, :: self.stride, :: self.stride]
        return nnx.relu(y_BHWD + (x_BHWD if self.shortcut is None else self.shortcut(x_BHWD)))


class ConvNet(nnx.Module):
    """Images `[B, 8, 8, 1]` to logits `[B, classes]`: residual blocks, the mean over pixels, a linear head."""

    def __init__(self, classes: int, *, rngs: nnx.Rngs):
        half = WIDTH // 2
        self.stem = Conv(1, half, rngs=rngs)
        self.stem_norm = nnx.GroupNorm(half, num_groups=8, rngs=rngs)
        shapes = [(half, half, 1), (half, WIDTH, 2), (WIDTH, WIDTH, 1)]
        self.layers = nnx.List([ResidualBlock(*shape, rngs=rngs) for shape in shapes])
        self.head = nnx.Linear(WIDTH, classes, rngs=rngs)

    def __call__(self, image_BHWC: jax.Array) -> jax.Array:
        """Return the logits, `[B, classes]`."""
        x_BHWD = nnx.relu(self.stem_norm(self.stem(image_BHWC)))
        for layer in self.layers:
            x_BHWD = layer(x_BHWD)
        return self.head(x_BHWD.mean((1, 2)))
