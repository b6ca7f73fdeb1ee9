"""The decoder of the Llama kind, which Qwen, Mistral and Gemma share with Llama, up to a few switches.

With n an RMS norm, A grouped-query self-attention over the tokens up to each one and F(x) = (silu(x W_gate) ·
x W_up) W_down, its layers are pre-LN,

    y = x + A(n_a(x))     x' = y + F(n_f(y))     logits = n(x) Wᵀ after the last,

where x starts as word[id] and W is a separate matrix or the table of word embeddings. Positions enter by
turning queries and keys, see `rotary`. A head of the keys and values serves H/G heads of the queries.

The switches: biases (Qwen 2), norms of queries and keys (Qwen 3, Gemma 3), windows of attention (Mistral, Gemma
2 and 3), and what Gemma does besides: embeddings times √D, norms whose parameter is the scale minus one, a gelu
in place of the silu; norms also after A and F, a scale of attention that is not 1/√K and bounds of products and
logits (2); other rotary angles in layers with a window (3).

Norms, softmax, rotations and caps are computed in float32 whatever the parameters are; logits are a product in
their dtype, as float32.

Letters in names: B batch, T and S tokens (attending, attended to), D hidden size, H heads, G heads of the keys
and values, K size of a head, N layers, V vocabulary.

Source: Touvron et al., "LLaMA" (arXiv:2302.13971) and "Llama 2" (arXiv:2307.09288); Ainslie et al., "GQA"
(arXiv:2305.13245); Jiang et al., "Mistral 7B" (arXiv:2310.06825); Gemma Team, "Gemma" (arXiv:2403.08295),
"Gemma 2" (arXiv:2408.00118), "Gemma 3" (arXiv:2503.19786); Qwen Team, "Qwen2.5" (arXiv:2412.15115), "Qwen3"
(arXiv:2505.09388); and their code.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models import attention, blocks, fields
from examples.models.attention import Memory, attend
from examples.models.blocks import ACTIVATIONS, Linear, RMSNorm, Table
from examples.models.dropout import Key, split
from examples.models.rotary import Dynamic, Rotary, turn


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The shape of a decoder of the Llama kind, with the switches of Llama 2.

    Attributes:
        vocab_size: V.
        hidden_size: D.
        layers: N.
        heads: heads of the queries, H.
        key_heads: heads of the keys and values, G, a divisor of H.
        head_size: K, even.
        intermediate_size: size of F.
        max_positions: length of the texts that the model was made for; it limits nothing.
        activation: the function in F.
        norm_eps: ε of the norms.
        rotary: the rotary angles.
        local_rotary: those of layers with a window; None for the same.
        windows: number of tokens that a token sees, itself included, in one layer after another, and from the
            beginning again; None for all.
        tied: whether the head is the table of word embeddings.
        qkv_bias: whether queries, keys and values have biases.
        output_bias: whether the output of attention has.
        mlp_bias: whether the linear maps of F have.
        query_key_norm: whether each head of the queries and keys has a norm.
        post_norms: whether A and F are each followed by a norm.
        centered: whether the parameter of a norm is its scale minus one.
        scaled_embeddings: whether the embeddings are multiplied by √D.
        query_size: attention is scaled by 1/√ of this; None for K.
        attention_cap: bound of the scaled products of attention, see `attention.attend`; None for none.
        logit_cap: likewise of the logits.
        attention_dropout: dropout rate of the attention weights.
        remat: what the backward pass computes again, see `remat.REMAT`.

    Raises:
        ValueError: a field is outside its domain.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    intermediate_size: int
    max_positions: int
    activation: str = "silu"
    norm_eps: float = 1e-5
    rotary: Rotary = dataclasses.field(default_factory=Rotary)
    local_rotary: Rotary | None = None
    windows: tuple[int | None, ...] = (None,)
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    post_norms: bool = False
    centered: bool = False
    scaled_embeddings: bool = False
    query_size: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    attention_dropout: float = 0.0
    remat: str = "none"

    def __post_init__(self) -> None:
        fields.check_remat(self)
        sizes = "vocab_size hidden_size layers heads key_heads head_size intermediate_size max_positions"
        fields.check_sizes(self, *sizes.split())
        check = partial(fields.check_field, self)
        check("key_heads", self.heads % self.key_heads == 0, f"a divisor of {self.heads}")
        check("head_size", self.head_size % 2 == 0, "even")
        check("activation", self.activation in ACTIVATIONS, f"one of {list(ACTIVATIONS)}")
        check("norm_eps", self.norm_eps > 0, "positive")
        windows = all(window is None or window >= 1 for window in self.windows)
        check("windows", len(self.windows) > 0 and windows, "one or more of None and numbers of at least 1")
        for name in ("query_size", "attention_cap", "logit_cap"):
            value = getattr(self, name)
            check(name, value is None or value > 0, "positive or None")
        fields.check_rates(self, "attention_dropout")

    def window_of(self, layer: int) -> int | None:
        """The window of a layer."""
        return self.windows[layer % len(self.windows)]


class View(NamedTuple):
    """What the layers of one window need to know of the tokens.

    Attributes:
        mask: which tokens attend to which, as in `attention.attend`.
        turns: the turns of the tokens' positions, from `Rotary.turns`.
    """

    mask: jax.Array
    turns: tuple[jax.Array, jax.Array]


Views = dict[int, View]  # by window, with 0 for none


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        size, inner, keys = (
            config.hidden_size,
            config.heads * config.head_size,
            config.key_heads * config.head_size,
        )
        self.query = Linear(size, inner, use_bias=config.qkv_bias, rngs=rngs)
        self.key = Linear(size, keys, use_bias=config.qkv_bias, rngs=rngs)
        self.value = Linear(size, keys, use_bias=config.qkv_bias, rngs=rngs)
        self.output = Linear(inner, size, use_bias=config.output_bias, rngs=rngs)
        if config.query_key_norm:
            norm = partial(RMSNorm, config.head_size, config.norm_eps, centered=config.centered)
            self.query_norm, self.key_norm = norm(), norm()

    def __call__(self, x_BTD: jax.Array, view: View, key: Key) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`."""
        q_BTHK, k_BTGK, v_BTGK = self._heads_of(x_BTD, view)
        return self._attended(q_BTHK, k_BTGK, v_BTGK, view, self.config.attention_dropout, key)

    def extend(
        self, x_BTD: jax.Array, view: View, memory: Memory, start: jax.Array | int
    ) -> tuple[jax.Array, Memory]:
        """The same without dropout for tokens that follow those of a memory, and the memory with them."""
        q_BTHK, k_BTGK, v_BTGK = self._heads_of(x_BTD, view)
        memory = attention.remember(memory, k_BTGK, v_BTGK, start)
        return self._attended(q_BTHK, *memory, view, 0.0, None), memory

    def _heads_of(self, x_BTD: jax.Array, view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_BTHK, k_BTGK, v_BTGK = (
            linear(x_BTD).reshape(*x_BTD.shape[:2], -1, self.config.head_size)
            for linear in (self.query, self.key, self.value)
        )
        if self.config.query_key_norm:
            q_BTHK, k_BTGK = self.query_norm(q_BTHK), self.key_norm(k_BTGK)
        return turn(q_BTHK, view.turns), turn(k_BTGK, view.turns), v_BTGK

    def _attended(
        self, q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, view: View, rate: float, key: Key
    ) -> jax.Array:
        scale = (self.config.query_size or self.config.head_size) ** -0.5
        cap = self.config.attention_cap
        return self.output(attend(q_BTHK, k_BSGK, v_BSGK, view.mask, rate, key, scale=scale, cap=cap))


class Mlp(nnx.Module):
    """A linear map of the product of two linear maps, one of which goes through the activation."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.activation]
        linear = partial(Linear, use_bias=config.mlp_bias, rngs=rngs)
        self.gate = linear(config.hidden_size, config.intermediate_size)
        self.up = linear(config.hidden_size, config.intermediate_size)
        self.down = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`."""
        return self.down(self.activation(self.gate(x_BTD)) * self.up(x_BTD))


class Layer(nnx.Module):
    """Attention and the MLP, each between its norms; `index` is the layer's number."""

    def __init__(self, config: LlamaConfig, index: int, *, rngs: nnx.Rngs):
        self.window = config.window_of(index) or 0
        self.post_norms = config.post_norms
        norm = partial(RMSNorm, config.hidden_size, config.norm_eps, centered=config.centered)
        self.attention_norm, self.attention = norm(), Attention(config, rngs=rngs)
        self.mlp_norm, self.mlp = norm(), Mlp(config, rngs=rngs)
        if config.post_norms:
            self.attention_post_norm, self.mlp_post_norm = norm(), norm()

    def __call__(self, x_BTD: jax.Array, views: Views, key: Key) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`."""
        y_BTD = self.attention(self.attention_norm(x_BTD), views[self.window], key)
        return self._added(x_BTD, y_BTD)

    def extend(
        self, x_BTD: jax.Array, views: Views, memory: Memory, start: jax.Array | int
    ) -> tuple[jax.Array, Memory]:
        """The same without dropout for tokens that follow those of a memory, and the memory with them."""
        normed_BTD = self.attention_norm(x_BTD)
        y_BTD, memory = self.attention.extend(normed_BTD, views[self.window], memory, start)
        return self._added(x_BTD, y_BTD), memory

    def _added(self, x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
        """Add what attention says, then the MLP."""
        x_BTD = x_BTD + (self.attention_post_norm(y_BTD) if self.post_norms else y_BTD)
        y_BTD = self.mlp(self.mlp_norm(x_BTD))
        return x_BTD + (self.mlp_post_norm(y_BTD) if self.post_norms else y_BTD)


class Llama(nnx.Module):
    """A model that maps tokens to the logits of the token after each.

    Calls take integer arrays `[B, T]`: `ids_BT`; `mask_BT`, zero at padding and elsewhere the number of a text,
    to whose tokens alone its own attend, or None if a row is one text; `positions_BT`, the position of each
    token in its text, or None if all begin with the row. The booleans `on_N` say which layers are on; the
    others are not computed. A call raises a ValueError if `on_N` does not have one entry per layer.
    """

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Table(config.vocab_size, config.hidden_size, rngs=rngs)
        self.layers = nnx.List([Layer(config, index, rngs=rngs) for index in range(config.layers)])
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, centered=config.centered)
        if not config.tied:
            self.head = Linear(config.hidden_size, config.vocab_size, use_bias=False, rngs=rngs)

    def __call__(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array | None = None,
        key: Key = None,
        on_N: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
    ) -> jax.Array:
        """Return the logits, float32 `[B, T, V]`."""
        tokens = ids_BT.shape[1]
        seen_BHTS = None if mask_BT is None else attention.within(mask_BT)
        positions_BT = jnp.arange(tokens)[None] if positions_BT is None else positions_BT
        views = self._views(positions_BT, seen_BHTS, tokens, 0)
        keys, remat = split(key, self.config.layers), self.config.remat
        x_BTD = blocks.states(self.layers, self._embed(ids_BT), views, keys=keys, on_N=on_N, remat=remat)[-1]
        return self._logits(x_BTD)

    def memory(self, rows: int, slots: int) -> list[Memory]:
        """An empty memory of each layer.

        Args:
            rows: number of texts, B.
            slots: largest number of tokens per text, S.

        Raises:
            ValueError: there are not as many positions as slots, or with so many tokens a dynamic scaling would
                turn the first ones anew at every step.
        """
        scaling, config = self.config.rotary.scaling, self.config
        if isinstance(scaling, Dynamic) and slots > scaling.original:
            raise ValueError(
                f"prompts and what follows must have at most {scaling.original} tokens per row, beyond which a "
                f"dynamic scaling changes with every token, got {slots}"
            )
        fields.check_slots(config, slots)
        shape = rows, slots, config.key_heads, config.head_size
        empty = jnp.zeros(shape, self.embeddings.embedding.dtype)
        return [(empty, empty)] * config.layers

    def extend(
        self, ids_BT: jax.Array, present_BS: jax.Array, memory: list[Memory], start: jax.Array | int
    ) -> tuple[jax.Array, list[Memory]]:
        """Read tokens that follow those of a memory.

        Args:
            ids_BT: the tokens, for the slots from `start` on.
            present_BS: whether the slots hold tokens; in each row those without come first.
            memory: the memory, from `memory` or an earlier call.
            start: slot of the first of the tokens.

        Returns:
            The logits after the last of the tokens, float32 `[B, V]`, and the memory with all of them.
        """
        positions_BT = attention.positions(present_BS, start, ids_BT.shape[1])
        views = self._views(positions_BT, present_BS[:, None, None, :], present_BS.shape[1], start)
        x_BTD, extended = self._embed(ids_BT), []
        for layer, its_memory in zip(self.layers, memory, strict=True):
            x_BTD, its_memory = layer.extend(x_BTD, views, its_memory, start)
            extended.append(its_memory)
        return self._logits(x_BTD[:, -1:])[:, 0], extended

    def _views(
        self, positions_BT: jax.Array, seen_BHTS: jax.Array | None, slots: int, start: jax.Array | int
    ) -> Views:
        """What tokens from slot `start` on see of the slots: those before, or of them those of a mask."""
        config, views = self.config, {}
        for window in set(map(config.window_of, range(config.layers))):
            mask = attention.reach(positions_BT.shape[1], slots, start, window)
            if seen_BHTS is not None:
                mask = mask & seen_BHTS
            rotary = config.rotary if window is None else config.local_rotary or config.rotary
            views[window or 0] = View(mask, rotary.turns(positions_BT, config.head_size))
        return views

    def _embed(self, ids_BT: jax.Array) -> jax.Array:
        x_BTD = self.embeddings(ids_BT)
        # In the dtype of the embeddings, as Gemma was trained.
        scale = jnp.asarray(self.config.hidden_size**0.5, x_BTD.dtype)
        return x_BTD * scale if self.config.scaled_embeddings else x_BTD

    def _logits(self, x_BTD: jax.Array) -> jax.Array:
        x_BTD, cap = self.norm(x_BTD), self.config.logit_cap
        weight_DV = self.embeddings.embedding[...].T if self.config.tied else self.head.kernel[...]
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])  # as in `Linear`
        logits_NV = jnp.matmul(x_ND.astype(weight_DV.dtype), weight_DV).astype(jnp.float32)
        logits_BTV = logits_NV.reshape(*x_BTD.shape[:-1], -1)
        return logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)
