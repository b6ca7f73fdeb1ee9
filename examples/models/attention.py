"""Attention as functions: of a query, keys and values; which tokens attend to which; and what is remembered.

A causal model remembers the keys and the values of the tokens that it has read, in slots that are there from
the beginning, so that every step of a generation is the same program.

Letters in names: B batch, T and S tokens (attending, attended to), H heads, G heads of the keys and values,
K size of a head.
"""

import jax
import jax.numpy as jnp

from examples.models.dropout import Key, dropout

Memory = tuple[jax.Array, jax.Array]  # of one layer: the keys and the values of S tokens, [B, S, G, K]


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
