"""The building blocks of Transformers: dropout, linear maps, norms, embedding tables, attention, the MLP.

A product is computed in the dtype of its matrix, norms and softmax in float32; see ``training.Precision``.
Everything is a pure function of parameters, inputs and key. Dropout takes its key as an argument: a model has
no hidden random state, and every trial of a line search sees the dropout mask of its step.

A causal model remembers the keys and the values of the tokens that it has read, in slots that are there from
the beginning, so that every step of a generation is the same program.

Letters in names: B batch, T and S tokens (attending, attended to), D hidden size, H heads, G heads of the keys
and values, K size of a head, N layers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from optimiz.training import skippable

Key = jax.Array | None  # the random key of dropout; None for evaluation, without dropout


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

Memory = tuple[jax.Array, jax.Array]  # of one layer: the keys and the values of S tokens, [B, S, G, K]


def check_field(config: Any, name: str, holds: bool, domain: str) -> None:
    """Refuse a field of a configuration that is outside its domain, by name.

    Raises:
        ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(f"{name} must be {domain}, got {repr(getattr(config, name))[:100]}")


def check_sizes(config: Any, *names: str) -> None:
    """Refuse fields below 1.

    Raises:
        ValueError: a field is below 1.
    """
    for name in names:
        check_field(config, name, getattr(config, name) >= 1, "at least 1")


def check_rates(config: Any, *names: str) -> None:
    """Refuse dropout rates outside [0, 1).

    Raises:
        ValueError: a rate is outside.
    """
    for name in names:
        check_field(config, name, 0 <= getattr(config, name) < 1, "in [0, 1)")


def dropout(x: jax.Array, rate: float, key: Key) -> jax.Array:
    """Zero each entry of `x` with probability `rate` and divide the others by 1 - rate."""
    if key is None or rate == 0:
        return x
    kept = random_bits(key, x.shape) < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
    return jnp.where(kept, x / (1 - rate), 0)


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random uint32 of a shape: a hash of each entry's position and of the key.

    It takes a fraction of the time of `jax.random.bits`, whose bits a CPU holds until the backward pass.

    Source:
        The mixing function is ``lowbias32`` of Chris Wellons' hash prospector (public domain).
    """
    position = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)

    words = jax.random.key_data(key)
    return _mixed(_mixed(position ^ words[-2]) ^ words[-1])


def _mixed(bits: jax.Array) -> jax.Array:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def split(key: Key, n: int) -> list[Key]:
    """Split a key into n keys; None gives n times None."""
    return [None] * n if key is None else list(jax.random.split(key, n))


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


def softmax(scores: jax.Array) -> jax.Array:
    """The softmax over the last axis, computed in float32, in the dtype of the scores."""
    return jax.nn.softmax(scores) if scores.dtype == jnp.float32 else _narrow_softmax(scores)


@jax.custom_jvp
def _narrow_softmax(scores: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores.astype(jnp.float32)).astype(scores.dtype)


@_narrow_softmax.defjvp
def _narrow_softmax_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The derivative from the weights as they are rounded, which alone are then held."""
    # Without the barrier XLA would hold what is rounded, and save the conversion.
    weights, tangent = jax.lax.optimization_barrier(_narrow_softmax(*primals)), tangents[0].astype(jnp.float32)
    wide = weights.astype(jnp.float32)
    return weights, (wide * (tangent - jnp.sum(wide * tangent, -1, keepdims=True))).astype(weights.dtype)


