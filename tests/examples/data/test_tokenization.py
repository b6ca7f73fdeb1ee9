import json

import pytest

from examples.data import tokenization, tokenizer_file

TEXT = ["def f(x):\n    return x + 1\n", "class A:\n    pass  # naïve €\n"] * 20


@pytest.mark.parametrize(("objective", "size"), [("causal", 300), ("span", 420)])
def test_byte_pairs_are_read_back_unchanged(objective, size):
    vocabulary = tokenization.vocabulary(tokenization.train(TEXT, "bpe", size, objective), objective)
    documents = [TEXT[1], "never seen: Ж\t\n\n"]
    for document, ids in zip(documents, vocabulary.encode(documents), strict=True):
        assert vocabulary.tokenizer.decode(ids) == document
        assert set(ids) <= set(vocabulary.ordinary)
    assert vocabulary.ids["end"] == (0 if objective == "causal" else 1)


def test_word_pieces_and_the_template_of_texts():
    tokenizer = tokenization.train(TEXT, "wordpiece", 60, "masked")
    vocabulary = tokenization.vocabulary(tokenizer, "masked")
    assert vocabulary.ids == {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
    assert vocabulary.ordinary == tuple(range(5, vocabulary.size))
    pair = tokenizer.encode("return x", "pass")
    assert pair.tokens == ["[CLS]", "return", "x", "[SEP]", "pass", "[SEP]"]
    assert pair.type_ids == [0, 0, 0, 0, 1, 1]
    assert vocabulary.encode(["return x"]) == [pair.ids[1:3]]


def test_sentinels_are_the_last_ids():
    vocabulary = tokenization.vocabulary(tokenization.train(TEXT, "bpe", 400, "span"), "span")
    first, last = (vocabulary.tokenizer.token_to_id(f"<extra_id_{i}>") for i in (0, 99))
    assert (first, last) == (vocabulary.size - 1, vocabulary.size - 100)
    assert max(vocabulary.ordinary) == last - 1


def test_a_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = tokenization.train(TEXT, "bpe", 300, "causal")
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = tokenization.vocabulary(tokenization.load(tmp_path / "tokenizer.json"), "causal", size=512)
    assert loaded.size == 512
    assert loaded.encode(["x"]) == [tokenizer.encode("x").ids[:1]]


def test_what_is_kept_is_not_learned_again(tmp_path):
    kept, asked = tmp_path / "tokenizer.json", ("bpe", 260, "causal")
    learned = tokenization.kept_or_learned(kept, TEXT, *asked)
    assert learned.to_str() == tokenization.train(TEXT, *asked).to_str() and not kept.exists()
    learned.save(str(kept))
    others = ["xyzxyz"] * 20
    assert tokenization.kept_or_learned(kept, others, *asked).to_str() == learned.to_str()
    assert tokenization.kept_or_learned(None, others, *asked).to_str() != learned.to_str()


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="vocab_size must be at least 257 for bpe and causal, got 256"):
        tokenization.train(TEXT, "bpe", 256, "causal")
    with pytest.raises(ValueError, match="tokenizer must be 'bpe', 'wordpiece' or a file, got 'unigram'"):
        tokenization.train(TEXT, "unigram", 300, "causal")
    with pytest.raises(
        FileNotFoundError, match="unigram: no such file; tokenizer must be 'bpe', 'wordpiece' or"
    ):
        tokenization.load(tmp_path / "unigram")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer"):
        tokenization.load(tmp_path / "tokenizer.json")
    tokenizer = tokenization.train(TEXT, "bpe", 300, "causal")
    with pytest.raises(ValueError, match=r"the tokenizer has no \[PAD\], \[UNK\], .* which masked needs"):
        tokenization.vocabulary(tokenizer, "masked")
    highest = tokenizer.get_vocab_size() - 1
    with pytest.raises(ValueError, match=f"gives ids up to {highest}, but vocab_size is {highest}"):
        tokenization.vocabulary(tokenizer, "causal", size=highest)
    spans = tokenization.train(TEXT, "bpe", 400, "span")
    with pytest.raises(ValueError, match="the last 100 ids of the vocabulary must be <extra_id_0>"):
        tokenization.vocabulary(spans, "span", size=500)


