"""A full or read-only disk costs no checkpoint, and the run goes on when there is room again."""

import contextlib
import shutil
import subprocess

import pytest

from optimiz import training
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


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (0, r"cannot save \d+ bytes in .*/checkpoints: 0 bytes are free"),
        # Room for a part of a checkpoint.
        (8 * 1024, r"cannot save \d+ bytes in .*/checkpoints: .*"),
        (40 * 1024, r"cannot save \d+ bytes in .*/checkpoints: .*"),
    ],
)
def test_a_full_disk(disk, reference, leave, message):  # noqa: F811
    with pytest.raises(training.RunError, match=message) as raised:
        run(disk, lambda: fill(disk, leave))
    assert "\n" not in str(raised.value)
    assert tiny.checkpoints(disk / "run") == ["000000007"]
    (disk / "ballast").unlink()
    assert run(disk, lambda: None).steps == 20
    assert_same_run(disk / "run", reference)


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
