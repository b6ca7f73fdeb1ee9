"""A task of the user's own: `--task=my_package.my_module:my_task`."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from examples.compared.setting import Setting
from examples.shared import optimizers
from optimiz import training


def setting(name: str) -> Setting:
    """The setting of a function.

    Args:
        name: `module:function` of a function: seed → (task, test, number of test examples). The seed decides
            the order of the data, and all tasks have the same loss; `test` is a function from parameters to
            metrics by name.

    Raises:
        ValueError: it cannot be imported, or does not return that.
    """
    make = optimizers.imported("task", name)
    task, test, examples = _made(name, make, 0)
    first = task.batches(0)
    return Setting(
        title=f"training {name}",
        about={"task": name},
        decisive={"batch_size": len(next(iter(first.values()), ()))},
        identity={"first_batch": _digest(first)},
        task_of=lambda seed: _made(name, make, seed)[0],
        test=test,
        test_examples=examples,
        metrics=(),
        choose=_without_a_rate,
    )


def _without_a_rate(name: str) -> optimizers.Choice:
    """An optimizer without a default rate: nobody has measured one for this task."""
    return dataclasses.replace(optimizers.choose(name), learning_rate=None)


def _made(
    name: str, make: Callable[..., Any], seed: int
) -> tuple[training.Task, Callable[..., dict[str, float]], int]:
    try:
        made = make(seed)
    except Exception as error:  # whatever the user's function raises
        raise ValueError(f"task {name!r} failed at seed {seed}: {type(error).__name__}: {error}") from error
    if isinstance(made, tuple) and len(made) == 3:
        task, test, examples = made
        if isinstance(task, training.Task) and callable(test) and type(examples) is int and examples >= 1:
            return made
    got = type(made).__name__
    if isinstance(made, tuple):
        got = f"({', '.join(f'{each}' if type(each) is int else type(each).__name__ for each in made)})"
    raise ValueError(
        f"task {name!r} must return (training.Task, function of parameters, number of test examples ≥ 1), got "
        f"{got}"
    )


def _digest(batch: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a batch."""
    digest = hashlib.sha256()
    for key, array in sorted(batch.items()):
        digest.update(f"{key} {array.dtype} {array.shape} ".encode() + np.asarray(array).tobytes())
    return digest.hexdigest()
