"""A run that is killed, preempted or out of disk ends like an uninterrupted one."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from optimiz import training
from optimiz.training import preemption
from tests.training import kills, tiny

ROOT = Path(__file__).parents[2]


def start(directory, *args):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.tiny", str(directory), *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, line):
    assert any(line in printed for printed in process.stdout), process.stderr.read()


def saved_arrays(directory):
    """Every array of the final checkpoint as bytes: parameters, optimizer state, key, step."""
    final = Path(directory) / "checkpoints" / tiny.checkpoints(directory)[-1]
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(final / "arrays")

    def as_bytes(array):
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        return array.dtype, array.shape, np.asarray(array).tobytes()

    return {path: as_bytes(array) for path, array in arrays.items()}


def assert_same_run(directory, reference):
    assert saved_arrays(directory) == saved_arrays(reference)
    metrics = (Path(directory) / "metrics.jsonl").read_bytes()
    assert metrics == (Path(reference) / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reference")
    tiny.fit(directory)
    return directory


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("step", ["000000007"]),
        pytest.param("writing", ["000000007", "partial-14"], marks=pytest.mark.long),
        ("written", ["000000007", "partial-14"]),
        ("renamed", ["000000007", "000000014"]),
        pytest.param("deleting", ["000000014", "partial-000000007"], marks=pytest.mark.long),
    ],
)
@pytest.mark.survives("SIGKILL in a step, in a save, or between rename and clean-up")
def test_killed_and_resumed_is_uninterrupted(tmp_path, reference, point, left):
    process = start(tmp_path, "--die", point)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert tiny.checkpoints(tmp_path) == left
    result = tiny.fit(tmp_path)
    assert result.steps == 20
    assert not [name for name in tiny.checkpoints(tmp_path) if not name.isdecimal()]
    assert_same_run(tmp_path, reference)


@pytest.mark.survives("SIGTERM during compilation, a step, an evaluation or the wait for a batch")
def test_resumed_every_few_steps_is_uninterrupted(tmp_path, reference):
    def leave_at(step):
        signals = [signal.SIGTERM]

        def batches(index):
            if index == step and signals:
                os.kill(os.getpid(), signals.pop())
            return tiny.task().batches(index)

        return tiny.task(batches=batches)

    for step in (0, 5, 12):
        with pytest.raises(training.Preempted):
            training.fit(
                leave_at(step),
                tiny.optimizer(),
                tiny.settings(),
                tmp_path,
                identity=tiny.IDENTITY,
                resume=True,
            )
        assert tiny.checkpoints(tmp_path)[-1] == f"{step + 1:09d}"
    tiny.fit(tmp_path)
    assert_same_run(tmp_path, reference)
    [last] = (tmp_path / "checkpoints").glob("*20/manifest.json")
    whole = hashlib.sha256((tmp_path / "metrics.jsonl").read_bytes()).hexdigest()
    assert json.loads(last.read_bytes())["record"]["metrics_sha256"] == whole  # that of every session's rows


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("width", "dtype", "tx", "message"),
    [
        (8, jnp.bfloat16, optax.sgd(0.1), r"inner_state\.trace\['w1'\] was float32\[4, 8\], is absent"),
        (9, jnp.bfloat16, None, r"params\['w1'\] was float32\[4, 8\], is float32\[4, 9\]"),
        (8, jnp.float32, None, r"params\['w2'\] was bfloat16\[8\], is float32\[8\]"),
    ],
    ids=["optimizer", "width", "dtype"],
)
@pytest.mark.survives("resuming with other settings, another optimizer, width or dtype")
def test_resumed_with_another_model_or_optimizer_is_refused(tmp_path, reference, width, dtype, tx, message):
    """By the checkpoint, where the settings do not tell."""

    def resumed(width, dtype, tx, last=20):
        def batches(step):
            if step > last:
                raise KeyError(step)
            return tiny.task().batches(step)

        plain = tiny.task(width, batches)

        def init(key):
            params = plain.init(key)
            return params | {"w2": params["w2"].astype(dtype)}

        task = dataclasses.replace(plain, init=init)
        settings = tiny.settings(save_every=7)
        return training.fit(task, tx, settings, tmp_path, identity=tiny.IDENTITY, resume=True)

    with pytest.raises(KeyError):
        resumed(8, jnp.bfloat16, tiny.optimizer(), last=9)
    with pytest.raises(training.RunError, match=message) as refused:
        resumed(width, dtype, tx or tiny.optimizer())
    assert "checkpoints/000000007 does not fit the run: " in str(refused.value)
    assert tiny.checkpoints(tmp_path) == ["000000007"]
    resumed(8, jnp.bfloat16, tiny.optimizer())
    assert_same_run(tmp_path, reference)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.survives("a metrics file with a torn last line, or with a changed byte")
def test_a_changed_byte_of_the_metrics_is_detected(tmp_path, finished):
    def batches(step):
        if step == 9 and not finished:
            raise KeyError(step)
        return tiny.task().batches(step)

    def fit():
        settings, task = tiny.settings(save_every=7), tiny.task(batches=batches)
        return training.fit(task, tiny.optimizer(), settings, tmp_path, identity=tiny.IDENTITY, resume=True)

    with contextlib.nullcontext() if finished else pytest.raises(KeyError):
        fit()
    metrics = tmp_path / "metrics.jsonl"
    content = metrics.read_bytes()
    place = content.index(b'"loss": ') + len(b'"loss": 0.')
    metrics.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(training.RunError, match=r"metrics\.jsonl is not what the checkpoint has recorded"):
        fit()
    metrics.write_bytes(content)
    with contextlib.nullcontext() if finished else pytest.raises(KeyError):
        fit()


@pytest.mark.survives("a second run in the same directory")
def test_a_second_process_in_the_directory_is_refused(tmp_path):
    first = start(tmp_path, "--seconds-per-step", 0.2, "--steps", 1000)
    wait_for(first, "step 1")
    second = start(tmp_path, "--resume")
    _, errors = second.communicate()
    first.kill()
    first.communicate()
    assert second.returncode == 1
    [message] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message == f"error: {tmp_path} is in use by process {first.pid}"


@pytest.mark.long
@pytest.mark.survives("SIGKILL at random times")
def test_killed_at_any_time_loses_the_unsaved_steps_alone(tmp_path, record_property):
    counts = kills.kill_often(tmp_path / "killed", tmp_path / "cache", times=50)
    kills.finish(tmp_path / "killed", tmp_path / "cache")
    kills.finish(tmp_path / "whole", tmp_path / "cache")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    record_property("cases", sum(counts.values()))
    for moment, count in counts.items():
        record_property(moment, count)
    assert all(counts.values()), counts


@pytest.mark.survives("SIGKILL in a step, in a save, or between rename and clean-up")
def test_killed_before_the_first_checkpoint_starts_over(tmp_path, reference, caplog):
    tiny.fit(tmp_path)
    timings = tmp_path / "timings.jsonl"  # of a run that never came to save
    timings.write_text("".join(line for line in timings.open() if '"save"' not in line))
    for name in ("metrics.jsonl", "timings.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 20, "lo')
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        checkpoint.rename(checkpoint.with_name("partial-20"))
    tiny.fit(tmp_path)
    assert "starts over: it was stopped before its first checkpoint" in caplog.text
    assert_same_run(tmp_path, reference)
    events = [row["event"] for row in training.read_metrics(tmp_path / "timings.jsonl")]
    assert events.count("compile") == 2


def test_a_run_whose_checkpoints_are_gone_does_not_start_over(tmp_path):
    tiny.fit(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(
        training.RunError, match="was saved after 20 steps, but its checkpoints are gone: put them"
    ):
        tiny.fit(tmp_path)
    (tmp_path / "timings.jsonl").unlink()
    with pytest.raises(
        training.RunError, match="holds metrics, but neither timings nor a checkpoint: put them"
    ):
        tiny.fit(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("moment", "slow", "seconds"),
    [
        ("step 0", "--seconds-per-step", 0.2),  # compiling
        ("step 3", "--seconds-per-step", 0.2),
        ("evaluation", "--seconds-per-evaluation", 1),
    ],
)
@pytest.mark.survives("SIGTERM during compilation, a step, an evaluation or the wait for a batch")
def test_sigterm_saves_once_and_exits_75(tmp_path, moment, slow, seconds):
    process = start(tmp_path, slow, seconds, "--steps", 1000)
    wait_for(process, moment)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == training.EXIT_PREEMPTED == 75, errors
    [checkpoint] = tiny.checkpoints(tmp_path)
    rows = training.read_metrics(tmp_path / "metrics.jsonl")
    assert len([row for row in rows if "loss" in row]) == int(checkpoint)
    assert ("evaluation" in rows[-1]) == (moment == "evaluation")
    timings = training.read_metrics(tmp_path / "timings.jsonl")
    assert [row["event"] for row in timings].count("save") == 1


@pytest.mark.long
@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="Windows stops no process so")
def test_a_stopped_process_logs_it_and_continues(tmp_path):
    process = start(tmp_path, "--seconds-per-step", 0.05)
    wait_for(process, "step 3")
    process.send_signal(signal.SIGSTOP)
    threading.Event().wait(0.5)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate()
    assert process.returncode == 0 and errors.count("was stopped and continues: the seconds of updates") == 1


@pytest.mark.long
@pytest.mark.parametrize("moment", ["step 2", "step 12"], ids=["warm-up", "timing"])
@pytest.mark.survives("SIGTERM during a calibration")
def test_sigterm_during_a_calibration_ends_it_with_nothing_to_save(tmp_path, moment):
    process = start(tmp_path, "--calibrate", "--seconds-per-step", 0.1)
    wait_for(process, moment)
    process.terminate()
    printed, errors = process.communicate()
    assert process.returncode == training.EXIT_PREEMPTED, errors
    assert len(printed.splitlines()) <= 1  # of 203 steps
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.survives("a second SIGTERM")
def test_a_second_signal_in_a_calibration_ends_the_process_at_once(tmp_path):
    process = start(tmp_path, "--calibrate", "--seconds-per-step", 60)
    wait_for(process, "step 0")
    process.terminate()
    threading.Event().wait(0.3)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.quick(1)
@pytest.mark.survives("a second SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(tmp_path, number):
    if signal.getsignal(number) is signal.SIG_IGN:  # in the background of a shell, and so in the child too
        pytest.skip(f"{number.name} is ignored here")
    process = start(tmp_path, "--seconds-per-evaluation", 60)
    wait_for(process, "evaluation")
    process.send_signal(number)
    threading.Event().wait(0.3)  # a signal that comes while one like it is pending is lost
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == -number
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.long
@pytest.mark.survives("a full or read-only disk")
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    process = start(tmp_path, "--width", 4000, "--file-limit", 60_000)
    _, errors = process.communicate()
    assert process.returncode == 1
    [message] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message.startswith("error: cannot save ") and str(tmp_path / "checkpoints") in message
    assert tiny.checkpoints(tmp_path) == ["000000007"]


def test_signals_are_held_back_and_handlers_put_back():
    before, interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(training.Preempted) as raised, preemption.deferred() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is before
        assert signal.getsignal(signal.SIGINT) is interrupt
    assert raised.value.code == 75
    with pytest.raises(ZeroDivisionError), preemption.deferred():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(not hasattr(signal, "SIGCONT"), reason="Windows stops no process so")
def test_a_continue_is_handled_until_the_end():
    """`timeout` and Slurm send it at once with SIGTERM, where Python may find its handler gone, and says so."""
    before = signal.getsignal(signal.SIGCONT)
    with pytest.raises(training.Preempted), preemption.deferred():
        during = signal.getsignal(signal.SIGCONT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGCONT) is during is not before
    assert signal.getsignal(signal.SIGCONT) is before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_hangup_is_held_back_unless_it_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(training.Preempted), preemption.deferred() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.received == signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with preemption.deferred() as request:
            os.kill(os.getpid(), signal.SIGHUP)
        assert request.received is None and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_left_alone_outside_the_main_thread():
    seen = []

    def body():
        with preemption.deferred():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]
