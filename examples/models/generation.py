"""Generation of text by a causal decoder, GPT-2 or one of the Llama kind, as one compiled program.

The prompt is read once, then each token is chosen from the logits after the last and read in turn; the keys and
values of what has been read are remembered, see `blocks`. The loop ends as soon as every text has.

Letters in names: B batch, T tokens of the prompt, N new tokens, S slots, T + N, V vocabulary.

Source: the choice by `top_p` is that of Holtzman et al., "The Curious Case of Neural Text Degeneration"
(arXiv:1904.09751).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.models.adapters import Keys, Params, split_nnx
from examples.models.layout import Layout

Choice = Callable[[jax.Array, jax.Array | None], jax.Array]
"""(logits `[B, V]`, random key or None) → tokens `[B]`."""


class Generated(NamedTuple):
    """What follows the prompts.

    Attributes:
        ids_BN: the new tokens, int32, and the padding token behind the end of a text.
        lengths_B: number of new tokens of each text, the one that ends it included.
    """

    ids_BN: jax.Array
    lengths_B: jax.Array


def greedy(logits_BV: jax.Array, key: jax.Array | None) -> jax.Array:
    """Choose the most likely token; of several, the first. The key is not used.

    Example:
        >>> greedy(jnp.array([[0.0, 2.0, 1.0]]), None).tolist()
        [1]
    """
    return jnp.argmax(logits_BV, axis=-1)


def sampled(temperature: float = 1.0, top_p: float = 1.0) -> Choice:
    """Draw a token from softmax(logits / temperature), or from the most likely of its tokens.

    Args:
        temperature: above 0; towards 0 the choice becomes greedy.
        top_p: probability in (0, 1] of the tokens to draw from: these are the most likely ones, as few as have
            at least this probability together.

    Returns:
        A choice that raises a ValueError if it is given no key.

    Raises:
        ValueError: an argument is outside its domain.

    Example:
        >>> logits = jnp.log(jnp.array([[0.2, 0.5, 0.3]]))
        >>> sorted({int(sampled(top_p=0.6)(logits, jax.random.key(i))[0]) for i in range(20)})
        [1, 2]
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")

    def choose(logits_BV: jax.Array, key: jax.Array | None) -> jax.Array:
        if key is None:
            raise ValueError("key must be given to draw tokens, got None")
        scaled_BV = logits_BV.astype(jnp.float32) / temperature
        if top_p == 1:
            return jax.random.categorical(key, scaled_BV)
        order_BV = jnp.argsort(-scaled_BV, axis=-1)
        sorted_BV = jnp.take_along_axis(scaled_BV, order_BV, axis=-1)
        shares_BV = jax.nn.softmax(sorted_BV)
        before_BV = jnp.cumsum(shares_BV, axis=-1) - shares_BV
        place_B = jax.random.categorical(key, jnp.where(before_BV < top_p, sorted_BV, -jnp.inf))
        return jnp.take_along_axis(order_BV, place_B[:, None], axis=-1)[:, 0]

    return choose