def replaces(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


HOSTILE = {
    "no unknown token": ("model", {"unk_token": "[NO]"}, "t.json cannot encode every text, .* Missing"),
    "a model that leaves out": (
        "model",
        {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "t.json has no unknown token, and drops what it does not know",
    ),
    "an unknown token of no id": (
        "model",
        {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]},
        "t.json cannot encode every text, .*unk_id",
    ),
    "one that panics where it is read": (
        "normalizer",
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
        "t.json is not a tokenizer: it panicked: Precompiled",
    ),
    "one that panics on a text": (
        "pre_tokenizer",
        {"type": "FixedLength", "length": 0},
        "t.json cannot encode every text, .* it panicked: chunk size",
    ),
    "a normalizer that expands": ("normalizer", replaces("a", "a" * 1000), "makes a text 1,000 times longer"),
    "many that do": (
        "normalizer",
        {"type": "Sequence", "normalizers": [replaces("a", "aa")] * 30},
        "makes a text 1,073,741,824 times longer, at most 64",
    ),
    "a regular expression that does": (
        "normalizer",
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "b" * 64},
        "makes a text 65 times longer, at most 64",
    ),
}


@pytest.mark.parametrize(("part", "content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_tokenizer_that_cannot_be_trusted_with_any_text_is_one_line(tmp_path, capfd, part, content, message):
    fields = json.loads(tokenization.train(TEXT, "wordpiece", 60, "masked").to_str())
    whole = fields[part] if "type" not in content else {}
    fields[part] = {**whole, **content}
    (tmp_path / "t.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message) as caught:
        tokenization.load(tmp_path / "t.json")
    assert len(str(caught.value).splitlines()) == 1 and "\n" not in capfd.readouterr().err


def test_a_usual_normalizer_is_read(tmp_path):
    fields = json.loads(tokenization.train(TEXT, "wordpiece", 60, "masked").to_str())
    usual = [replaces("``", '"'), {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    usual += [{"type": "NFKD"}, {"type": "Prepend", "prepend": "\u2581"}, replaces(" ", "\u2581")]
    fields["normalizer"] = {"type": "Sequence", "normalizers": usual}
    (tmp_path / "t.json").write_text(json.dumps(fields))
    assert tokenization.load(tmp_path / "t.json").encode("x").ids


def test_what_breaks_down_on_a_text_alone_is_one_line(monkeypatch):
    class PanicException(BaseException):
        pass

    class Tokenizer:
        def encode_batch(self, inputs, **settings):
            raise PanicException("index out\nof bounds")

    with pytest.raises(ValueError, match="cannot encode the texts: it panicked: index out of bounds"):
        tokenizer_file.encode(Tokenizer(), ["a"])


def test_a_pattern_without_an_end_is_one_line(tmp_path, capfd):
    fields = json.loads(tokenization.train(TEXT, "wordpiece", 60, "masked").to_str())
    pattern = {"Regex": "(x+)+$"}
    fields["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    (tmp_path / "t.json").write_text(json.dumps(fields))
    tokenizer = tokenization.load(tmp_path / "t.json")
    with pytest.raises(ValueError, match="cannot encode the texts: it panicked: Onig: Regex search error"):
        tokenizer_file.encode(tokenizer, ["x" * 40 + "y"])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece"])
def test_megabytes_without_a_space_are_learned_from_a_piece_at_a_time(monkeypatch, algorithm):
    """Three megabytes took over a minute and a half: the square of their length."""
    learned = []

    def train_from_iterator(self, documents, trainer):
        learned.extend(documents)

    monkeypatch.setattr(tokenization, "Tokenizer", type("Seen", (), {}))
    monkeypatch.setattr(tokenization.Tokenizer, "__init__", lambda self, model: None, raising=False)
    for name in ("add_special_tokens", "token_to_id"):
        monkeypatch.setattr(tokenization.Tokenizer, name, lambda self, x: 0, raising=False)
    monkeypatch.setattr(tokenization.Tokenizer, "train_from_iterator", train_from_iterator, raising=False)
    tokenization.train(["x" * 5000, "a b"], algorithm, 400, "causal")
    assert max(map(len, learned[0].split())) == 1000 and learned[1] == "a b"
