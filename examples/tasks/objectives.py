"""The objectives of pre-training: what a model predicts from packed text, and which model it is.

There are three: the next token (causal, GPT-2), hidden tokens (masked, BERT), and spans that were cut out
(span, T5 v1.1). What is hidden or cut out is drawn anew at every step.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from examples.data import masking, packing, spans
from examples.data.tokenization import SENTINELS, Vocabulary
from examples.models import bert, families, gpt2, llama, t5
from examples.models.layout import Layout

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a model.

    Attributes:
        layers: number of layers; of each, if there are an encoder and a decoder.
        hidden_size: hidden size, D.
        heads: number of heads, H, a divisor of D.
        length: number of tokens that the model reads per row, T.
        dropout: dropout rate, in [0, 1).
        remat: what the backward pass computes again, see `remat.REMAT`.
    """

    layers: int
    hidden_size: int
    heads: int
    length: int
    dropout: float
    remat: str = "none"


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is predicted, and by which model.

    Attributes:
        family: layout of the model's files.
        config: configuration of the model.
        pack: stream of tokens [S] → rows of text, int32 [N, ...], a view of it.
        batch: (rows [B, ...], seed, step) → the batch, with its targets [B, P] as `targets`.
        arguments: batch → arguments of the model, whose logits are [B, P, V].
        targets_per_token: number of targets per token of the predicted text.
    """

    family: Layout
    config: Any
    pack: Callable[[np.ndarray], np.ndarray]
    batch: Callable[[np.ndarray, int, int], Arrays]
    arguments: Callable[[Arrays], tuple[Any, ...]]
    targets_per_token: float = 1.0

    def config_of(self, layers: int) -> Any:
        """The configuration of a model of another depth, in both encoder and decoder."""
        depths = {"layers", "decoder_layers"} & {field.name for field in dataclasses.fields(self.config)}
        return dataclasses.replace(self.config, **dict.fromkeys(depths, layers))


def next_token(config: gpt2.GPT2Config | llama.LlamaConfig, family: Layout = families.GPT2) -> Objective:
    """Predict each token from those before it.

    Args:
        config: configuration of the decoder that predicts.
        family: its family.
    """

    def batch(rows: np.ndarray, seed: int, step: int) -> Arrays:
        return {"ids_BT": rows[:, :-1], "targets": rows[:, 1:]}

    pack = partial(packing.pack, length=config.max_positions + 1, overlap=1)
    return Objective(family, config, pack, batch, lambda batch: (batch["ids_BT"], None))


def causal(vocabulary: Vocabulary, size: Size) -> Objective:
    """Predict each token from those before it, with a GPT-2."""
    config = gpt2.GPT2Config(
        vocabulary.size,
        size.hidden_size,
        size.layers,
        size.heads,
        max_positions=size.length,
        embedding_dropout=size.dropout,
        attention_dropout=size.dropout,
        hidden_dropout=size.dropout,
        remat=size.remat,
    )
    return next_token(config)


def masked(vocabulary: Vocabulary, size: Size) -> Objective:
    """Predict hidden tokens from those around them, with a BERT; every row has a start and an end token."""
    config = bert.EncoderConfig(
        vocabulary.size,
        size.hidden_size,
        size.layers,
        size.heads,
        4 * size.hidden_size,
        max_positions=size.length,
        pad_token_id=vocabulary.ids["pad"],
        hidden_dropout=size.dropout,
        attention_dropout=size.dropout,
        remat=size.remat,
    )
    start, end, mask_id = (vocabulary.ids[role] for role in ("start", "end", "mask"))
    ordinary = np.array(vocabulary.ordinary)

    pack = partial(packing.pack, length=size.length - 2)

    def batch(rows: np.ndarray, seed: int, step: int) -> Arrays:
        framed = np.pad(rows, ((0, 0), (1, 1)), constant_values=((0, 0), (start, end)))
        hidden = masking.mask(framed, mask_id, ordinary, seed, step)
        targets = hidden.pop("targets_BP")
        return hidden | {"targets": targets}

    def arguments(batch: Arrays) -> tuple[Any, ...]:
        ids_BT = batch["ids_BT"]
        return ids_BT, jax.numpy.ones_like(ids_BT), jax.numpy.zeros_like(ids_BT), batch["positions_BP"]

    return Objective(families.MASKED_BERT, config, pack, batch, arguments)


def span(vocabulary: Vocabulary, size: Size) -> Objective:
    """Predict spans that were cut out from what is left, with a T5."""
    config = t5.T5Config(
        vocabulary.size,
        size.hidden_size,
        size.layers,
        size.layers,
        size.heads,
        size.hidden_size // size.heads,
        # Two matrices go up and one down: with this size they have the parameters of an MLP of 4 D.
        round(8 / 3 * size.hidden_size),
        dropout=size.dropout,
        remat=size.remat,
    )
    shape = spans.shape_of_inputs(size.length)
    if shape.spans > SENTINELS:  # beyond them are the ids of words
        raise ValueError(
            f"length {size.length} means {shape.spans} spans per row, but there are {SENTINELS} sentinels: "
            "length must be smaller"
        )
    end, pad = vocabulary.ids["end"], vocabulary.ids["pad"]

    def batch(rows: np.ndarray, seed: int, step: int) -> Arrays:
        cut = spans.corrupt(rows, end, vocabulary.size, seed, step)
        targets = cut["targets_BT"]
        answer_BT = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=pad)
        return {"ids_BS": cut["ids_BS"], "answer_BT": answer_BT, "targets": targets}

    pack = partial(packing.pack, length=shape.length)
    return Objective(
        families.T5,
        config,
        pack,
        batch,
        lambda batch: (batch["ids_BS"], batch["answer_BT"], None),
        targets_per_token=shape.answers / shape.cut,
    )


OBJECTIVES = {"causal": causal, "masked": masked, "span": span}
