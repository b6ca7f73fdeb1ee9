"""T5, the Transformer encoder-decoder with relative positions.

With n an RMS norm, A self-attention, C attention of the decoder to the encoder and F(x) = (gelu(x W_gate) · x
W_up) W_down in v1.1, relu(x W_inner) W_down before, all without biases,

    encoder   y = x + A(n_a(x))                        x' = y + F(n_f(y))
    decoder   y = x + A(n_a(x))   z = y + C(n_c(y))    x' = z + F(n_f(z))     logits = n(x) Wᵀ after the last.

Both use the same table of word embeddings. Attention does not scale its products: the queries are initialized
that small. Positions enter only as learned biases, one per head and bucket of the distance between two tokens,
which are added to the products of all layers. Half of the buckets hold one distance each; the others widen
logarithmically. W is a separate matrix (v1.1), or the table, in which case the logits are divided by √D (T5).

Dropout follows the embeddings, the attention weights, the activation in F or its product, each sublayer and the
last norms.

Letters in names: B batch, T and S tokens (attending, attended to), D hidden size, H heads, K size of a head, N
layers, V vocabulary.

Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(arXiv:1910.10683) and its code; Shazeer, "GLU Variants Improve Transformer" (arXiv:2002.05202).
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.models import blocks, fields
from examples.models.attention import attend
from examples.models.blocks import ACTIVATIONS, Linear, RMSNorm, Table
from examples.models.dropout import Key, dropout, split


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The shape of a T5, with the defaults of v1.1.

    `tied` says whether the head is the table of word embeddings, `scaled` whether the logits are divided by √D,
    and `gated` whether the activation in the MLP is multiplied by another linear map. `remat` says what the
    backward pass computes again, see `remat.REMAT`.

    Raises:
        ValueError: a field is outside its domain.
    """

    vocab_size: int
    hidden_size: int
    layers: int
    decoder_layers: int
    heads: int
    head_size: int
    intermediate_size: int
    buckets: int = 32
    max_distance: int = 128
    norm_eps: float = 1e-6
    dropout: float = 0.1
    tied: bool = False
    scaled: bool = False
    activation: str = "gelu_new"
    gated: bool = True
    remat: str = "none"

    def __post_init__(self) -> None:
        fields.check_remat(self)
        sizes = "vocab_size hidden_size layers decoder_layers heads head_size intermediate_size"
        fields.check_sizes(self, *sizes.split())
        check = partial(fields.check_field, self)
        check("buckets", self.buckets >= 4 and self.buckets % 4 == 0, "a multiple of 4")
        check("max_distance", self.max_distance > self.buckets // 2, f"above {self.buckets // 2}")
        check("norm_eps", self.norm_eps > 0, "positive")
        check("activation", self.activation in ACTIVATIONS, f"one of {list(ACTIVATIONS)}")
        fields.check_rates(self, "dropout")


def relative_buckets(queries: int, keys: int, buckets: int, max_distance: int, *, causal: bool) -> np.ndarray:
    """The bucket of the distance from each token to every token that it may attend to.

    Args:
        queries: number of queries, T.
        keys: number of keys, S.
        buckets: number of buckets; unless causal, half of them are for the tokens ahead.
        max_distance: distance from which on all tokens are in the last bucket.
        causal: whether all tokens ahead are in bucket 0.

    Returns:
        int32 `[T, S]`.
    """
    ahead_TS = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    if causal:
        base, distance_TS = 0, np.maximum(-ahead_TS, 0)
    else:
        buckets //= 2
        base, distance_TS = np.where(ahead_TS > 0, buckets, 0), np.abs(ahead_TS)
    exact = buckets // 2
    # In float32, as in T5: it decides the bucket of a distance on the border of two.
    ratio_TS = np.log(np.maximum(distance_TS, 1).astype(np.float32) / np.float32(exact))
    wide_TS = exact + (ratio_TS / np.float32(math.log(max_distance / exact)) * (buckets - exact)).astype(int)
    bucket_TS = np.where(distance_TS < exact, distance_TS, np.minimum(wide_TS, buckets - 1))
    return (base + bucket_TS).astype(np.int32)


class Attention(nnx.Module):
    """Multi-head attention without biases or a scale."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        size, inner = config.hidden_size, config.heads * config.head_size
        linear = partial(Linear, use_bias=False, rngs=rngs)
        self.query = linear(size, inner, std=(size * config.head_size) ** -0.5)
        self.key = linear(size, inner, std=size**-0.5)
        self.value = linear(size, inner, std=size**-0.5)
        self.output = linear(inner, size, std=inner**-0.5)

    def __call__(
        self, x_BTD: jax.Array, y_BSD: jax.Array, mask: jax.Array, bias_HTS: jax.Array | float, key: Key
    ) -> jax.Array:
        """Let the tokens of x attend to those of y; return `[B, T, D]`."""

        def by_head(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:2], self.config.heads, -1)

        q_BTHK, k_BSHK, v_BSHK = (
            by_head(self.query(x_BTD)),
            by_head(self.key(y_BSD)),
            by_head(self.value(y_BSD)),
        )
        rate = self.config.dropout
        return self.output(attend(q_BTHK, k_BSHK, v_BSHK, mask, rate, key, scale=1.0, bias_HTS=bias_HTS))


class Mlp(nnx.Module):
    """A linear map of the activation of another; if gated, of its product with a third."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.activation, self.gated, self.rate = ACTIVATIONS[config.activation], config.gated, config.dropout
        size, inner = config.hidden_size, config.intermediate_size
        linear = partial(Linear, use_bias=False, rngs=rngs)
        if self.gated:
            self.gate = linear(size, inner, std=size**-0.5)
            self.up = linear(size, inner, std=size**-0.5)
        else:
            self.inner = linear(size, inner, std=size**-0.5)
        self.down = linear(inner, size, std=inner**-0.5)

    def __call__(self, x_BTD: jax.Array, key: Key) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`."""
        if self.gated:
            product = self.activation(self.gate(x_BTD)) * self.up(x_BTD)
        else:
            product = self.activation(self.inner(x_BTD))
        return self.down(dropout(product, self.rate, key))


class Layer(nnx.Module):
    """Self-attention, in a decoder also attention to the encoder, and the MLP, each after its norm."""

    def __init__(self, config: T5Config, *, decodes: bool, rngs: nnx.Rngs):
        self.rate, self.decodes = config.dropout, decodes
        norm = partial(RMSNorm, config.hidden_size, config.norm_eps)
        self.attention_norm, self.attention = norm(), Attention(config, rngs=rngs)
        if decodes:
            self.cross_attention_norm, self.cross_attention = norm(), Attention(config, rngs=rngs)
        self.mlp_norm, self.mlp = norm(), Mlp(config, rngs=rngs)

    def __call__(
        self,
        x_BTD: jax.Array,
        mask: jax.Array,
        bias_HTT: jax.Array,
        encoded: tuple[jax.Array, jax.Array] | None,
        key: Key,
    ) -> jax.Array:
        """Map `[B, T, D]` to `[B, T, D]`; a decoder's layer takes the encoder's output and its mask."""
        keys = split(key, 6)
        normed_BTD = self.attention_norm(x_BTD)
        y_BTD = self.attention(normed_BTD, normed_BTD, mask, bias_HTT, keys[0])
        x_BTD = x_BTD + dropout(y_BTD, self.rate, keys[1])
        if self.decodes:
            assert encoded is not None
            y_BTD = self.cross_attention(self.cross_attention_norm(x_BTD), *encoded, 0.0, keys[2])
            x_BTD = x_BTD + dropout(y_BTD, self.rate, keys[3])
        y_BTD = self.mlp(self.mlp_norm(x_BTD), keys[4])
        return x_BTD + dropout(y_BTD, self.rate, keys[5])


class Stack(nnx.Module):
    """The layers of the encoder, or of the decoder, and what they share."""

    def __init__(self, config: T5Config, *, decodes: bool, rngs: nnx.Rngs):
        self.config, self.decodes = config, decodes
        self.distance = Table(config.buckets, config.heads, std=config.hidden_size**-0.5, rngs=rngs)
        layers = config.decoder_layers if decodes else config.layers
        self.layers = nnx.List([Layer(config, decodes=decodes, rngs=rngs) for _ in range(layers)])
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def __call__(
        self,
        x_BTD: jax.Array,
        mask: jax.Array,
        encoded: tuple[jax.Array, jax.Array] | None,
        key: Key,
        on_N: jax.Array | None,
    ) -> jax.Array:
        """Map embedded tokens to the last hidden states, `[B, T, D]`."""
        first_key, last_key, *layer_keys = split(key, 2 + len(self.layers))
        tokens, rate = x_BTD.shape[1], self.config.dropout
        buckets = relative_buckets(
            tokens, tokens, self.config.buckets, self.config.max_distance, causal=self.decodes
        )
        bias_HTT = self.distance(buckets).transpose(2, 0, 1)
        x_BTD = dropout(x_BTD, rate, first_key)
        arguments, options = (mask, bias_HTT, encoded), {"on_N": on_N, "remat": self.config.remat}
        x_BTD = blocks.states(self.layers, x_BTD, *arguments, keys=layer_keys, **options)[-1]
        return dropout(self.norm(x_BTD), rate, last_key)


class T5(nnx.Module):
    """A model that maps tokens and an answer's tokens to the logits of the token after each of the latter.

    Calls take integer arrays: `ids_BS`; `answer_BT`, which begins with the token that starts every answer; and
    `mask_BS`, zero at the padding of `ids_BS`, or None if there is none. An answer is padded on the right. The
    booleans `on_N` say which layers are on, in both the encoder and the decoder; the others are not computed. A
    call raises a ValueError if `on_N` does not have one entry per layer of each.
    """

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Table(config.vocab_size, config.hidden_size, std=1.0, rngs=rngs)
        self.encoder = Stack(config, decodes=False, rngs=rngs)
        self.decoder = Stack(config, decodes=True, rngs=rngs)
        if not config.tied:
            std = config.hidden_size**-0.5
            self.head = Linear(config.hidden_size, config.vocab_size, std=std, use_bias=False, rngs=rngs)

    def __call__(
        self,
        ids_BS: jax.Array,
        answer_BT: jax.Array,
        mask_BS: jax.Array | None = None,
        key: Key = None,
        on_N: jax.Array | None = None,
    ) -> jax.Array:
        """Return the logits, `[B, T, V]`."""
        encoder_key, decoder_key = split(key, 2)
        mask_BS = jnp.ones_like(ids_BS) if mask_BS is None else mask_BS
        mask = mask_BS[:, None, None, :] != 0
        encoded_BSD = self.encoder(self.embeddings(ids_BS), mask, None, encoder_key, on_N)
        causal = jnp.tri(answer_BT.shape[1], dtype=bool)
        x_BTD = self.decoder(self.embeddings(answer_BT), causal, (encoded_BSD, mask), decoder_key, on_N)
        if self.config.scaled:
            x_BTD = x_BTD * self.config.hidden_size**-0.5
        return self.embeddings.scores(x_BTD) if self.config.tied else self.head(x_BTD)
