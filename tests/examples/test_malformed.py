"""Malformed input is refused in one line: no code runs, nothing is written, and no connection is made."""

import ast
import contextlib
import pickle
import re
import socket
import sys
from pathlib import Path

import pytest

from optimiz import training
from tests.conftest import ROOT
from tests.examples.data.test_text_files import REFUSED
from tests.examples.malformed import CASES, PICKLE

# The classes whose message a command line shows in one line; see examples/shared/command.py.
TOLD = (ValueError, TypeError, OSError, ImportError, training.RunError)
FORBIDDEN = ("pickle.find_class", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.")

_seen = []  # while someone watches
_watches = [False]


def _hook(event, arguments):
    if _watches[0]:
        _seen.append((event, arguments))


sys.addaudithook(_hook)  # for good: it cannot be taken off


@contextlib.contextmanager
def watched():
    _seen.clear()
    _watches[0] = True
    try:
        yield _seen
    finally:
        _watches[0] = False


def changed(event, arguments):
    """The paths that an event writes to, makes, moves or removes."""
    if event == "open":
        path, mode, flags = arguments
        writes = set(mode or "") & set("wax+") or (flags or 0) & 0o3
        return [path] if writes and isinstance(path, str | bytes | Path) else []
    if event.startswith(CHANGES):
        return [path for path in arguments[:2] if isinstance(path, str | bytes | Path)]
    return []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.survives(
    "malformed weights, configurations, chats, templates, arrays, images, checkpoints and names"
)
def test_is_refused_in_one_line_and_nothing_else_happens(tmp_path, monkeypatch, name, record_property):
    record_property(name.partition(": ")[0], 1)
    case = CASES[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    case.make(folder)
    with watched() as events, pytest.raises(TOLD) as caught:
        case.read(folder)
    said = str(caught.value)
    assert re.search(case.message, said), said
    assert len(said.splitlines()) == 1
    assert len(said) < 600
    assert not [event for event, _ in events if event.startswith(FORBIDDEN)]
    outside = [
        path
        for event, arguments in events
        for path in changed(event, arguments)
        if not (Path(path if isinstance(path, str | Path) else path.decode()).resolve()).is_relative_to(folder)
    ]
    assert not outside
    assert not list(tmp_path.rglob("ran"))
    if (folder / "precious").exists():
        assert (folder / "precious" / "thesis.tex").exists()


def test_the_watch_sees_what_it_is_to_see(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with watched() as events:
        pickle.loads(PICKLE)
        with contextlib.suppress(OSError), socket.socket() as nobody:
            nobody.connect(("127.0.0.1", 1))
        (tmp_path / "x").touch()
    assert (tmp_path / "ran").exists()
    assert {"pickle.find_class", "socket.connect", "open"} <= {event for event, _ in events}
    assert str(tmp_path / "x") in [str(p) for event, arguments in events for p in changed(event, arguments)]


def test_the_corpus_is_large():
    assert len(CASES) >= 40 and len(REFUSED) >= 25


RISKY = {"pickle", "marshal", "shelve", "joblib", "cloudpickle", "dill", "yaml", "tarfile", "zipfile", "ctypes"}
RUNS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
BY_STRING = {"import_module", "extractall", "extract", "unpack_archive"}
# A check that a state can be pickled reads what it has pickled itself, and an optimizer or a task of the user's
# own is a function that the user names on the command line.
TRUSTED = {
    "optimiz/testing/contract/persistence.py": {"pickle"},
    "examples/shared/optimizers.py": {"import_module"},
    "optimiz/training/budget/energy.py": {"import_module"},  # of one name, which it says itself
}


@pytest.mark.parametrize("package", ["optimiz", "examples"])
def test_no_module_can_run_what_it_reads(package):
    """No pickle, no eval, no import by string, no shell, no archive unpacked."""
    pages = sorted((ROOT / package).rglob("*.py"))
    assert len(pages) > 40
    for page in pages:
        trusted = TRUSTED.get(page.relative_to(ROOT).as_posix(), set())
        for node in ast.walk(ast.parse(page.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
                continue
            what = f"{page}: {ast.unparse(node)[:200]}"
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & (
                    RISKY - {"zipfile"} - trusted
                ), what
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in RISKY, what
            else:
                called = ast.unparse(node.func)
                assert called not in RUNS and called.rpartition(".")[2] not in BY_STRING - trusted, what
                assert called != "np.load" or "allow_pickle=False" in what, what
                assert "shell=True" not in what, what
