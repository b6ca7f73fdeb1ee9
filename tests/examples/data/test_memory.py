"""Data that do not fit into memory are refused before they are read."""

import pytest

from examples.data import memory

resource = pytest.importorskip("resource")


def test_the_least_of_all_limits_counts(monkeypatch, tmp_path):
    assert 0 < memory.limit() < 2**50
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4 * 2**20, 8 * 2**20))
    assert memory.limit() == 2**20
    (tmp_path / "memory.max").write_text("2097152\n")
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path / "memory.max")
    assert memory.limit() == 2**19
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.limit() == 2**20


def test_what_is_above_it_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 2**30)
    memory.check(2**30, "a text")
    with pytest.raises(ValueError, match=r"^a text would take 2\.0 GiB of memory; the limit is 1\.0$"):
        memory.check(2**31, "a text")
