"""Begin a run with the parameters of another."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from examples.shared import strict_json
from examples.shared.run_folders import refuse_several
from optimiz import training

# What parameters of the same shapes may mean differently, by its name in the identity of a run.
_MEANINGS = {
    "label_names": "classes",
    "vocabulary": "tokens",
    "adapted": "frozen parameters",
    "lora_scale": "scales of adapters",
}


def begun(task: training.Task, identity: dict[str, Any], run: str) -> tuple[training.Task, dict[str, Any]]:
    """The task with the parameters of a run as its initial ones, and the identity of its runs.

    Args:
        task: the task.
        identity: what decides the trajectories of its runs; the parameters' SHA-256 is added.
        run: the directory of the run, such as ``runs/mine/adamw``; its best parameters are taken if it keeps
            them, and its newest otherwise.

    Raises:
        ValueError: the parameters mean something else than the task's, such as other classes or tokens, or do
            not fit it.
        RunError: there is no such run, or it has saved nothing.
    """
    _refuse_other_meaning(run, identity)
    like = jax.eval_shape(task.init, jax.random.key(0))
    try:
        params = training.load_params(run, "kept", like=like)
    except training.RunError as error:
        raise ValueError(f"--init={run}: {error}") from None
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return dataclasses.replace(task, init=lambda key: params), identity | {"init": digest.hexdigest()}


def _refuse_other_meaning(run: str, identity: dict[str, Any]) -> None:
    path = Path(run).expanduser() / "run.json"
    if not path.is_file():
        raise ValueError(f"--init={run}: there is no run.json; a run is a directory such as runs/mine/adamw")
    refuse_several("init", path.parent, path.name)
    described = strict_json.read_object(path).get("identity")
    theirs = described if isinstance(described, dict) else {}
    for name, words in _MEANINGS.items():
        there, here = theirs.get(name), identity.get(name)
        if there != here:
            raise ValueError(
                f"--init={run}: its {words} are not those of this run: {name} is {_short(there)} there, "
                f"{_short(here)} here"
            )


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
