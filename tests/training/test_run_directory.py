"""A directory belongs to one run and to one process."""

import os

import pytest

from optimiz.training import RunError
from optimiz.training.run_directory import claimed

SETTINGS = {"settings": {"steps": 3}, "identity": {"rate": 0.1, "sizes": [1, 2], "name": None}}


def claim(path, settings=SETTINGS, resume=False):
    with claimed(path, settings, resume) as directory:
        return directory


def test_an_empty_or_missing_directory_is_claimed_resumed_or_not(tmp_path):
    (tmp_path / "empty").mkdir()
    for number, name in enumerate(["empty", "a/b/c", "d"]):
        assert claim(tmp_path / name, resume=number == 2) == tmp_path / name


def test_a_claim_cut_short_is_repeated(tmp_path):
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
    with pytest.raises(RunError, match=r"holds a run: resume it \(--resume\) or choose another"):
        claim(tmp_path)
    claim(tmp_path, resume=True)


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


def test_one_process_at_a_time(tmp_path):
    in_use = pytest.raises(RunError, match=f"is in use by process {os.getpid()}")
    with claimed(tmp_path, SETTINGS, resume=False), in_use:
        claim(tmp_path, resume=True)
    claim(tmp_path, resume=True)
