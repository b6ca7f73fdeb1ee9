"""A directory belongs to one run and to one process."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from optimiz.training import RunError, RunExists
from optimiz.training.storage.run_directory import claimed

SETTINGS = {"settings": {"steps": 3}, "identity": {"rate": 0.1, "sizes": [1, 2], "name": None}}


def claim(path, settings=SETTINGS, resume=False, overwrite=False):
    with claimed(path, settings, resume, overwrite) as directory:
        return directory


def test_an_empty_or_missing_directory_is_claimed_resumed_or_not(tmp_path):
    (tmp_path / "empty").mkdir()
    for number, name in enumerate(["empty", "a/b/c", "d"]):
        assert claim(tmp_path / name, resume=number == 2) == tmp_path / name


def test_an_interrupted_claim_can_be_repeated(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / "run.json.partial").write_text("{")
    claim(tmp_path)


def test_what_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        claim(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_not_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="cannot be a run directory"):
            claim(path)


def test_a_run_is_continued_only_on_request(tmp_path):
    claim(tmp_path)
    with pytest.raises(
        RunExists, match=r"holds a run: .*\(resume=True\).*\(overwrite=True\), or choose"
    ) as refused:
        claim(tmp_path)
    assert refused.value.directory == tmp_path
    claim(tmp_path, resume=True)


def write_run(path):
    claim(path)
    for name in ("000000007", "damaged-000000006", "partial-8", "partial-000000005"):
        (path / "checkpoints" / name).mkdir(parents=True)
        (path / "checkpoints" / name / "manifest.json").write_text("{}")
    for name in ("metrics.jsonl", "timings.jsonl"):
        (path / name).write_text("{}\n")


def test_overwriting_deletes_what_a_run_writes_and_nothing_else(tmp_path):
    write_run(tmp_path / "run")
    claim(tmp_path / "run", SETTINGS | {"identity": {}}, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lock", "lock.pid", "run.json"]
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == SETTINGS | {"identity": {}}

    again = tmp_path / "again"
    write_run(again)
    mine = ["notes.txt", "checkpoints/best-of-mine/weights", "checkpoints/999", "checkpoints/000000009"]
    (tmp_path / "precious").mkdir()
    (again / "checkpoints" / "partial-1").symlink_to(tmp_path / "precious", target_is_directory=True)
    for name in mine:
        (again / name).parent.mkdir(exist_ok=True)
        (again / name).write_text("mine")
    claim(again, overwrite=True)
    left = {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()}
    assert left == {*mine, "lock", "lock.pid", "run.json"}
    assert (tmp_path / "precious").is_dir()


def test_overwriting_needs_no_run_and_takes_no_other_directory(tmp_path):
    claim(tmp_path / "new", overwrite=True)
    with pytest.raises(ValueError, match=r"resume=True continues .* overwrite=True deletes it"):
        claim(tmp_path / "new", resume=True, overwrite=True)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        claim(tmp_path, overwrite=True)
    with claimed(tmp_path / "new", SETTINGS, resume=True), pytest.raises(RunError, match="in use by process"):
        claim(tmp_path / "new", overwrite=True)


def test_what_an_operating_system_leaves_in_a_folder_is_ignored(tmp_path):
    for name in (".DS_Store", "._run", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    claim(tmp_path)


def test_a_path_that_no_system_takes_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"cannot be a run directory: .*null"):
        claim(f"{tmp_path}/a\0b")
    with pytest.raises(RunError, match="cannot be a run directory: File name too long"):
        claim(tmp_path / ("a" * 256))


def test_a_tilde_is_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with claimed("~/run", {}, resume=False) as path:
        assert path == tmp_path / "run"
    with pytest.raises(RunError, match="cannot be a run directory"), claimed("~no-such-user/run", {}, False):
        pass


def test_a_file_system_without_locks_is_refused_in_one_line(tmp_path, monkeypatch):
    def without(lock):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    with pytest.raises(RunError, match="cannot be a run directory: Operation not supported"):
        claim(tmp_path)


@pytest.mark.long
def test_modules_that_only_posix_has_are_not_imported():
    missing = dict.fromkeys(["fcntl", "resource", "termios", "pwd", "grp"])
    program = f"import sys; sys.modules |= {missing}; import optimiz.training, optimiz.compare"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])


def test_other_settings_are_named_with_both_values(tmp_path):
    claim(tmp_path)
    other = {"settings": {"steps": 3.0}, "identity": {"rate": 0.1, "sizes": [2], "extra": "x"}}
    with pytest.raises(RunError) as refused:
        claim(tmp_path, other, resume=True)
    assert str(refused.value) == (
        f'{tmp_path} holds a run with other settings: identity.extra was absent, is "x"; '
        "identity.name was null, is absent; identity.sizes was [1, 2], is [2]; "
        "settings.steps was 3, is 3.0"
    )


def test_a_damaged_run_file_is_named(tmp_path):
    claim(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        claim(tmp_path, resume=True)


@pytest.mark.survives("a second run in the same directory")
def test_one_process_at_a_time(tmp_path):
    in_use = pytest.raises(RunError, match=f"is in use by process {os.getpid()}")
    with claimed(tmp_path, SETTINGS, resume=False), in_use:
        claim(tmp_path, resume=True)
    claim(tmp_path, resume=True)
