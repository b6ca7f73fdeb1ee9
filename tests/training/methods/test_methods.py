"""A run that is killed ends like an uninterrupted one under all methods, which can be combined."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from optimiz import training
from optimiz.training import Methods, RunError
from optimiz.training.settings import description
from optimiz.training.storage.checkpoint import ocp
from tests.training import layered, tiny

ROOT = Path(__file__).parents[3]
# Where a run is cut off, and where it is preempted: for growth, after one that is not yet in a checkpoint.
LEAVE_AT = {
    "growth": (15, 24),
    "layer_drop": (6, 14),
    "selective_backprop": (9, 22),
    "rho_loss": (3, 7),
    "all": (9, 22),
}
QUICK = ("rho_loss",)  # the others are run with the long tests


def raising_at(step):
    def raising(batches):
        def batch(index):
            if index == step:
                raise KeyError("nothing is saved now")
            return batches(index)

        return batch

    return raising


def preempted_at(step):
    def asked(batches):
        def batch(index):
            if index == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return batches(index)

        return batch

    return asked


def everything(directory):
    """What a run has computed: its rows, and each array of its last checkpoint as bytes."""
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(directory / "checkpoints" / tiny.checkpoints(directory)[-1] / "arrays")
    as_bytes = {path: (x.dtype, x.shape, np.asarray(x).tobytes()) for path, x in arrays.items()}
    return as_bytes, [(directory / name).read_bytes() for name in ("metrics.jsonl", "run.json")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    @functools.cache
    def run(method):
        directory = tmp_path_factory.mktemp(method)
        layered.fit(method, directory)
        return directory

    return run


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in layered.METHODS],
)
def test_resumed_is_uninterrupted(tmp_path, uninterrupted, method):
    cut, left = LEAVE_AT[method]
    with pytest.raises(KeyError):
        layered.fit(method, tmp_path, raising_at(cut))
    with pytest.raises(training.Preempted):
        layered.fit(method, tmp_path, preempted_at(left))
    result = layered.fit(method, tmp_path)
    assert everything(tmp_path) == everything(uninterrupted(method))
    again = layered.fit(method, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, result.params)
    assert (again.steps, again.reference_seconds) == (result.steps, result.reference_seconds)


@pytest.mark.long
def test_killed_after_a_growth_and_resumed_is_uninterrupted(tmp_path, uninterrupted):
    command = [sys.executable, "-m", "tests.training.layered", "growth", str(tmp_path), "19"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert tiny.checkpoints(tmp_path)[-1] == "000000016"
    layered.fit("growth", tmp_path)
    assert everything(tmp_path) == everything(uninterrupted("growth"))


def test_the_methods_of_a_run_may_not_change_on_resume(uninterrupted):
    directory = uninterrupted("rho_loss")
    described = json.loads((directory / "run.json").read_text())["methods"]
    assert described == {"selection": {"name": "rho_loss", "batch": 8}}
    with pytest.raises(RunError, match=r"methods\.layer_drop\.gamma was absent, is 5\.0; .*methods\.selection"):
        layered.fit("layer_drop", directory)


def test_methods_are_described_by_name():
    assert Methods().described() == {} and "methods" not in description(tiny.settings(), {})
    assert layered.METHODS["all"].described() == {
        "growth": {"depths": [2, 4], "at": [0.3], "policy": "keep"},
        "layer_drop": {"gamma": 5.0, "least": 0.5},
        "selection": {"name": "selective_backprop", "batch": 8, "beta": 1.0, "history": 50},
    }


@pytest.mark.long
def test_the_documented_example_runs(tmp_path, monkeypatch):
    page = (ROOT / "docs/time_saving.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(training, "calibrate", lambda *_, **__: layered.PRICES)
    monkeypatch.chdir(tmp_path)
    names = {"task": layered.of("all"), "tx": layered.TX}
    exec(code.replace("budget=60.0", "budget=4.0"), names)
    assert layered.depth_of(names["result"].params) == 4