def generator(
    family: Layout,
    config: Any,
    most: int,
    *,
    end: Sequence[int] = (),
    pad: int = 0,
    choose: Choice = greedy,
) -> Callable[..., Generated]:
    """Make a function that generates text with a model.

    Args:
        family: family of the model, from `decoders.family`.
        config: configuration of the model.
        most: largest number of new tokens of a text, N, at least 1.
        end: ids of the tokens that end a text, from `decoders.end_ids`; without any, all have N new tokens.
        pad: id that stands behind the end of a text.
        choose: choice of a token, :func:`greedy` or from :func:`sampled`.

    Returns:
        A function of the parameters, of prompts `ids_BT`, of `mask_BT`, zero at their padding, and of a random
        key; the latter two may be None, for no padding and for a choice that draws nothing. Prompts may be
        padded on the left or the right. It compiles once for each shape of prompts, and raises a ValueError for
        ids that the model does not have, for a prompt without a token, and for more than the model can read.

    Raises:
        ValueError: an argument is outside its domain.

    Example:
        >>> from examples.models import families, gpt2
        >>> config = gpt2.GPT2Config(vocab_size=9, hidden_size=4, layers=1, heads=2)
        >>> params, _ = split_nnx(gpt2.GPT2(config, rngs=nnx.Rngs(0)))
        >>> generate = generator(families.GPT2, config, 3)
        >>> generate(params, np.array([[1, 2], [3, 0]]), np.array([[1, 1], [1, 0]])).ids_BN.shape
        (2, 3)
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    for name, ids in (("end", end), ("pad", [pad])):
        if outside := [each for each in ids if not 0 <= each < config.vocab_size]:
            raise ValueError(f"{name} must be ids in [0, {config.vocab_size}), got {outside[0]}")
    _, bound = split_nnx(nnx.eval_shape(lambda: family.model(config, rngs=Keys(0))))
    program = jax.jit(partial(_generate, bound, most, tuple(end), pad, choose))

    def generate(
        params: Params,
        ids_BT: np.ndarray,
        mask_BT: np.ndarray | None = None,
        key: jax.Array | None = None,
    ) -> Generated:
        ids_BT = np.asarray(ids_BT)
        present_BT = np.ones(ids_BT.shape, bool) if mask_BT is None else np.asarray(mask_BT) != 0
        _check(ids_BT, present_BT, config.vocab_size)
        return program(params, np.where(present_BT, ids_BT, 0).astype(np.int32), present_BT, key)

    return generate


def _check(ids_BT: np.ndarray, present_BT: np.ndarray, vocabulary: int) -> None:
    """Refuse prompts that no model can go on from: a look-up of a wrong id would not fail."""
    if ids_BT.ndim != 2 or not np.issubdtype(ids_BT.dtype, np.integer):
        raise ValueError(f"ids_BT must be integers [B, T], got {ids_BT.dtype} {list(ids_BT.shape)}")
    if present_BT.shape != ids_BT.shape:
        raise ValueError(f"mask_BT must have shape {list(ids_BT.shape)}, got {list(present_BT.shape)}")
    if empty := np.flatnonzero(~present_BT.any(axis=1)).tolist():
        raise ValueError(f"each prompt must have a token, but row {empty[0]} has none")
    found = ids_BT[present_BT]
    if outside := found[(found < 0) | (found >= vocabulary)].tolist():
        raise ValueError(f"ids_BT must be in [0, {vocabulary}), got {outside[0]}")


class _Loop(NamedTuple):
    """Where a generation stands: `step` tokens are chosen, and all but the last of them read."""

    step: jax.Array
    ids_BN: jax.Array
    ended_B: jax.Array
    memory: Any


def _generate(
    bound: Callable[[Params], Any],
    most: int,
    end: tuple[int, ...],
    pad: int,
    choose: Choice,
    params: Params,
    ids_BT: jax.Array,
    present_BT: jax.Array,
    key: jax.Array | None,
) -> Generated:
    model, (rows, tokens) = bound(params), ids_BT.shape
    # The padding goes to the left, so that all texts go on in the same slot.
    order_BT = jnp.argsort(present_BT, axis=1, stable=True)
    ids_BT, present_BT = (jnp.take_along_axis(each, order_BT, axis=1) for each in (ids_BT, present_BT))
    present_BS = jnp.pad(present_BT, ((0, 0), (0, most)), constant_values=True)

    def with_choice(loop: _Loop, logits_BV: jax.Array) -> _Loop:
        chosen_B = choose(logits_BV, None if key is None else jax.random.fold_in(key, loop.step))
        chosen_B = jnp.where(loop.ended_B, pad, chosen_B.astype(jnp.int32))
        ended_B = loop.ended_B | jnp.isin(chosen_B, jnp.array(end, jnp.int32)) if end else loop.ended_B
        return _Loop(loop.step + 1, loop.ids_BN.at[:, loop.step].set(chosen_B), ended_B, loop.memory)

    def goes_on(loop: _Loop) -> jax.Array:
        return (loop.step < most) & ~loop.ended_B.all()

    def one_more(loop: _Loop) -> _Loop:
        last_B = loop.ids_BN[:, loop.step - 1]
        logits_BV, memory = model.extend(last_B[:, None], present_BS, loop.memory, tokens + loop.step - 1)
        return with_choice(loop._replace(memory=memory), logits_BV)

    ids_BN = jnp.full((rows, most), pad, jnp.int32)
    logits_BV, memory = model.extend(ids_BT, present_BS, model.memory(rows, tokens + most), 0)
    first = with_choice(_Loop(jnp.int32(0), ids_BN, jnp.zeros(rows, bool), memory), logits_BV)
    ids_BN = jax.lax.while_loop(goes_on, one_more, first).ids_BN
    return Generated(ids_BN, _lengths(ids_BN, end))


def _lengths(ids_BN: jax.Array, end: tuple[int, ...]) -> jax.Array:
    """The number of tokens up to the first that ends a text, it included."""
    if not end:
        return jnp.full(ids_BN.shape[0], ids_BN.shape[1], jnp.int32)
    ends_BN = jnp.isin(ids_BN, jnp.array(end, jnp.int32))
    return jnp.where(ends_BN.any(1), ends_BN.argmax(1) + 1, ids_BN.shape[1]).astype(jnp.int32)
