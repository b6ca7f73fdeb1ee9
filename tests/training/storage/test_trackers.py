"""TensorBoard and Weights & Biases are told what metrics.jsonl holds, each metric of each update once."""

import struct

import optax
import pytest
from tensorboardX.proto import event_pb2

from optimiz import training
from tests.training import tiny


def fit(directory, progress, steps, resume=False):
    settings = training.Settings(steps=steps, log_every=2, evaluate_every=3)
    tx = optax.inject_hyperparams(optax.sgd)(0.1)
    return training.fit(tiny.task(), tx, settings, directory, identity={}, progress=progress, resume=resume)


def wanted(result):
    """(name, number of updates) → value, from the rows of metrics.jsonl."""
    found = {}
    for row in result.history:
        if "step" in row:
            found |= {(f"train/{k}", row["step"] + 1): v for k, v in row.items() if k != "step"}
        else:
            found |= {(f"evaluation/{k}", row["steps"]): v for k, v in row["evaluation"].items()}
    return found


def events(directory):
    """The events of all files, in their order."""
    for path in sorted(directory.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def test_tensorboard_holds_every_metric_once_also_of_a_resumed_run(tmp_path):
    for steps in (4, 7):
        tracker = training.TensorBoard(tmp_path / "board")
        result = fit(tmp_path / "run", tracker, steps, resume=True)
        tracker.note(steps, "a remark")
        tracker.close()
    found, restarts = {}, 0
    for event in events(tmp_path / "board"):
        if event.session_log.status == event_pb2.SessionLog.START:
            found, restarts = {}, restarts + 1  # TensorBoard forgets what came at later steps, here at all
        for value in event.summary.value:
            assert (value.tag, event.step) not in found
            found[value.tag, event.step] = value.simple_value
    assert restarts in (1, 2)  # two of one second have one file
    assert found.pop(("notes/text_summary", 7), None) is not None
    assert found == pytest.approx(wanted(result))
    assert {("train/learning_rate", 1), ("train/gradient_norm", 7), ("evaluation/loss", 6)} <= found.keys()


class Wandb:
    """As much of a run of Weights & Biases as is used; it refuses steps that go back."""

    def __init__(self, step=0):
        self.step, self.rows, self.alerts, self.finished = step, {}, [], False

    def log(self, metrics, step):
        assert step >= self.step
        self.step = step
        self.rows.setdefault(step, {}).update(metrics)

    def alert(self, title, text):
        self.alerts.append((title, text))

    def finish(self):
        self.finished = True


def test_weights_and_biases_get_each_row_once(tmp_path):
    first = Wandb()
    fit(tmp_path, training.WeightsAndBiases(first), 4)
    second = Wandb(first.step)
    tracker = training.WeightsAndBiases(second)
    result = fit(tmp_path, tracker, 7, resume=True)
    assert min(second.rows) == 4  # the evaluation at the end of the first session, and what follows
    found = {
        (name, steps): value for steps, row in (first.rows | second.rows).items() for name, value in row.items()
    }
    assert found == wanted(result)
    tracker.note(7, "a remark")
    tracker.close()
    assert second.alerts == [("after 7 updates", "a remark")] and second.finished


def test_a_run_must_be_one():
    with pytest.raises(TypeError, match=r"run must be what wandb\.init\(\) returns, got str"):
        training.WeightsAndBiases("project")
