"""A full or read-only disk loses no checkpoint, and the run continues once there is space again."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from optimiz import training
from tests.conftest import ROOT
from tests.training import tiny
from tests.training.test_resume import assert_same_run, reference  # noqa: F401

MIB = 2**20


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MiB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(disk, leave):
    """Fill the disk up, but for so many bytes."""
    with (disk / "ballast").open("wb") as ballast, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(disk).free) > leave:
            ballast.write(bytes(min(free - leave, 2**16)))
            ballast.flush()


def run(disk, at_step_9):
    """The run of ``tiny``, in which something happens to the disk between the first save and the second."""

    def batches(step):
        if step == 9:
            at_step_9()
        return tiny.task().batches(step)

    settings = tiny.settings(save_every=7, keep=1)
    task = tiny.task(batches=batches)
    return training.fit(task, tiny.optimizer(), settings, disk / "run", identity=tiny.IDENTITY, resume=True)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (0, r"cannot save \d+ bytes in .*/checkpoints: only 0 bytes are free"),
        # Room for a part of a checkpoint.
        (8 * 1024, r"cannot save \d+ bytes in .*/checkpoints: .*No space left on device"),
        (40 * 1024, r"cannot save \d+ bytes in .*/checkpoints: .*No space left on device"),
    ],
)
@pytest.mark.survives("a full or read-only disk")
def test_a_full_disk(disk, reference, leave, message, capfd):  # noqa: F811
    with pytest.raises(training.RunError, match=message) as raised:
        run(disk, lambda: fill(disk, leave))
    assert "\n" not in str(raised.value)
    assert "Traceback" not in capfd.readouterr().err  # of Orbax's threads
    assert tiny.checkpoints(disk / "run") == ["000000007"]
    (disk / "ballast").unlink()
    assert run(disk, lambda: None).steps == 20
    assert_same_run(disk / "run", reference)


FEW_HANDLES = """
import os, resource, sys
sys.argv = ["-m", *sys.argv[1:]]
from absl import flags
from examples.shared import command, program_flags
from optimiz import training
from tests.training import tiny

def batches(step):
    if step == 9:
        most = len(os.listdir("/proc/self/fd")) + int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return tiny.task().batches(step)

def main():
    settings = tiny.settings(save_every=7, keep=1)
    training.fit(tiny.task(batches=batches), tiny.optimizer(), settings, sys.argv[1], identity={})

sys.argv[3:] = []
own = program_flags.Flags()
command.app.run = lambda main, flags_parser: main(flags.FLAGS(["program"]))
command.run(main, own)
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts Linux's open files")
@pytest.mark.parametrize("left", [0, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.survives("a full or read-only disk")
def test_too_few_file_handles_are_reported_in_one_line_and_end_the_program(tmp_path, left):
    command = [sys.executable, "-c", FEW_HANDLES, str(tmp_path / "run"), str(left)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    folder = tmp_path / "run/checkpoints"
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(said) == 1 and str(folder) in said[0]
    assert "Traceback" not in done.stderr and "Too many open files" in said[0]
    # To delete what was begun takes a handle too; a resumed run does it.
    assert [path.name for path in folder.iterdir() if path.name.isdecimal()] == ["000000007"]


@pytest.mark.survives("a full or read-only disk")
def test_a_read_only_directory(disk, reference):  # noqa: F811
    def leave():
        raise KeyError

    with pytest.raises(KeyError):
        run(disk, leave)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(training.RunError, match="cannot be a run directory: Read-only file system"):
        run(disk, lambda: None)
    assert tiny.checkpoints(disk / "run") == ["000000007"]
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    run(disk, lambda: None)
    assert_same_run(disk / "run", reference)
