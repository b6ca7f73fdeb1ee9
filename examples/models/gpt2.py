"""GPT-2, the causal Transformer decoder: each token is predicted from those before it.

With n a LayerNorm, A multi-head self-attention over the tokens up to each one and F(x) = gelu(x W_up + b_up)
W_down + b_down, its layers are pre-LN,

    y = x + A(n_a(x))     x' = y + F(n_f(y))     logits = n(x) Wᵀ after the last,

where x starts as word[id] + position[t] and W is the table of word embeddings, or a separate matrix. Dropout
follows the embeddings, the attention weights and each sublayer. The weights of A and F that write to the
residual stream are initialized smaller by a factor of √(2 · layers).

Letters in names: B batch, T tokens, D hidden size, N layers, V vocabulary.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), and its code.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models import attention, blocks, fields
from examples.models.attention import Memory
from examples.models.blocks import ACTIVATIONS, Linear, Norm, PreNormLayer, Table
from examples.models.dropout import Key, dropout, split


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2, with the defaults of GPT-2.

    `tied` says whether the head is the table of word embeddings, and `remat` what the backward pass computes
    again, see `remat.REMAT`.

    Raises:
        ValueError: a field is outside its domain.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    max_positions: int = 1024
    activation: str = "gelu_new"
    norm_eps: float = 1e-5
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    hidden_dropout: float = 0.1
    tied: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        fields.check_remat(self)
        fields.check_sizes(self, "vocab_size", "hidden_size", "layers", "heads", "max_positions")
        check = partial(fields.check_field, self)
        check("heads", self.hidden_size % self.heads == 0, f"a divisor of {self.hidden_size}")
        check("activation", self.activation in ACTIVATIONS, f"one of {list(ACTIVATIONS)}")
        check("norm_eps", self.norm_eps > 0, "positive")
        fields.check_rates(self, "embedding_dropout", "attention_dropout", "hidden_dropout")


class Embeddings(nnx.Module):
    """The sum of the word and position embeddings."""

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        self.config = config
        self.word = Table(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position = Table(config.max_positions, config.hidden_size, std=0.01, rngs=rngs)

    def __call__(self, ids_BT: jax.Array, positions_BT: jax.Array, key: Key) -> jax.Array:
        """Return `[B, T, D]`."""
        x_BTD = self.word(ids_BT) + self.position(positions_BT)
        return dropout(x_BTD, self.config.embedding_dropout, key)


class GPT2(nnx.Module):
    """A model that maps tokens to the logits of the token after each.

    Calls take integer arrays `[B, T]`: `ids_BT`; `mask_BT`, zero at padding and elsewhere the number of a text,
    to whose tokens alone its own attend, or None if a row is one text; `positions_BT`, the position of each
    token in its text, or None if all begin with the row. The booleans `on_N` say which layers are on; the
    others are not computed. A call raises a ValueError if T exceeds `config.max_positions`, or if `on_N` does
    not have one entry per layer.
    """

    def __init__(self, config: GPT2Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)

        def layer() -> PreNormLayer:
            return PreNormLayer(
                config.hidden_size,
                config.heads,
                4 * config.hidden_size,
                activation=config.activation,
                eps=config.norm_eps,
                hidden_dropout=config.hidden_dropout,
                attention_dropout=config.attention_dropout,
                output_std=0.02 / (2 * config.layers) ** 0.5,
                rngs=rngs,
            )

        self.layers = nnx.List([layer() for _ in range(config.layers)])
        self.norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)
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
        """Return the logits, `[B, T, V]`."""
        embeddings_key, *layer_keys = split(key, 1 + self.config.layers)
        tokens = ids_BT.shape[1]
        if tokens > self.config.max_positions:
            raise ValueError(
                f"ids_BT must have at most {self.config.max_positions} tokens per row, got {tokens}"
            )
        mask = attention.reach(tokens, tokens)
        if mask_BT is not None:
            mask = mask & attention.within(mask_BT)
        positions_BT = jnp.arange(tokens) if positions_BT is None else positions_BT
        x_BTD = self.embeddings(ids_BT, positions_BT, embeddings_key)
        remat = self.config.remat
        x_BTD = blocks.states(self.layers, x_BTD, mask, keys=layer_keys, on_N=on_N, remat=remat)[-1]
        return self._logits(x_BTD)

    def memory(self, rows: int, slots: int) -> list[Memory]:
        """An empty memory of each layer.

        Args:
            rows: number of texts, B.
            slots: largest number of tokens per text, S.

        Raises:
            ValueError: there are not as many positions as slots.
        """
        fields.check_slots(self.config, slots)
        size = self.config.hidden_size // self.config.heads
        empty = jnp.zeros((rows, slots, self.config.heads, size), self.embeddings.word.embedding.dtype)
        return [(empty, empty)] * self.config.layers

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
            The logits after the last of the tokens, `[B, V]`, and the memory with all of them.
        """
        tokens, slots = ids_BT.shape[1], present_BS.shape[1]
        mask = attention.reach(tokens, slots, start) & present_BS[:, None, None, :]
        x_BTD = self.embeddings(ids_BT, attention.positions(present_BS, start, tokens), None)
        extended = []
        for layer, its_memory in zip(self.layers, memory, strict=True):
            x_BTD, its_memory = layer.extend(x_BTD, mask, its_memory, start)
            extended.append(its_memory)
        return self._logits(x_BTD[:, -1:])[:, 0], extended

    def _logits(self, x_BTD: jax.Array) -> jax.Array:
        head = self.embeddings.word.scores if self.config.tied else self.head
        return head(self.norm(x_BTD))
