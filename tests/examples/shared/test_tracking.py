import sys
import types

import pytest

from examples.shared import tracking
from optimiz import training


def progress(steps, loss):
    rows = [{"step": steps - 1, "loss": loss, "gradient_norm": 1.0}]
    return training.Progress(steps, 10, 1.0, {"loss": loss}, rows=rows)


class Run:
    id, step = "a1", 0

    def __init__(self):
        self.rows, self.alerts, self.broken, self.finished = {}, [], False, False

    def log(self, row, step):
        if self.broken:
            raise RuntimeError("no network")
        self.rows[step] = row

    def alert(self, title, text):
        self.alerts.append((title, text))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.run, module.given = Run(), []

    def init(**given):
        module.given.append(given)
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_trackers_are_told_what_is_shown_and_a_resumed_run_goes_on_in_its_own(tmp_path, wandb):
    shown = []
    for _ in range(2):
        with tracking.tracked(["tensorboard", "wandb"], tmp_path, "adamw", {"seed": 0}, shown.append) as tell:
            tell(progress(1, 2.0))
            tell(progress(2, 3000.0))
        assert wandb.run.finished
    assert len(shown) == 4 and list((tmp_path / "tensorboard/adamw").iterdir())
    assert wandb.run.rows == {
        1: {"train/loss": 2.0, "train/gradient_norm": 1.0},
        2: {"train/loss": 3000.0, "train/gradient_norm": 1.0},
    }
    assert [given["id"] for given in wandb.given] == [None, "a1"]
    assert wandb.given[0]["name"] == "adamw" and wandb.given[0]["config"] == {"seed": 0}


def test_what_is_found_about_a_run_is_noted(tmp_path, wandb, monkeypatch):
    found = iter([["the loss rises"], []])
    monkeypatch.setattr(tracking.diagnostics, "Watch", lambda: lambda rows, share: next(found))
    with tracking.tracked(["wandb"], tmp_path, "adamw", {}, print) as tell:
        tell(progress(1, 2.0))
        tell(progress(2, 3.0))
    assert wandb.run.alerts == [("after 1 updates", "the loss rises")]


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, wandb, caplog):
    with tracking.tracked(["wandb"], tmp_path, "adamw", {}, print) as tell:
        wandb.run.broken = True
        tell(progress(1, 2.0))
        wandb.run.broken = False
        tell(progress(2, 2.0))
    assert wandb.run.rows == {} and "adamw goes on without WeightsAndBiases" in caplog.text


def test_a_tracker_that_cannot_close_loses_nothing(tmp_path, wandb, monkeypatch, caplog):
    monkeypatch.setattr(wandb.run, "finish", lambda: 1 / 0)
    with tracking.tracked(["wandb", "tensorboard"], tmp_path, "adamw", {}, print) as tell:
        tell(progress(1, 2.0))
    assert wandb.run.rows and "adamw goes on without WeightsAndBiases, which raised ZeroDivision" in caplog.text


def test_what_cannot_begin_says_so(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **given: 1 / 0)
    with (
        pytest.raises(ValueError, match="wandb cannot begin: division by zero"),
        tracking.tracked(["wandb"], tmp_path, "adamw", {}, print),
    ):
        pass
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(ModuleNotFoundError, match=r'pip install "optimiz-jax\[wandb\]"'),
        tracking.tracked(["wandb"], tmp_path, "adamw", {}, print),
    ):
        pass
