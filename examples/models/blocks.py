"""The building blocks of Transformers: linear maps, norms, embedding tables, layers.

A product is computed in the dtype of its matrix, norms and softmax in float32; see ``training.Precision``.
Everything is a pure function of parameters, inputs and key.

Letters in names: B batch, T and S tokens (attending, attended to), D hidden size, H heads, K size of a head,
N layers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models.attention import Memory, attend, remember
from examples.models.dropout import Key, dropout, split
from examples.models.remat import REMAT
from optimiz.training import skippable


def _exact_gelu(x: jax.Array) -> jax.Array:
    """Return x Φ(x), in float32 by the error function, as PyTorch does: its complement takes twice the time."""
    if x.dtype != jnp.float32:  # 1 + erf would lose the negative half
        return jax.nn.gelu(x, approximate=False)
    return 0.5 * x * (1 + jax.lax.erf(x * jnp.float32(0.5**0.5)))


# The names are those of `transformers`, which has several for each of two functions: the exact GELU, and its
# tanh approximation, for which some of them round the constant √(2/π) to ten digits.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    **dict.fromkeys(("gelu", "gelu_python"), _exact_gelu),
    **dict.fromkeys(
        ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"), partial(jax.nn.gelu, approximate=True)
    ),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Linear(nnx.Linear):
    """x W + b in the dtype of W, with all tokens of the batch as rows of one matrix.

    W is initialized with deviation `std`, or is zero if that is 0. Where there is an `adapter`, such as that of
    `lora`, what it maps x to is added.
    """

    adapter: Callable[[jax.Array], jax.Array] | None = None

    def __init__(self, inputs: int, outputs: int, *, std: float = 0.02, use_bias: bool = True, rngs: nnx.Rngs):
        initial = nnx.initializers.normal(std) if std else nnx.initializers.zeros
        super().__init__(inputs, outputs, use_bias=use_bias, kernel_init=initial, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Map `[B, T, inputs]` to `[B, T, outputs]`."""
        # The gradient of W from [B, T, D] arrays costs twice as much on a CPU: XLA writes out the
        # transpose of the incoming gradient first. The reshape to a matrix costs nothing.
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1]).astype(self.kernel.dtype)
        y_ND = x_ND @ self.kernel[...]
        if self.bias is not None:
            y_ND = y_ND + self.bias[...].astype(y_ND.dtype)
        if self.adapter is not None:
            y_ND = y_ND + self.adapter(x_ND)
        return y_ND.reshape(*x_BTD.shape[:-1], -1)


