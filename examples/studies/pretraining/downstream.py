"""The quality of a pre-trained encoder: it is fine-tuned for a few updates, and tested.

The task is to classify the topics of sentences from Python's own documentation. Every encoder gets the same
head, batches and rate, which is larger for the head; none of them is tuned, and there is no dropout.
"""

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import optax

import optimiz
from examples.data import docstrings
from examples.shared import optimizers
from examples.tasks.pretraining import Pretraining
from examples.tasks.text_classification import TextClassification
from optimiz import groups, schedules, training

STEPS, BATCH_SIZE, LENGTH, LEARNING_RATE, HEAD_RATE = 400, 16, 32, 1e-3, 30.0


class Downstream:
    """A function from the parameters of a masked language model to its metrics on the topics task.

    Args:
        problem: problem with the shape of the encoder, and the tokenizer.
        directory: directory where both are saved for ``TextClassification``.

    Attributes:
        classification: the task.
        examples: number of test examples.
    """

    def __init__(self, problem: Pretraining, directory: Path):
        problem.save(directory, problem.start(jax.random.key(0)))
        length = min(LENGTH, problem.objective.config.max_tokens)
        parts = docstrings.load_split()
        self.classification = TextClassification(parts, directory, length=length, dropout=0.0, pooling="mean")
        self.examples = len(parts["test"].texts)
        self._task = self.classification.task(BATCH_SIZE, seed=0)
        self._test = self.classification.evaluation("test")
        shape = schedules.warm_up(schedules.linear(LEARNING_RATE), 0.1)
        self._tx = optax.chain(
            optimiz.adamw(
                schedules.over_steps(shape, STEPS), weight_decay=0.01, weight_decay_mask=groups.no_decay()
            ),
            optimiz.scale_by_groups(optimizers.head_multipliers(HEAD_RATE)),
        )

    def __call__(self, params: Any) -> dict[str, float]:
        """Fine-tune the encoder of a masked language model, and return its test metrics."""
        encoder = {name: tree for name, tree in params.items() if name != "head"}
        task = dataclasses.replace(self._task, init=lambda key: self._task.init(key) | encoder, evaluate=None)
        with tempfile.TemporaryDirectory() as directory:
            try:
                result = training.fit(task, self._tx, training.Settings(steps=STEPS), directory, identity={})
            except training.Diverged:  # a failure of the encoder, not of its pre-training
                return {"accuracy": math.nan}
        return self._test(result.params)
