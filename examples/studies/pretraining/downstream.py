"""What a pre-trained encoder is good for: fine-tuned for a few updates, and tested.

The task is the topic of sentences from Python's own documentation. Every encoder gets the same head, batches
and rate, which is larger for the head; none of them is tuned, and there is no dropout.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optimiz
from examples.data import docstrings
from examples.shared import optimizers
from examples.tasks.pretraining import Pretraining
from examples.tasks.text_classification import TextClassification
from optimiz import groups, schedules, training

STEPS, BATCH_SIZE, LENGTH, LEARNING_RATE, HEAD_RATE = 400, 16, 32, 1e-3, 30.0


class Downstream:
    """Parameters of a masked language model to the accuracy on the topics task.

    Args:
        problem: gives the shape of the encoder, and the tokenizer.
        directory: to save these in, as ``TextClassification`` reads them.

    Attributes:
        classification: the task.
    """

    def __init__(self, problem: Pretraining, directory: Path):
        problem.save(directory, problem.start(jax.random.key(0)))
        length = min(LENGTH, problem.objective.config.max_tokens)
        self.classification = TextClassification(
            docstrings.load_split(), directory, length=length, dropout=0.0, pooling="mean"
        )
        self._task = self.classification.task(BATCH_SIZE, seed=0)
        self._test = self.classification.evaluation("test")
        shape = schedules.warm_up(schedules.linear(LEARNING_RATE), 0.1)
        self._tx = optax.chain(
            optimiz.adamw(
                schedules.over_steps(shape, STEPS), weight_decay=0.01, weight_decay_mask=groups.no_decay()
            ),
            optimiz.scale_by_groups(optimizers.head_multipliers(HEAD_RATE)),
        )
        self._compiled = jax.jit(self._step, donate_argnums=(0, 1))

    def __call__(self, params: Any) -> dict[str, float]:
        """Fine-tune the encoder of a masked language model, and return its figures on the test part."""
        encoder = {name: tree for name, tree in params.items() if name != "head"}
        params = jax.tree.map(jnp.array, self._task.init(jax.random.key(0)) | encoder)  # copies, to be donated
        state = self._tx.init(params)
        for step in range(STEPS):
            params, state = self._compiled(params, state, self._task.batches(step))
        return self._test(params)

    def _step(self, params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        def mean(params: Any) -> jax.Array:
            return training.mean_loss(self._task.loss(params, batch, None), batch)

        updates, state = self._tx.update(jax.grad(mean)(params), state, params)
        return optax.apply_updates(params, updates), state
