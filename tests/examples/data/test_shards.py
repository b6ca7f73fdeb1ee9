"""Documents in shards are read as they are needed, dealt to the same parts, and encoded to the same tokens."""

import json
import re
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from examples.data import corpus, shards, token_stream, tokenization

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
TEXTS = [f"document {i} says {'so ' * (i % 5)}\n" for i in range(60)]
SHARES = {"train": 0.8, "test": 0.2}


def parquet(path, texts):
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), path / "a.parquet")


def arrow(path, texts):
    table = pyarrow.table({"text": texts})
    with (
        pyarrow.OSFile(str(path / "data-0.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as to,
    ):
        to.write_table(table)


def json_lines(path, texts):
    lines = [json.dumps({"text": text, "id": i}) for i, text in enumerate(texts)]
    (path / "a.jsonl").write_text("\n\n".join(lines))


def array_record(path, texts):
    writer = ArrayRecordWriter(str(path / "a.array_record"), "group_size:1")
    for text in texts:
        writer.write(text.encode())
    writer.close()


@pytest.mark.parametrize("write", [parquet, arrow, json_lines, array_record])
def test_shards_hold_the_documents_that_text_would(tmp_path, write):
    write(tmp_path, [*TEXTS, " \n"])
    found = corpus.read(tmp_path)
    assert not found.in_memory and list(found.documents) == list(found.documents) == TEXTS
    parts, of_text = (corpus.split(texts, SHARES) for texts in (found, corpus.Corpus(tuple(TEXTS), "texts")))
    assert {name: tuple(part.documents) for name, part in parts.items()} == {
        name: part.documents for name, part in of_text.items()
    }
    facts = corpus.summary(found, parts, SHARES).facts
    assert re.search(r"1 shards of 0\.\d\d MB, field text, digest [0-9a-f]{16}$", facts["data"])


def vocabulary():
    return tokenization.vocabulary(tokenization.train(TEXTS, "bpe", 300, "causal"), "causal")


def test_their_tokens_are_kept_in_a_file(tmp_path):
    (data := tmp_path / "data").mkdir()
    json_lines(data, TEXTS)
    own, found = vocabulary(), corpus.read(data)
    kept = token_stream.encoded(found, own, tmp_path / "tokens", "train")
    there = token_stream.encoded(corpus.Corpus(tuple(TEXTS), "texts"), own, None, "train")
    assert isinstance(kept.ids, np.memmap) and kept.ids.tolist() == there.ids.tolist()
    assert (kept.size, kept.unknown) == (there.size, 0)
    (file,) = (tmp_path / "tokens").glob("train-*.int32")
    written = file.stat().st_mtime_ns
    assert (
        token_stream.encoded(corpus.read(data), own, tmp_path / "tokens", "train").ids.tolist()
        == kept.ids.tolist()
    )
    assert file.stat().st_mtime_ns == written
    json_lines(data, TEXTS[1:])
    other = token_stream.encoded(corpus.read(data), own, tmp_path / "tokens", "train")
    assert len(other.ids) < len(kept.ids)


def test_a_file_of_tokens_that_was_not_finished_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(token_stream, "_AT_ONCE", 20)
    (data := tmp_path / "data").mkdir()
    json_lines(data, [*TEXTS, 5])
    own = vocabulary()
    with pytest.raises(ValueError, match=r"a\.jsonl, row 120: 'text' must be a string, got int"):
        token_stream.encoded(corpus.read(data), own, tmp_path / "tokens", "train")
    assert list((tmp_path / "tokens").glob("*.int32")) and not list((tmp_path / "tokens").glob("*.json"))
    json_lines(data, TEXTS)
    kept = token_stream.encoded(corpus.read(data), own, tmp_path / "tokens", "train")
    assert kept.ids.tolist().count(own.ids["end"]) == len(TEXTS)


def test_shards_without_a_document_for_a_part(tmp_path):
    (data := tmp_path / "data").mkdir()
    json_lines(data, TEXTS[:1])
    (empty,) = (p for p in corpus.split(corpus.read(data), SHARES).values() if not list(p.documents))
    with pytest.raises(ValueError, match="too few documents for a part 'x'"):
        token_stream.encoded(empty, vocabulary(), tmp_path / "tokens", "x")


def test_a_tokenizer_is_learned_from_the_first_of_them(tmp_path, monkeypatch):
    json_lines(tmp_path, TEXTS)
    monkeypatch.setattr(corpus, "SAMPLE", 50)
    assert list(corpus.read(tmp_path).sample) == TEXTS[:3]


REFUSED = {
    "torn": ("a.jsonl", b'{"text": "a"}\n{"text": ', r"a\.jsonl, row 1: not JSON"),
    "a list": ("a.jsonl", b"[1]", r"a\.jsonl, row 0: must be an object, got list"),
    "no field": ("a.jsonl", b'{"content": "a"}', r"a\.jsonl: no column 'text'; it has 'content'"),
    "null": ("a.jsonl", b'{"text": null}', r"a\.jsonl, row 0: 'text' must be a string, got NoneType"),
    "not Parquet": ("a.parquet", b"PAR1", r"a\.parquet cannot be read"),
    "not Arrow": ("a.arrow", b"ARROW", r"a\.arrow cannot be read"),
    "not ArrayRecord": ("a.array_record", b"RECORD", r"a\.array_record cannot be read"),
}


@pytest.mark.parametrize("name, content, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_named_with_its_row(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(corpus.read(tmp_path).documents)


def test_other_fields_and_splits(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}')
    assert list(corpus.read(tmp_path, "body").documents) == ["x"]
    (tmp_path / "README.md").write_text("read me")
    assert corpus.read(tmp_path).left_out == {"not shards": 1}
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"holds splits, 'test': name one, as in .*/test"):
        corpus.read(tmp_path)
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(ValueError, match=r"b\.txt: has no field 'body', as it holds text and no shards"):
        corpus.read(tmp_path / "b.txt", "body")


def test_without_the_packages(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=r'reading \.parquet needs pyarrow: pip install "optimiz-jax\[shards\]"'
    ):
        shards.Documents([tmp_path / "a.parquet"], "text")
