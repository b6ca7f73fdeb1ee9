"""The tasks of well-known models, with shapes for batches: what their step is compiled from, without data.

A GPT-2 or a Llama predicts the next token, as in ``examples.pretrain``; a ViT classifies images that are
cropped and mirrored, as in ``examples.finetune_image``. There is no dropout, which is the default of both. A
BERT classifies texts with dropout, as in ``examples.finetune_text``.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.data.images import ImageExamples
from examples.models import llama_files, shapes
from examples.models.adapters import Keys, from_nnx
from examples.models.bert import Classifier
from examples.models.gpt2 import GPT2Config
from examples.models.vit import ViTConfig
from examples.tasks.cross_entropy import cross_entropy
from examples.tasks.image_classification import CROP, FLIP, ImageClassification, Model
from examples.tasks.objectives import Objective, next_token
from examples.tasks.pretraining import LanguageModel, depth_of
from optimiz import training

_SMOOTHING = 0.1  # of labels, as by default
_CLASSES = 2  # of texts


def task(
    model: shapes.Model,
    batch: int,
    length: int | None = None,
    *,
    remat: str = "none",
    dtype: Any = jnp.float32,
) -> training.Task:
    """The task of a model, for its step to be planned.

    Args:
        model: a GPT-2, a Llama, a BERT or a ViT.
        batch: rows of text, or images, of a step.
        length: tokens of a row; None for as many as the model reads, and for images.
        remat: what the backward pass computes again, see ``remat.REMAT``.
        dtype: dtype of the parameters.

    Raises:
        ValueError: a length is given for images.
    """
    match model:
        case shapes.Gpt2():
            made = _of_text(next_token(_gpt2(model, remat)), batch, length)
        case shapes.Llama():
            config = dataclasses.replace(model.config, attention_dropout=0.0, remat=remat)
            made = _of_text(next_token(config, llama_files.LLAMA), batch, length)
        case shapes.Bert():
            made = _of_bert(model, batch, length, remat)
        case shapes.Vit() if length is None:
            made = _of_vit(model, batch, remat)
        case shapes.Vit():
            raise ValueError(f"length is of a text, and a ViT reads images; got {length}")
    init = made.init
    return dataclasses.replace(made, init=lambda key: jax.tree.map(lambda p: p.astype(dtype), init(key)))


def _gpt2(model: shapes.Gpt2, remat: str) -> GPT2Config:
    return GPT2Config(
        model.vocabulary,
        model.width,
        model.layers,
        model.heads,
        max_positions=model.positions,
        embedding_dropout=0.0,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        remat=remat,
    )


def _of_text(objective: Objective, batch: int, length: int | None) -> training.Task:
    rows = jax.ShapeDtypeStruct((batch, (length or objective.config.max_positions) + 1), jnp.int32)
    arrays = jax.eval_shape(lambda rows: objective.batch(rows, 0, 0), rows)
    language = LanguageModel(objective)
    return training.Task(
        init=language.start,
        loss=language.losses,
        batches=lambda step: arrays,
        logits=language.logits,
        depth=depth_of,
    )


def _of_bert(model: shapes.Bert, batch: int, length: int | None, remat: str) -> training.Task:
    config = dataclasses.replace(model.config, remat=remat)
    tokens = length or config.max_tokens
    config.check_length(tokens)

    def make(key: jax.Array) -> Classifier:
        return Classifier(config, _CLASSES, rngs=Keys(key))

    _, apply = from_nnx(nnx.eval_shape(lambda: make(jax.random.key(0))))

    def logits(params: Any, batch: Any, key: jax.Array | None = None) -> jax.Array:
        return apply(params, batch["ids_BT"], batch["mask_BT"], batch["types_BT"], key)

    arrays = dict.fromkeys(("ids_BT", "mask_BT", "types_BT"), jax.ShapeDtypeStruct((batch, tokens), jnp.int32))
    arrays["label"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return training.Task(
        init=lambda key: from_nnx(make(key))[0],
        loss=lambda params, batch, key: cross_entropy(logits(params, batch, key), batch["label"]),
        batches=lambda step: arrays,
        logits=logits,
    )


def _of_vit(model: shapes.Vit, batch: int, remat: str) -> training.Task:
    config = ViTConfig(
        model.image,
        model.patch,
        model.width,
        model.layers,
        model.heads,
        4 * model.width,
        classes=model.classes,
        remat=remat,
    )
    # The loss needs the size of the images, their classes and the mean of their pixels: one image has them.
    image = np.zeros((1, model.image, model.image, 3), np.uint8)
    names = tuple(map(str, range(model.classes)))
    one = ImageExamples(image, np.zeros(1, np.int32), names, "a black image")
    parts = {"train": one, "validation": one}
    module = Model(config)
    made = ImageClassification(parts, module, augment=(CROP, FLIP), smoothing=_SMOOTHING).task(1, seed=0)
    arrays = {
        name: jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype)
        for name, array in made.batches(0).items()
    }
    return dataclasses.replace(made, batches=lambda step: arrays)
