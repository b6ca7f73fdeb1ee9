import pytest

from examples.data import tokenization

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
    with pytest.raises(ValueError, match=f"gives ids up to {highest}, and vocab_size is {highest}"):
        tokenization.vocabulary(tokenizer, "causal", size=highest)
    spans = tokenization.train(TEXT, "bpe", 400, "span")
    with pytest.raises(ValueError, match="the last 100 ids of the vocabulary must be <extra_id_0>"):
        tokenization.vocabulary(spans, "span", size=500)
