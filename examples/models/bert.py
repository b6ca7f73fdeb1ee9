"""The bidirectional Transformer encoder of BERT, MiniLM and RoBERTa checkpoints.

With n a LayerNorm, A multi-head self-attention and F(x) = activation(x W_up + b_up) W_down + b_down

    Post-LN (published BERTs)    y = n_a(x + A(x))     x' = n_f(y + F(y))
    Pre-LN (`norm_first=True`)   y = x + A(n_a(x))     x' = y + F(n_f(y))     n(x) after the last

where x starts as n_e(word[id] + position[t + offset] + token_type[type]). Dropout follows the
embeddings, the attention weights and each sublayer.

Letters in names: B batch, T tokens, P predicted tokens, D hidden size, N layers, C classes, V vocabulary.

Source: Devlin et al., "BERT" (arXiv:1810.04805); Liu et al., "RoBERTa" (arXiv:1907.11692); Xiong et
al., "On Layer Normalization in the Transformer Architecture" (arXiv:2002.04745).
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from examples.models import blocks, fields
from examples.models.blocks import ACTIVATIONS, Attention, Linear, Mlp, Norm, Table
from examples.models.dropout import Key, dropout, split


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder; the defaults are those of BERT.

    `max_positions` counts the rows of the position table and `position_offset` is the row of the
    first token: 0 in BERT, `pad_token_id + 1` in RoBERTa. `remat` says what the backward pass computes again,
    see `remat.REMAT`.

    Raises:
        ValueError: a field is outside its domain.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int = 512
    type_vocab_size: int = 2
    norm_eps: float = 1e-12
    pad_token_id: int = 0
    position_offset: int = 0
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_first: bool = False
    remat: str = "none"

    def __post_init__(self) -> None:
        fields.check_remat(self)
        sizes = "vocab_size hidden_size layers heads intermediate_size max_positions type_vocab_size"
        fields.check_sizes(self, *sizes.split())
        check = partial(fields.check_field, self)
        check("heads", self.hidden_size % self.heads == 0, f"a divisor of {self.hidden_size}")
        check("norm_eps", self.norm_eps > 0, "positive")
        for name, rows in (
            ("pad_token_id", self.vocab_size),
            ("position_offset", self.max_positions),
        ):
            check(name, 0 <= getattr(self, name) < rows, f"in [0, {rows})")
        check("activation", self.activation in ACTIVATIONS, f"one of {list(ACTIVATIONS)}")
        fields.check_rates(self, "hidden_dropout", "attention_dropout")

    @property
    def max_tokens(self) -> int:
        """The maximum number of tokens of a text: the rows of the position table from the offset on."""
        return self.max_positions - self.position_offset

    def check_length(self, length: int) -> None:
        """Raise a ValueError if texts of so many tokens are too long."""
        if length > self.max_tokens:
            raise ValueError(f"length={length}: the model reads at most {self.max_tokens} tokens")


class Embeddings(nnx.Module):
    """The normalized sum of the word, position and token type embeddings."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.word = Table(config.vocab_size, config.hidden_size, rngs=rngs)
        self.position = Table(config.max_positions, config.hidden_size, rngs=rngs)
        self.token_type = Table(config.type_vocab_size, config.hidden_size, rngs=rngs)
        self.norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)

    def __call__(self, ids_BT: jax.Array, types_BT: jax.Array, key: Key) -> jax.Array:
        """Return `[B, T, D]`."""
        tokens = ids_BT.shape[1]
        if tokens > self.config.max_tokens:
            raise ValueError(f"ids_BT must have at most {self.config.max_tokens} tokens per row, got {tokens}")
        position_TD = self.position(self.config.position_offset + jnp.arange(tokens))
        x_BTD = self.norm(self.word(ids_BT) + position_TD + self.token_type(types_BT))
        return dropout(x_BTD, self.config.hidden_dropout, key)


class Layer(nnx.Module):
    """Attention, then the MLP, each with dropout, a residual connection and a norm."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        size = config.hidden_size
        self.attention = Attention(size, config.heads, config.attention_dropout, rngs=rngs)
        self.attention_norm = Norm(size, config.norm_eps, rngs=rngs)
        self.mlp = Mlp(size, config.intermediate_size, config.activation, rngs=rngs)
        self.mlp_norm = Norm(size, config.norm_eps, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, mask_BT: jax.Array, key: Key) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`."""
        weights_key, attention_key, mlp_key = split(key, 3)
        # No token attends to padding.
        attention = partial(self.attention, mask=mask_BT[:, None, None, :] != 0, key=weights_key)
        for sublayer, norm, dropout_key in (
            (attention, self.attention_norm, attention_key),
            (self.mlp, self.mlp_norm, mlp_key),
        ):
            y_BTD = sublayer(norm(x_BTD) if self.config.norm_first else x_BTD)
            x_BTD = x_BTD + dropout(y_BTD, self.config.hidden_dropout, dropout_key)
            x_BTD = x_BTD if self.config.norm_first else norm(x_BTD)
        return x_BTD


