import hashlib
import itertools
import json

import numpy as np
import pytest

from examples.data import docstrings, pieces, prompts, tables, tokenization
from examples.data.chat_template import ChatTemplate, compiled
from examples.data.corpus import Corpus
from examples.data.text import TextExamples

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEMPLATE = ChatTemplate("t", compiled(TURNS, "t"), {})
USER, SAYS = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hö!"}


def rows(tmp_path, *lines, name="a.jsonl"):
    (tmp_path / name).write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    return tmp_path / name


def test_prompts_with_answers(tmp_path):
    path = rows(tmp_path, *({"prompt": "1+1=", key: " 2é", "id": 7} for key in prompts.ANSWERS))
    for number, prompt in enumerate(prompts.read(path, None).prompts, 1):
        assert prompt.text == "1+1= 2é" and prompt.answers == ((4, 7),) and prompt.size == 4
        assert prompt.place == f"{path}:{number}" and not prompt.is_whole


def test_conversations(tmp_path):
    (prompt,) = prompts.read(rows(tmp_path, {"messages": [USER, SAYS, USER, SAYS]}), TEMPLATE).prompts
    assert prompt.text == "<user>Hi?</s><assistant>Hö!</s>" * 2 and prompt.is_whole and prompt.size == 8
    assert [prompt.text[start:end] for start, end in prompt.answers] == ["Hö!</s>"] * 2
    assert prompt.asked == "<user>Hi?</s>"


def test_documents_in_rows_and_in_files(tmp_path):
    found = prompts.read(rows(tmp_path, {"text": "a"}, {"text": " "}, {"text": "b", "url": "c"}), None)
    assert isinstance(found, Corpus) and found.documents == ("a", "b") and found.left_out == {"empty": 1}
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x.txt").write_text("c")
    assert prompts.read(tmp_path / "more", None).documents == ("c",)


def test_a_folder_of_rows(tmp_path):
    for name in ("a", "b"):
        rows(tmp_path, {"prompt": name, "answer": "x"}, name=f"{name}.jsonl")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "cover.png").write_bytes(b"\0")
    found = prompts.read(tmp_path, None)
    assert [prompt.asked for prompt in found.prompts] == ["a", "b"]
    assert found.left_out == {"hidden or system files": 1, "not shards": 1}


REFUSED = {
    "nothing": ([], "a.jsonl: no rows"),
    "no text": ([{"text": ""}], "a.jsonl: no text"),
    "no object": ([[1]], r"a.jsonl: object 1 of the array must be a JSON object, got int"),
    "a number": ([{"text": "a"}, 3], "a.jsonl:2 must hold a JSON object, got int"),
    "no form": ([{"title": "x"}], 'a.jsonl:1: a row must have "text", .*; it has title'),
    "two forms": ([{"text": "a", "prompt": "b"}], "a.jsonl:1: a row must have .*; it has text, prompt"),
    "Alpaca's": (
        [{"instruction": "a", "input": "b", "output": "c"}],
        "a.jsonl:1: .*; it has instruction, input",
    ),
    "a lost input": (
        [{"prompt": "a", "input": "b", "answer": "c"}],
        "a.jsonl:1: a row must have",
    ),
    "ShareGPT's": ([{"conversations": []}], "a.jsonl:1: a row must have"),
    "mixed": (
        [{"text": "a"}, {"prompt": "a", "answer": "b"}],
        "a.jsonl:2: it has 'prompt', and rows before it have 'tex",
    ),
    "text of a number": ([{"text": 3}], "a.jsonl:1: 'text' must be a text, got int"),
    "no answer": (
        [{"prompt": "a"}],
        "a.jsonl:1: a prompt must have one of answer, completion, response, it",
    ),
    "two answers": (
        [{"prompt": "a", "answer": "b", "response": "c"}],
        ".* has answer and response",
    ),
    "an empty answer": ([{"prompt": "a", "answer": " \n"}], "a.jsonl:1: an answer is empty"),
    "half a character": (
        [{"prompt": "a", "answer": "\ud800"}],
        "'answer' has half of a surrogate pair",
    ),
    "messages of text": ([{"messages": "hi"}], 'a.jsonl:1: "messages" must be a list of messages'),
    "a message of text": ([{"messages": ["hi"]}], "a.jsonl:1: message 1 must be an object, got str"),
    "no role": ([{"messages": [{"content": "a"}]}], "a.jsonl:1: message 1: 'role' is missing"),
    "parts": (
        [{"messages": [{"role": "user", "content": [{"type": "text"}]}]}],
        "'content' must be a text",
    ),
    "an unknown role": (
        [{"messages": [USER, {"role": "human", "content": "a"}]}],
        "message 2: role must be one",
    ),
    "a tool": (
        [{"messages": [{**SAYS, "tool_calls": []}]}],
        "it also has 'tool_calls'",
    ),
    "no assistant": ([{"messages": [USER]}], "a.jsonl:1: there is no message of the assistant"),
    "a silent assistant": (
        [{"messages": [USER, {**SAYS, "content": ""}]}],
        "message 2: an answer is empty",
    ),
}


