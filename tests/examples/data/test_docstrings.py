import collections
import sys
import sysconfig

import numpy as np
import pytest

from examples.data import docstrings


@pytest.fixture(scope="module")
def whole():
    return docstrings.load()


def library_of(folder, monkeypatch, files: dict[str, list[str]], max_share: float = 1.0):
    """Make a standard library of modules whose functions have the given docstrings."""
    monkeypatch.setattr(docstrings, "MAX_SHARE", max_share)
    for name, texts in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(f"def f{i}():\n    {text!r}\n" for i, text in enumerate(texts)))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: {"stdlib": str(folder)}[name])


def numbered(topic: str, count: int) -> list[str]:
    """Sentences that still differ when their numbers are blanked out."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [f"The {topic} sentence of {letters[i // 26] * 2}{letters[i % 26] * 3} words." for i in range(count)]


# This Python's own library.


@pytest.mark.long
def test_size_and_balance(whole):
    count = collections.Counter(whole.labels.tolist())
    assert 3500 < len(whole.texts) < 6500
    assert len(count) == len(whole.label_names) > 12
    assert min(count.values()) >= docstrings.MIN_SENTENCES
    # The cap is an eighth of the sentences before it cuts, so a little more of those after.
    assert max(count.values()) / len(whole.texts) < 0.15


def test_sentences_are_unique_prose(whole):
    assert len(set(whole.texts)) == len(whole.texts)
    assert list(whole.texts) == sorted(whole.texts)
    for text in whole.texts:
        assert len(text.split()) >= docstrings.MIN_WORDS
        assert ">>>" not in text
        assert "\n" not in text


def test_source_states_the_version(whole):
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}." in whole.source


def test_some_sentences_have_the_topic_that_a_reader_expects(whole):
    topic = dict(zip(whole.texts, (whole.label_names[i] for i in whole.labels), strict=True))
    assert topic["Return a matrix representing a month's calendar."] == "dates"
    assert topic["Wake up the first waiter that isn't done."] == "concurrency"
    assert topic["Return the sample arithmetic mean of data."] == "mathematics"


def test_parts_are_disjoint_and_have_every_topic(whole, monkeypatch):
    monkeypatch.setattr(docstrings, "load", lambda: whole)
    parts = docstrings.load_split()
    assert parts["test"].source == f"{whole.source}, test part (0.45)"
    assert list(parts) == ["train", "validation", "test"]
    texts = [text for part in parts.values() for text in part.texts]
    assert sorted(texts) == list(whole.texts)
    for name, part in parts.items():
        assert abs(len(part.texts) / len(whole.texts) - docstrings.FRACTIONS[name]) < 0.04
        assert part.label_names == whole.label_names
        assert set(part.labels.tolist()) == set(range(len(whole.label_names)))


def test_a_module_has_one_topic():
    modules = " ".join(docstrings.TOPICS.values()).split()
    assert len(set(modules)) == len(modules)


# Libraries of our own making.


def test_topics_with_few_sentences_are_left_out(tmp_path, monkeypatch):
    enough = docstrings.MIN_SENTENCES
    library_of(
        tmp_path,
        monkeypatch,
        {
            "email/message.py": numbered("mail", enough),
            "datetime.py": numbered("date", enough + 9),
            "ssl.py": numbered("security", enough - 1),
        },
    )
    examples = docstrings.load()
    assert examples.label_names == ("dates", "mail")


def test_a_large_topic_is_cut_by_hash(tmp_path, monkeypatch):
    files = {
        f"{module}.py": numbered(module, 60) for module in ("bdb", "ast", "re", "xml", "abc", "csv", "ssl")
    }
    library_of(tmp_path, monkeypatch, files | {"turtle.py": numbered("turtle", 180)}, max_share=1 / 8)
    examples = docstrings.load()
    count = np.bincount(examples.labels)
    assert dict(zip(examples.label_names, count.tolist(), strict=True))["graphics"] == 600 // 8
    kept = [text for text in examples.texts if "turtle" in text]
    assert kept != sorted(numbered("turtle", 180))[: len(kept)]


def test_what_counts_as_a_sentence(tmp_path, monkeypatch):
    library_of(
        tmp_path,
        monkeypatch,
        {
            "email.py": numbered("mail", 60),
            "datetime.py": [
                *numbered("date", 60),
                "Return the day, e.g. Monday, of a date.  The rest is not read.",
                "Return the\n    hour of the day\n\n    and nothing else.",
                "See class docstring.",
                "now(tz) returns the current local date and time",
                ">>> date.today() prints the date of the current day",
                "date.replace(year) -> a date in another year altogether",
                "Parse 'iso_date' in the format of RFC 3339 and later.",
                "Parse 'http_date' in the format of RFC 2616 and later.",
            ],
        },
    )
    others = {text for text in docstrings.load().texts if " sentence of " not in text}
    assert others == {
        "Return the day, e.g. Monday, of a date.",
        "Return the hour of the day",
        "Parse 'http_date' in the format of RFC 2616 and later.",
    }


def test_a_sentence_of_two_topics_is_left_out(tmp_path, monkeypatch):
    shared = "Read at most that many bytes."
    library_of(
        tmp_path,
        monkeypatch,
        {"gzip.py": [*numbered("archive", 60), shared], "pathlib.py": [*numbered("file", 60), shared.upper()]},
    )
    assert len(docstrings.load().texts) == 120


def test_survives_files_that_are_no_python_and_skips_tests(tmp_path, monkeypatch):
    library_of(
        tmp_path,
        monkeypatch,
        {
            "email/message.py": numbered("mail", 60),
            "email/test/test_message.py": numbered("test", 60),
            "datetime.py": numbered("date", 60),
        },
    )
    (tmp_path / "email" / "torn.py").write_text("def f(:\n")
    (tmp_path / "email" / "nul.py").write_bytes(b"a = 1\0")
    (tmp_path / "email" / "latin.py").write_bytes(b'"""caf\xe9"""\n')
    (tmp_path / "email" / "folder.py").mkdir()
    (tmp_path / "email" / "dangling.py").symlink_to(tmp_path / "nowhere")
    assert len(docstrings.load().texts) == 120


def test_an_installation_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(
        ValueError, match="no docstrings to learn from; is this an installation without sources"
    ):
        docstrings.load()


def test_content_decides_the_hash_and_order_of_files_does_not(tmp_path, monkeypatch):
    files = {"email.py": numbered("mail", 60), "datetime.py": numbered("date", 60)}
    sources = []
    for name, texts in (("a", 60), ("b", 60), ("c", 61)):
        library_of(tmp_path / name, monkeypatch, files | {"calendar.py": numbered("week", texts)})
        sources.append(docstrings.load().source)
    assert sources[0] == sources[1] != sources[2]
