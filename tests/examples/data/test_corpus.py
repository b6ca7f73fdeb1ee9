import os

import numpy as np
import pytest

from examples.data import corpus
from examples.data.corpus import Corpus


@pytest.mark.long
def test_the_standard_library_is_text_of_several_megabytes():
    library = corpus.standard_library()
    assert library.size > 3_000_000 and len(library.documents) > 200
    assert library.source.startswith("standard library of Python 3.")
    assert any("def namedtuple(" in document for document in library.documents)


def test_a_file_and_a_folder(tmp_path):
    (tmp_path / "b.txt").write_text("second", encoding="utf-8-sig")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/z.md").write_text("naïve")
    (tmp_path / "empty.txt").touch()
    (tmp_path / ".hidden").write_bytes(b"\xff")
    assert corpus.read(tmp_path).documents == ("naïve", "second")
    assert corpus.read(tmp_path / "b.txt").documents == ("second",)
    assert corpus.read(tmp_path).size == 6 + 6


def test_what_systems_and_editors_leave_behind_is_left_out_and_counted(tmp_path):
    for folder in (".ipynb_checkpoints", "__MACOSX", "books"):
        (tmp_path / folder).mkdir()
    (tmp_path / "books/a.txt").write_text("a book")
    (tmp_path / "books/empty.txt").touch()
    for name in (
        ".ipynb_checkpoints/a-checkpoint.txt",
        "__MACOSX/b.txt",
        "books/._a.txt",
        ".DS_Store",
        "Thumbs.db",
    ):
        (tmp_path / name).write_bytes(b"\x00\xff")
    os.mkfifo(tmp_path / "books/pipe")
    found = corpus.read(tmp_path)
    assert found.documents == ("a book",)
    assert found.left_out == {"hidden or system files": 5, "not a regular file": 1, "empty": 1}
    shares = {"train": 0.5, "test": 0.5}
    summary = corpus.summary(found, corpus.split(found, shares), shares)
    assert summary.facts["left out"] == "5 hidden or system files, 1 not a regular file, 1 empty"


def test_pictures_and_archives_among_texts_are_left_out_and_counted(tmp_path):
    for name in ("a.txt", "b.py", "notes"):
        (tmp_path / name).write_text(name)
    for name in ("cover.PNG", "photo.jpeg", "all.tar.gz", "paper.pdf", "model.npz"):
        (tmp_path / name).write_bytes(b"\x89\0\xff")
    found = corpus.read(tmp_path)
    assert found.documents == ("a.txt", "b.py", "notes") and found.left_out == {"not text, by their names": 5}
    with pytest.raises(ValueError, match=r"cover\.PNG: not UTF-8 at byte 0"):
        corpus.read(tmp_path / "cover.PNG")
    (tmp_path / "other").mkdir()
    (tmp_path / "cover.PNG").rename(tmp_path / "other/cover.PNG")
    with pytest.raises(ValueError, match="other: no text"):
        corpus.read(tmp_path / "other")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such file or folder"):
        corpus.read(tmp_path / "none")
    with pytest.raises(ValueError, match="no text"):
        corpus.read(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    with pytest.raises(ValueError, match=r"latin\.txt: not UTF-8 at byte 2; save it as UTF-8, or remove it"):
        corpus.read(tmp_path)
    (tmp_path / "latin.txt").write_bytes("na\u00efve".encode("utf-16"))
    with pytest.raises(ValueError, match=r"latin\.txt: not UTF-8 at byte 0"):
        corpus.read(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"a\0b")
    with pytest.raises(ValueError, match=r"latin\.txt: a NUL at character 1; is this a text file\?"):
        corpus.read(tmp_path)


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match=f"{path}: must be a regular file or a folder"):
            corpus.read(path)


def test_a_name_that_is_not_utf8_is_shown_with_a_sign_in_its_place(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write("a book")
    assert corpus.read(path).source.endswith("/caf\ufffd.txt")


def test_many_documents_are_dealt_whole_and_by_their_text_alone():
    documents = tuple(f"document {i}" for i in range(400))
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    parts = corpus.split(Corpus(documents, "numbers"), shares)
    assert sorted(d for part in parts.values() for d in part.documents) == sorted(documents)
    assert 290 <= len(parts["train"].documents) <= 350
    reversed_parts = corpus.split(Corpus(documents[::-1], "numbers"), shares)
    assert {name: set(part.documents) for name, part in parts.items()} == {
        name: set(part.documents) for name, part in reversed_parts.items()
    }


@pytest.mark.parametrize("seed", range(30))
def test_sixty_documents_are_in_every_part(seed):
    documents = tuple(f"document {seed} {i:02}" for i in range(60))
    parts = corpus.split(Corpus(documents, "numbers"), {"train": 0.9, "validation": 0.05, "test": 0.05})
    assert sorted(d for part in parts.values() for d in part.documents) == sorted(documents)
    assert all(part.documents for part in parts.values())


def test_files_of_very_unequal_size_are_parts_of_the_asked_size():
    """By whole files, 96 of them became parts of 69 %, 31 % and half a percent."""
    random = np.random.default_rng(0)
    sizes = [30_000, 12_000, 9_000, *random.integers(10, 900, 93)]
    documents = tuple("".join(random.choice(list("abcdefgh "), size)) for size in sizes)
    shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
    parts = corpus.split(Corpus(documents, "books"), shares)
    total = sum(part.size for part in parts.values())
    assert total == sum(sizes)
    for name, part in parts.items():
        assert 0.7 < part.size / total / shares[name] < 1.4
    assert corpus.summary(Corpus(documents, "books"), parts, shares).warnings == []


def test_a_part_of_another_size_than_asked_is_said():
    parts = {"train": Corpus(("x" * 70,), ""), "test": Corpus(("y" * 30,), "")}
    summary = corpus.summary(Corpus(("x" * 100,) * 2, "x"), parts, {"train": 0.9, "test": 0.1})
    assert summary.warnings == ["test has 30.0% of the text, but 10% was requested"]
    assert summary.facts["duplicates"] == "1 documents"


def test_a_few_documents_are_cut_and_nothing_is_lost():
    parts = corpus.split(Corpus(("abcdefghij", "0123456789"), "two"), {"train": 0.5, "test": 0.5})
    assert parts["train"].documents == ("abcde", "01234")
    assert parts["test"].documents == ("fghij", "56789")
    with pytest.raises(ValueError, match="two: too little text for a part 'test' of 10%"):
        corpus.split(Corpus(("ab",), "two"), {"train": 0.9, "test": 0.1})