@pytest.mark.parametrize(("lines", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_one_line_with_its_place(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path, *lines)
    with pytest.raises(ValueError, match=message) as caught:
        prompts.read("a.jsonl", TEMPLATE)
    assert "\n" not in str(caught.value) and "a.jsonl" in str(caught.value)


def test_more_refusals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat = {"messages": [USER, SAYS]}
    with pytest.raises(ValueError, match=r"a.jsonl:1: messages need a chat template, and the token"):
        prompts.read(rows(tmp_path, chat), None)
    refusing = ChatTemplate("t", compiled("{{ raise_exception('no') }}", "t"), {})
    with pytest.raises(ValueError, match=r"a.jsonl:1: t cannot write this conversation: no"):
        prompts.read(rows(tmp_path, chat), refusing)
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(
        ValueError, match=r"holds both a.jsonl and b.txt; a folder must hold rows, or docum.*/\*\.jsonl"
    ):
        prompts.read(tmp_path, None)
    with pytest.raises(ValueError, match=r"--encoding is for files of rows; b.txt is read as UTF-8"):
        prompts.read("b.txt", None, tables.Format(encoding="latin-1"))
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"c.jsonl:1: byte 0xe9 at 10 is not UTF-8; .* --encoding=cp1252"):
        prompts.read("c.jsonl", None)
    assert prompts.read("c.jsonl", None, tables.Format(encoding="latin-1")).documents == ("é",)
    (tmp_path / "d.csv").write_text("prompt;answer\na;b\n")
    with pytest.raises(ValueError, match=r"d.csv: one column, 'prompt;answer'; .* set --delimiter=';'"):
        prompts.read("d.csv", None)
    (found,) = prompts.read("d.csv", None, tables.Format(delimiter=";")).prompts
    assert (found.text, found.asked, found.place) == ("ab", "a", "d.csv:2")


def asked(count, repeat=1):
    return [{"prompt": f"{i}?", "answer": f"{j}"} for i in range(count) for j in range(repeat)]


def test_a_question_is_in_one_part(tmp_path):
    parts = prompts.split(prompts.read(rows(tmp_path, *asked(60, 3)), None), {"train": 0.8, "test": 0.2})
    questions = {name: {prompt.asked for prompt in part.prompts} for name, part in parts.items()}
    assert not questions["train"] & questions["test"] and len(questions["test"]) > 5
    assert sum(len(part.prompts) for part in parts.values()) == 180
    same = prompts.read(rows(tmp_path, *asked(1, 2)), None)
    with pytest.raises(
        ValueError, match=r"2 rows with 1 different prompt is in the part 'test'; add some, or a"
    ):
        prompts.split(same, {"train": 0.9, "test": 0.1})


@pytest.mark.parametrize("count", [3, 5, 20, 60])
@pytest.mark.parametrize("seed", range(20))
def test_a_part_that_would_be_empty_gets_the_nearest_and_others_stay(tmp_path, count, seed):
    lines = [{"prompt": f"{seed} {i}?", "answer": f"{j}"} for i in range(count) for j in range(2)]
    shares = {"train": 0.9, "validation": 0.05, "test": 0.05}
    parts = prompts.split(prompts.read(rows(tmp_path, *lines), None), shares)
    questions = {name: {prompt.asked for prompt in part.prompts} for name, part in parts.items()}
    assert all(questions.values()) and sum(map(len, questions.values())) == count
    assert sum(len(part.prompts) for part in parts.values()) == 2 * count
    positions = {line["prompt"]: hashlib.sha256(line["prompt"].encode()).hexdigest()[:12] for line in lines}
    by_hash = {asked for asked, digest in positions.items() if int(digest, 16) / 16**12 >= 0.95}
    if by_hash:
        assert questions["test"] == by_hash
    else:
        assert max(positions, key=positions.__getitem__) in questions["validation"] | questions["test"]
        assert len(questions["test"]) == max(round(0.05 * count), 1)


def test_texts_of_another_part_are_left_out_of_training(tmp_path):
    train = rows(tmp_path, *asked(40))
    test = rows(tmp_path, *asked(1), *({"prompt": f"{i}!", "answer": "x"} for i in range(9)), name="test.jsonl")
    parts, summary = prompts.read_parts(str(train), {"validation": str(test), "test": str(test)}, None)
    assert len(parts["train"].prompts) == 39
    assert summary.facts["left out"] == "1 in another part" and not summary.warnings
    with pytest.raises(
        ValueError, match=r"a.jsonl: 40 of its 40 texts are in --data too, .* or omit --test, for"
    ):
        prompts.read_parts(str(train), {"validation": None, "test": str(train)}, None)
    book = tmp_path / "book.txt"
    book.write_text("a long story " * 99)
    with pytest.raises(ValueError, match=r"book.txt: 1 of its 1 texts are in --data too"):
        prompts.read_parts(str(book), {"validation": None, "test": str(book)}, None)


def test_parts_of_files(tmp_path):
    train = rows(tmp_path, *asked(40))
    test = rows(tmp_path, *({"prompt": f"{i}?", "answer": "x"} for i in range(2)), name="test.jsonl")
    parts, summary = prompts.read_parts(str(train), {"validation": None, "test": str(test)}, None)
    assert (
        len(parts["train"].prompts) + len(parts["validation"].prompts) == 40 and len(parts["test"].prompts) == 2
    )
    assert summary.warnings == ["test shares 2 prompts with train: its metrics are optimistic"]
    text = rows(tmp_path, {"text": "a"}, name="text.jsonl")
    with pytest.raises(ValueError, match=r"test must be of the form of train, .*text.jsonl is not"):
        prompts.read_parts(str(train), {"test": str(text)}, None)


def test_topics_are_asked_for(monkeypatch):
    def of(*texts):
        return TextExamples(texts, None, np.arange(len(texts)), ("dates", "files"), "docs, test part (0.5)")

    monkeypatch.setattr(docstrings, "load_split", lambda: {"train": of("Open it.", "Go."), "test": of("See.")})
    parts = prompts.topics()
    assert [len(part.prompts) for part in parts.values()] == [2, 1] and parts["test"].source == "docs"
    prompt = parts["train"].prompts[1]
    assert prompt.text == "Go.\nTopic: files" and prompt.answers == ((10, 16),)


def test_questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = rows(tmp_path, {"prompt": "1+1=", "answer": "2"}).name
    (found,) = prompts.read_questions(path, None)
    assert found == prompts.Question({"prompt": "1+1="}, "1+1=", "a.jsonl:1", is_whole=False)
    (found,) = prompts.read_questions(rows(tmp_path, {"messages": [USER, SAYS, USER]}), TEMPLATE)
    assert found.text == "<user>Hi?</s><assistant>Hö!</s><user>Hi?</s><assistant>" and found.is_whole
    for message, lines in {
        "no rows": [],
        "a.jsonl:1: a row must have": [{"text": "a"}],
        "a.jsonl:2: rows must all have": [{"prompt": "a"}, {"messages": [USER]}],
        "a.jsonl:1: the last message is the assistant's": [{"messages": [USER, SAYS]}],
        "a.jsonl:1: 'prompt' must be a text, got int": [{"prompt": 3}],
    }.items():
        with pytest.raises(ValueError, match=message):
            prompts.read_questions(rows(tmp_path, *lines), TEMPLATE)
    with pytest.raises(ValueError, match=r"a.jsonl:1: messages need a chat template"):
        prompts.read_questions(rows(tmp_path, {"messages": [USER]}), None)


# --- as tokens ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return tokenization.train(["<user>Hi?</s><assistant>Hö! 1+1= 2é"] * 3, "bpe", 300, "causal")


def texts(tokenizer, found):
    """The predicted texts of each piece."""
    return [
        tokenizer.decode(ids[predicted].tolist(), skip_special_tokens=False) for ids, predicted in found.tokens
    ]


def test_tokens_of_answers_are_predicted_and_the_end(tmp_path, tokenizer):
    read = prompts.read(rows(tmp_path, {"prompt": "1+1=", "answer": " 2é"}), None)
    found = pieces.of_prompts(read, tokenizer, 0, max, skip_long=False)
    assert texts(tokenizer, found) == [" 2é<|endoftext|>"] and found.sizes == [4]
    read = prompts.read(rows(tmp_path, {"messages": [USER, SAYS]}), TEMPLATE)
    found = pieces.of_prompts(read, tokenizer, None, max, skip_long=False)
    assert texts(tokenizer, found) == ["Hö!</s>"] and found.sizes == [4]  # the template ends it


def test_a_token_across_the_beginning_of_an_answer_is_not_predicted(tokenizer):
    assert tokenizer.encode("<user>Hi").tokens[1] == "user"
    one = prompts.Prompts((prompts.Prompt("<user>Hi", ((3, 8),), "", 5, "a:1", is_whole=False),), "a")
    found = pieces.of_prompts(one, tokenizer, 0, max, skip_long=False)
    assert texts(tokenizer, found) == [">Hi<|endoftext|>"]


def test_a_text_longer_than_a_row_is_refused_by_place_or_left_out(tmp_path, monkeypatch, tokenizer):
    monkeypatch.chdir(tmp_path)
    long = {"prompt": "q", "answer": "x" * 50}
    read = prompts.read(rows(tmp_path, {"prompt": "1+1=", "answer": "2"}, long, long), None)
    length = lambda lengths: 10  # noqa: E731
    with pytest.raises(ValueError, match=r"a.jsonl:2: 51 tokens with its answer, and a row has 10 \(2 tex"):
        pieces.of_prompts(read, tokenizer, 0, length, skip_long=False)
    found = pieces.of_prompts(read, tokenizer, 0, length, skip_long=True)
    assert len(found.tokens) == 1 and found.skipped == 2
    with pytest.raises(ValueError, match="all of 3 texts are longer than a row of 1 tokens"):
        pieces.of_prompts(read, tokenizer, 0, lambda lengths: 1, skip_long=True)


@pytest.mark.parametrize("start", [None, 0])
def test_every_token_of_a_document_is_predicted_once(tokenizer, start):
    corpus = Corpus(("ab" * 11, "1+1="), "a")
    found = pieces.of_documents(corpus, tokenizer, start, 0, lambda lengths: 5)
    whole = "".join(texts(tokenizer, found))
    first = [tokenizer.decode(tokenizer.encode(text).ids[:1]) for text in corpus.documents]  # after nothing
    unseen = [""] * 2 if start is not None else first
    rest = [text.removeprefix(begin) for text, begin in zip(corpus.documents, unseen, strict=True)]
    expected = "".join(f"{text}<|endoftext|>" for text in rest)
    assert whole == expected and max(found.lengths) == 5
    for (before, _), (after, _) in itertools.pairwise(found.tokens[:3]):
        assert before[-1] == after[0]
    assert np.sum(found.sizes) == pytest.approx(26)
