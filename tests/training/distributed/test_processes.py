"""Several processes are one run: they agree before it starts, write it once, and end and resume together."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from optimiz import training
from optimiz.training import RunError
from optimiz.training.distributed import processes
from optimiz.training.storage.same_settings import refuse_differing
from tests.conftest import ROOT, on_devices
from tests.training import tiny


class Processes:
    """So many processes of one run, that are not left behind."""

    def __init__(self, directory, *args, of_each=((), ())):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "tests.training.shared", str(directory), address, str(len(of_each))]
        self.children = [
            subprocess.Popen(
                [*command, str(index), *map(str, (*args, *its))],
                cwd=ROOT,
                env=on_devices(1),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index, its in enumerate(of_each)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for child in self.children:  # SIGKILL: jax.distributed holds SIGTERM up
            child.kill()
            child.wait()

    def wait_for(self, index, line):
        child = self.children[index]
        assert any(line in printed for printed in child.stdout), child.stderr.read()

    def ended(self, timeout=120):
        """Exit code and what was said, of each."""
        said = [child.communicate(timeout=timeout)[1] for child in self.children]
        return [(child.returncode, words) for child, words in zip(self.children, said, strict=True)]


def errors(said):
    return [line for line in said.splitlines() if line.startswith("error: ")]


def losses(directory):
    return [row["loss"] for row in training.read_metrics(directory / "metrics.jsonl") if "loss" in row]


@pytest.mark.survives("processes started with different settings")
def test_processes_with_other_settings_do_not_begin(tmp_path):
    with Processes(tmp_path / "run", of_each=((), ("--seed", 1))) as run:
        (first, said), (second, of_second) = run.ended()
    assert (first, second) == (1, 1)
    assert errors(said) == ["error: process 1 was started with other settings than process 0"]
    [error] = errors(of_second)
    assert "process 0 holds a run with other settings" in error and "settings.seed was 0, is 1" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.survives("one of two processes killed")
def test_one_is_killed_and_the_other_ends_and_the_run_goes_on(tmp_path):
    with Processes(tmp_path, "--seconds-per-step", 0.1, of_each=((), ())) as run:
        run.wait_for(1, "step 9")
        run.children[1].kill()
        killed = time.monotonic()
        run.children[0].communicate(timeout=60)
        assert time.monotonic() - killed < 60
        assert run.children[0].returncode not in (0, training.EXIT_PREEMPTED)
    assert tiny.checkpoints(tmp_path)[0] == "000000007"
    with Processes(tmp_path) as run:
        assert [code for code, _ in run.ended()] == [0, 0]
    rows = training.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(20))
    assert [row["steps"] for row in rows if "evaluation" in row] == [6, 12, 18, 20]


@pytest.mark.long
def test_killed_and_resumed_is_uninterrupted(tmp_path):
    for index in (0, 1):
        directory = tmp_path / str(index)
        with Processes(directory, "--seconds-per-step", 0.1) as run:
            run.wait_for(index, "step 9")
            run.children[index].kill()
            codes = [code for code, _ in run.ended(60)]
            assert codes[index] == -signal.SIGKILL and codes[1 - index] not in (0, training.EXIT_PREEMPTED)
        with Processes(directory) as run:
            assert [code for code, _ in run.ended()] == [0, 0]
    with Processes(tmp_path / "whole") as run:
        assert [code for code, _ in run.ended()] == [0, 0]
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [(tmp_path / str(index) / "metrics.jsonl").read_bytes() for index in (0, 1)] == [whole, whole]


@pytest.mark.long
def test_each_process_goes_on_in_a_stream_of_its_own(tmp_path):
    with Processes(tmp_path / "run", "--seconds-per-step", 0.1, "--in-order") as run:
        run.wait_for(0, "step 9")
        run.children[0].kill()
        run.ended(60)
    with Processes(tmp_path / "run", "--in-order") as run:
        run.wait_for(0, "step 7")  # not 0: the position was saved with the checkpoint
        assert [code for code, _ in run.ended()] == [0, 0]
    with Processes(tmp_path / "whole") as run:
        assert [code for code, _ in run.ended()] == [0, 0]
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("asked", [0, 1])
def test_one_process_is_preempted_and_both_end_saved(tmp_path, asked):
    with Processes(tmp_path, "--seconds-per-step", 0.1, "--steps", 1000) as run:
        run.wait_for(asked, "step 9")
        run.children[asked].terminate()
        assert [code for code, _ in run.ended()] == [training.EXIT_PREEMPTED] * 2
    steps = int(tiny.checkpoints(tmp_path)[-1])
    assert len(losses(tmp_path)) == steps and steps % 2 == 0  # they agree when they look
    timings = training.read_metrics(tmp_path / "timings.jsonl")
    assert [row["event"] for row in timings].count("save") == 2


@pytest.mark.long
@pytest.mark.survives("copies of a parameter that differ between processes")
def test_copies_that_part_stop_the_run(tmp_path):
    with Processes(tmp_path, "--part", 9) as run:
        ended = run.ended()
    for code, said in ended:
        assert code == 1
        [error] = errors(said)
        assert error.startswith("error: after 12 updates params['w1'] on device ")
        assert "differs from the copy of" in error
    assert tiny.checkpoints(tmp_path) == ["000000007"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "127.0.0.1:1"}, "go together, got no processes and no index"),
        ({"coordinator": "127.0.0.1:1", "processes": 2, "index": 2}, r"index must be in \[0, 1\], got 2"),
    ],
)
def test_arguments_that_cannot_join_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(**arguments)


def test_without_a_cluster_there_is_nothing_to_join():
    with pytest.raises(RunError, match="the processes of the run cannot be joined"):
        processes.join()


def test_alone_a_process_is_the_first_and_agrees_with_itself():
    assert processes.is_first() and processes.any_process(True) and not processes.any_process(False)
    assert processes.from_first(lambda: [1, "a"]) == [1, "a"]
    assert processes.differing({"a": 1}) == ([], {"a": 1})
    assert processes.from_each({"a": 1}) == [{"a": 1}]
    refuse_differing({"a": 1})
    with pytest.raises(RunError, match="full"):
        processes.from_first(refuse)


def refuse():
    raise RunError("full")