class Encoder(nnx.Module):
    """A model that maps tokens to one vector per token.

    Calls take integer arrays `[B, T]`: `ids_BT`; `mask_BT`, nonzero at tokens and zero at padding, which must
    be on the right; and `types_BT`. The booleans `on_N` say which layers are on; the others are not computed. A
    call raises a ValueError if T exceeds `config.max_tokens`, or if `on_N` does not have one entry per layer.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.layers)])
        if config.norm_first:
            self.norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)

    def hidden_states(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        key: Key = None,
        on_N: jax.Array | None = None,
    ) -> list[jax.Array]:
        """Return the `[B, T, D]` after the embeddings and after each layer: `layers + 1` arrays."""
        embeddings_key, *layer_keys = split(key, 1 + self.config.layers)
        x_BTD = self.embeddings(ids_BT, types_BT, embeddings_key)
        remat = self.config.remat
        states = blocks.states(self.layers, x_BTD, mask_BT, keys=layer_keys, on_N=on_N, remat=remat)
        if self.config.norm_first:
            states[-1] = self.norm(states[-1])
        return states

    def __call__(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        key: Key = None,
        on_N: jax.Array | None = None,
    ) -> jax.Array:
        """Return the last hidden states, `[B, T, D]`."""
        return self.hidden_states(ids_BT, mask_BT, types_BT, key, on_N)[-1]


def _mean(x_BTD: jax.Array, mask_BT: jax.Array) -> jax.Array:
    tokens_BT = (mask_BT != 0).astype(x_BTD.dtype)
    # A row without any token has the mean zero instead of 0 / 0.
    return jnp.einsum("BTD,BT->BD", x_BTD, tokens_BT) / jnp.maximum(tokens_BT.sum(1)[:, None], 1)


def _first(x_BTD: jax.Array, mask_BT: jax.Array) -> jax.Array:
    del mask_BT  # the first token is never padding
    return x_BTD[:, 0]


POOLINGS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"mean": _mean, "first": _first}


class Classifier(Encoder):
    """A model that maps tokens to logits: an encoder, a pooling of its vectors, dropout and a linear head.

    It extends the encoder instead of holding one, so a parameter has the same path with and without
    the head, and pretrained parameters are inserted with `params | encoder_params`.

    There are `classes` logits. `pooling` is `"mean"`, over the tokens of a text, or `"first"`.

    Raises:
        ValueError: `classes` or `pooling` is outside its domain.
    """

    def __init__(self, config: EncoderConfig, classes: int, pooling: str = "mean", *, rngs: nnx.Rngs):
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {list(POOLINGS)}, got {pooling!r}")
        super().__init__(config, rngs=rngs)
        self.pool = POOLINGS[pooling]
        # With a head of zeros the first loss is log C for every seed, and no gradient reaches the
        # pretrained layers through a head that has not learned anything yet.
        self.head = Linear(config.hidden_size, classes, std=0.0, rngs=rngs)

    def __call__(
        self, ids_BT: jax.Array, mask_BT: jax.Array, types_BT: jax.Array, key: Key = None
    ) -> jax.Array:
        """Return the logits, `[B, C]`."""
        encoder_key, head_key = split(key, 2)
        x_BTD = super().__call__(ids_BT, mask_BT, types_BT, encoder_key)
        x_BD = self.pool(x_BTD, mask_BT)
        return self.head(dropout(x_BD, self.config.hidden_dropout, head_key))


class Predictions(nnx.Module):
    """The head without the tied word embeddings: a linear map, the activation, a norm, and biases."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.activation]
        self.transform = Linear(config.hidden_size, config.hidden_size, rngs=rngs)
        self.norm = Norm(config.hidden_size, config.norm_eps, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))

    def __call__(self, x_BPD: jax.Array, word: Table) -> jax.Array:
        """Return the logits, `[B, P, V]`."""
        return word.scores(self.norm(self.activation(self.transform(x_BPD)))) + self.bias[...]


class MaskedLanguageModel(Encoder):
    """A model that maps tokens to the logits of the original tokens at P positions of each text."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.head = Predictions(config, rngs=rngs)

    def __call__(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        positions_BP: jax.Array,
        key: Key = None,
        on_N: jax.Array | None = None,
    ) -> jax.Array:
        """Return the logits, `[B, P, V]`."""
        x_BTD = super().__call__(ids_BT, mask_BT, types_BT, key, on_N)
        x_BPD = jnp.take_along_axis(x_BTD, positions_BP[..., None], axis=1)
        return self.head(x_BPD, self.embeddings.word)