def attend(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    mask: jax.Array | None,
    rate: float,
    key: Key,
    *,
    scale: float,
    bias_HTS: jax.Array | float = 0.0,
    cap: float | None = None,
) -> jax.Array:
    """Attention: softmax over S of scale q·k + bias, with dropout, times v.

    Args:
        q_BTHK: queries; like the keys and values, with an axis for the heads.
        k_BSGK: keys. H/G consecutive heads of the queries attend to the same keys and values.
        v_BSGK: values.
        mask: booleans, broadcast against `[B, H, T, S]`: true where a token may attend to another; None if it
            may everywhere.
        rate: dropout rate of the attention weights.
        key: random key of the dropout.
        scale: factor of the products.
        bias_HTS: bias added to the scaled products.
        cap: bound c of the products x, which are replaced by c tanh(x / c); None for no bound.

    Returns:
        `[B, T, H K]`, the heads of each token concatenated.
    """
    (rows, tokens, heads, size), groups = q_BTHK.shape, k_BSGK.shape[2]
    # With the axes of the batch first, a product is one of matrices, for which a CPU copies nothing more. The
    # queries of the heads that share keys are rows of one matrix, N = R T of them.
    k_BGSK, v_BGSK = k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2)
    q_BGNK = q_BTHK.swapaxes(1, 2).reshape(rows, groups, -1, size)
    scores_BGNS = q_BGNK @ k_BGSK.swapaxes(2, 3)
    scores_BHTS = scores_BGNS.reshape(rows, heads, tokens, -1) * scale + bias_HTS
    if cap is not None:
        scores_BHTS = cap * jnp.tanh(scores_BHTS.astype(jnp.float32) / cap)
    if mask is not None:
        # The lowest finite number instead of -inf: a row of padding then attends evenly, and is not NaN.
        scores_BHTS = jnp.where(mask, scores_BHTS, jnp.finfo(scores_BHTS.dtype).min)
    weights_BHTS = dropout(softmax(scores_BHTS).astype(v_BSGK.dtype), rate, key)
    y_BGNK = weights_BHTS.reshape(scores_BGNS.shape) @ v_BGSK
    return y_BGNK.reshape(rows, heads, tokens, -1).swapaxes(1, 2).reshape(rows, tokens, -1)


def reach(tokens: int, slots: int, start: jax.Array | int = 0, window: int | None = None) -> jax.Array:
    """Which slots each token may attend to, causally: its own and those before it.

    Args:
        tokens: number of tokens, T.
        slots: number of slots, S.
        start: slot of the first of the tokens.
        window: number of slots that a token sees, its own included; None for all before it.

    Returns:
        Booleans `[T, S]`.
    """
    behind_TS = start + jnp.arange(tokens)[:, None] - jnp.arange(slots)
    causal_TS = behind_TS >= 0
    return causal_TS if window is None else causal_TS & (behind_TS < window)


def positions(present_BS: jax.Array, start: jax.Array | int, tokens: int) -> jax.Array:
    """The positions `[B, T]` of the tokens from slot `start` on: how many tokens are in the slots before."""
    before_BS = jnp.maximum(jnp.cumsum(present_BS, axis=1) - 1, 0)
    return jax.lax.dynamic_slice_in_dim(before_BS, start, tokens, axis=1)


def remember(memory: Memory, k_BTGK: jax.Array, v_BTGK: jax.Array, start: jax.Array | int) -> Memory:
    """Write the keys and values of T tokens into the slots from `start` on."""
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)
        for old, new in zip(memory, (k_BTGK, v_BTGK), strict=True)
    )
    return keys, values


def within(texts_BT: jax.Array) -> jax.Array:
    """Which tokens belong to the same text.

    Args:
        texts_BT: the number of the text of each token; 0 at padding, to which no token attends, and which
            itself attends to those of every text, as in `transformers`.

    Returns:
        Booleans `[B, 1, T, T]`, for the mask of `attend`.
    """
    is_token_BT = texts_BT != 0
    seen_BTT = (texts_BT[:, :, None] == texts_BT[:, None, :]) | ~is_token_BT[:, :, None]
    return (seen_BTT & is_token_BT[:, None, :])[:, None]


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
    remat: bool,
) -> list[jax.Array]:
    """Apply layers in turn; a layer that is off is the identity, and is not computed.

    Args:
        layers: (x_BTD, *args, key) → `[B, T, D]`.
        x_BTD: input of the first layer.
        *args: further arguments of every layer.
        keys: random keys of dropout, one per layer.
        on_N: booleans, which layers are on; None for all.
        remat: whether the backward pass computes a layer again instead of reading what the forward pass kept:
            of each layer only its input is held.

    Returns:
        The hidden states before the first layer and after each, N + 1 arrays.

    Raises:
        ValueError: `on_N` does not have one entry per layer.
    """
    if on_N is not None and on_N.shape != (len(layers),):
        raise ValueError(f"on_N must have shape [{len(layers)}], one entry per layer, got {list(on_N.shape)}")
    found = [x_BTD]
    for i, (layer, key) in enumerate(zip(layers, keys, strict=True)):
        layer = jax.checkpoint(layer) if remat else layer
        found.append(skippable(layer)(None if on_N is None else on_N[i], found[-1], *args, key))
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
