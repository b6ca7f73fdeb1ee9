import pytest

from examples.data import corpus
from examples.data.corpus import Corpus


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


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such file or folder"):
        corpus.read(tmp_path / "none")
    with pytest.raises(ValueError, match="no text"):
        corpus.read(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    with pytest.raises(ValueError, match=r"latin\.txt: not UTF-8 at byte 2"):
        corpus.read(tmp_path)


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


def test_a_few_documents_are_cut_and_nothing_is_lost():
    parts = corpus.split(Corpus(("abcdefghij", "0123456789"), "two"), {"train": 0.5, "test": 0.5})
    assert parts["train"].documents == ("abcde", "01234")
    assert parts["test"].documents == ("fghij", "56789")
    with pytest.raises(ValueError, match="two: too little text for a part 'test' of 10%"):
        corpus.split(Corpus(("ab",), "two"), {"train": 0.9, "test": 0.1})