class Norm(nnx.LayerNorm):
    """LayerNorm over D, in float32."""

    def __init__(self, size: int, eps: float, *, rngs: nnx.Rngs):
        # The fast variance E[x^2] - E[x]^2 would lose digits that parity with a checkpoint needs.
        super().__init__(size, epsilon=eps, use_fast_variance=False, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Normalize `[..., D]`."""
        return super().__call__(x_BTD).astype(x_BTD.dtype)


class RMSNorm(nnx.Module):
    """x / √(mean of x² + ε), times a scale, over D; if `centered`, the parameter is the scale minus one."""

    def __init__(self, size: int, eps: float, *, centered: bool = False):
        self.eps, self.centered = eps, centered
        self.scale = nnx.Param(jnp.zeros(size) if centered else jnp.ones(size))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Normalize `[..., D]`, in float32."""
        wide = x_BTD.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        if self.centered:  # as Gemma does, whose product is rounded once
            return (wide * inverse * (1 + self.scale[...].astype(jnp.float32))).astype(x_BTD.dtype)
        return ((wide * inverse).astype(x_BTD.dtype) * self.scale[...]).astype(x_BTD.dtype)


class Table(nnx.Module):
    """One learned row per integer.

    Unlike `nnx.Embed`, it does not fix a dtype when it is built: bfloat16 parameters give bfloat16 rows.
    """

    def __init__(self, rows: int, size: int, *, std: float = 0.02, rngs: nnx.Rngs):
        self.embedding = nnx.Param(nnx.initializers.normal(std)(rngs.params(), (rows, size)))

    def __call__(self, index: jax.Array) -> jax.Array:
        """Map integers `[...]` to rows `[..., size]`, and an integer past the last row to NaN."""
        # Through float32, so that the gradients of a frequent token are summed there.
        wide = self.embedding[...].astype(jnp.float32)
        return jnp.take(wide, index, axis=0).astype(self.embedding.dtype)  # indexing would clamp silently

    def scores(self, x_BTD: jax.Array) -> jax.Array:
        """Map `[B, T, size]` to the products with every row, `[B, T, rows]`: the head of tied embeddings."""
        return x_BTD.astype(self.embedding.dtype) @ self.embedding[...].T


class Attention(nnx.Module):
    """Multi-head self-attention with biases; `output_std` is the initial deviation of the output's weights."""

    def __init__(self, size: int, heads: int, rate: float, *, output_std: float = 0.02, rngs: nnx.Rngs):
        self.heads, self.rate = heads, rate
        self.query = Linear(size, size, rngs=rngs)
        self.key = Linear(size, size, rngs=rngs)
        self.value = Linear(size, size, rngs=rngs)
        self.output = Linear(size, size, std=output_std, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, mask: jax.Array | None, key: Key) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`; the mask is that of `attend`."""
        q_BTHK, k_BSHK, v_BSHK = self._heads_of(x_BTD)
        scale = q_BTHK.shape[-1] ** -0.5
        return self.output(attend(q_BTHK, k_BSHK, v_BSHK, mask, self.rate, key, scale=scale))

    def extend(
        self, x_BTD: jax.Array, mask: jax.Array, memory: Memory, start: jax.Array | int
    ) -> tuple[jax.Array, Memory]:
        """The same without dropout for tokens that follow those of a memory, and the memory with them."""
        q_BTHK, k_BTHK, v_BTHK = self._heads_of(x_BTD)
        memory = remember(memory, k_BTHK, v_BTHK, start)
        return self.output(attend(q_BTHK, *memory, mask, 0.0, None, scale=q_BTHK.shape[-1] ** -0.5)), memory

    def _heads_of(self, x_BTD: jax.Array) -> list[jax.Array]:
        by_head = (*x_BTD.shape[:2], self.heads, -1)
        return [linear(x_BTD).reshape(by_head) for linear in (self.query, self.key, self.value)]


class Mlp(nnx.Module):
    """Two linear maps with an activation between; `output_std` is the initial deviation of the second."""

    def __init__(
        self, size: int, inner_size: int, activation: str, *, output_std: float = 0.02, rngs: nnx.Rngs
    ):
        self.activation = ACTIVATIONS[activation]
        self.up = Linear(size, inner_size, rngs=rngs)
        self.down = Linear(inner_size, size, std=output_std, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`."""
        return self.down(self.activation(self.up(x_BTD)))


def states(
    layers: Sequence[Callable[..., jax.Array]],
    x_BTD: jax.Array,
    *args: Any,
    keys: Sequence[Key],
    on_N: jax.Array | None,
    remat: str,
) -> list[jax.Array]:
    """Apply layers in turn; a layer that is off is the identity, and is not computed.

    Args:
        layers: (x_BTD, *args, key) → `[B, T, D]`.
        x_BTD: input of the first layer.
        *args: further arguments of every layer.
        keys: random keys of dropout, one per layer.
        on_N: booleans, which layers are on; None for all.
        remat: what of a layer the backward pass computes again, a key of `REMAT`.

    Returns:
        The hidden states before the first layer and after each, N + 1 arrays.

    Raises:
        ValueError: `on_N` does not have one entry per layer.
    """
    if on_N is not None and on_N.shape != (len(layers),):
        raise ValueError(f"on_N must have shape [{len(layers)}], one entry per layer, got {list(on_N.shape)}")
    found = [x_BTD]
    for i, (layer, key) in enumerate(zip(layers, keys, strict=True)):
        found.append(skippable(REMAT[remat](layer))(None if on_N is None else on_N[i], found[-1], *args, key))
    return found


class PreNormLayer(nnx.Module):
    """x + A(n_a(x)), then x + F(n_f(x)): attention and the MLP, each after its norm, with dropout."""

    def __init__(
        self,
        size: int,
        heads: int,
        inner_size: int,
        *,
        activation: str,
        eps: float,
        hidden_dropout: float,
        attention_dropout: float,
        output_std: float = 0.02,
        rngs: nnx.Rngs,
    ):
        self.rate = hidden_dropout
        self.attention = Attention(size, heads, attention_dropout, output_std=output_std, rngs=rngs)
        self.attention_norm = Norm(size, eps, rngs=rngs)
        self.mlp = Mlp(size, inner_size, activation, output_std=output_std, rngs=rngs)
        self.mlp_norm = Norm(size, eps, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, mask: jax.Array | None, key: Key) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`."""
        weights_key, attention_key, mlp_key = split(key, 3)
        y_BTD = self.attention(self.attention_norm(x_BTD), mask, weights_key)
        x_BTD = x_BTD + dropout(y_BTD, self.rate, attention_key)
        return x_BTD + dropout(self.mlp(self.mlp_norm(x_BTD)), self.rate, mlp_key)

    def extend(
        self, x_BTD: jax.Array, mask: jax.Array, memory: Memory, start: jax.Array | int
    ) -> tuple[jax.Array, Memory]:
        """The same without dropout for tokens that follow those of a memory, and the memory with them."""
        y_BTD, memory = self.attention.extend(self.attention_norm(x_BTD), mask, memory, start)
        x_BTD = x_BTD + y_BTD
        return x_BTD + self.mlp(self.mlp_norm(x_BTD)), memory
