"""Texts to fine-tune a language model on, of which it is to learn to write some parts: the answers.

The rows of a file that `tables` reads, or of shards, have one of three forms:

    {"text": …}                                                   a document, to be learned as a whole
    {"prompt": …, "answer": …}                                    the answer is written right after the prompt
    {"messages": [{"role": "user", "content": …}, …]}             a conversation, written by the chat template

An answer may also be called `completion` or `response`. Other keys are ignored, except those of other forms.
Anything else is read as documents, see `corpus`; so is a folder with tables or JSON arrays among its files.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.data import corpus, dealing, docstrings, folders, overlap, shown, tables
from examples.data.chat_template import ChatTemplate, Spans
from examples.data.corpus import Corpus
from examples.data.summary import Summary, counted

ROLES = ("system", "user", "assistant")
ANSWERS = ("answer", "completion", "response")
_FORMS = '"text", "prompt" and "answer", or "messages"'
_OTHERS = {"conversations", "instruction", "input", "output", "chosen", "rejected", "tools"}  # of other forms
_OF_FOLDERS = (".jsonl", *tables.COLUMNAR)  # others may be documents
_PLAIN = tables.Format(argument="--{}=")
_NEEDED = {"text", "prompt", "messages", *ANSWERS, *_OTHERS}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A text with answers.

    Attributes:
        text: the text as the model reads it.
        answers: start and end of each part that the model is to write.
        asked: what comes before the first answer; equal texts of it belong to the same part of the data.
        size: bytes of the answers, as UTF-8, without what a template adds.
        place: file and line.
        is_whole: whether the text has its own special tokens, as a chat template writes them.
    """

    text: str
    answers: Spans
    asked: str
    size: int
    place: str
    is_whole: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """Texts with answers, and where they come from.

    Attributes:
        prompts: the texts, at least one.
        source: where they come from.
        left_out: what was left out → number of files, or of texts.
    """

    prompts: tuple[Prompt, ...]
    source: str
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Question:
    """A text for a model to go on from.

    Attributes:
        given: the row that it is from.
        text: the text as the model reads it.
        place: file and line.
        is_whole: as for `Prompt`.
    """

    given: Mapping[str, Any]
    text: str
    place: str
    is_whole: bool


def read(path: str | Path, template: ChatTemplate | None, how: tables.Format = _PLAIN) -> Corpus | Prompts:
    """Read documents, or texts with answers.

    Args:
        path: file, folder, or pattern of files, see `row_files.listed`.
        template: the chat template of the tokenizer, for conversations; None if it has none.
        how: how files of rows are to be read.

    Raises:
        OSError: it cannot be read.
        ValueError: something is not as described; the message is one line that begins with the place.
    """
    path = Path(path)
    if not _has_rows(path):
        for argument in ("delimiter", "encoding"):
            if getattr(how, argument) is not None:
                raise ValueError(f"--{argument} is for files of rows; {shown.path(path)} is read as UTF-8")
        return corpus.read(path)
    table = tables.opened(path, how)
    documents: list[str] = []
    prompts: list[Prompt] = []
    form = None
    for place, row in _rows(table):
        here = _form(row, place)
        if form not in (None, here):
            raise ValueError(
                f"{place}: it has {shown.value(here)}, and rows before it have {shown.value(form)}"
            )
        form = here
        if form == "text":
            documents.append(_string(row, "text", place))
        else:
            prompts.append(_prompt(row, place) if form == "prompt" else _conversation(row, template, place))
    source, empty = shown.path(path), sum(not document.strip() for document in documents)
    if form is None or (form == "text" and empty == len(documents)):
        raise ValueError(f"{source}: {'no rows' if form is None else 'no text'}")
    if form != "text":
        return Prompts(tuple(prompts), source, table.left_out)
    left_out = {**table.left_out, **({"empty": empty} if empty else {})}
    return Corpus(tuple(document for document in documents if document.strip()), source, left_out)


def read_questions(
    path: str | Path, template: ChatTemplate | None, how: tables.Format = _PLAIN
) -> list[Question]:
    """Read prompts, or conversations, whose answers are to be written.

    Args:
        path: a file of rows, or shards.
        template: as for `read`.
        how: as for `read`.

    Raises:
        OSError: it cannot be read.
        ValueError: something is not as described; the message is one line that begins with the place.
    """
    table = tables.opened(Path(path), how)
    found = []
    for place, row in _rows(table):
        found.append(question(row, template, place))
        if found[-1].is_whole != found[0].is_whole:
            raise ValueError(f"{place}: rows must all have a prompt, or all have messages")
    if not found:
        raise ValueError(f"{table.name}: no rows")
    return found


def question(row: Mapping[str, Any], template: ChatTemplate | None, place: str) -> Question:
    """What a row asks.

    Args:
        row: it has a `prompt`, or `messages` of which the last is not the assistant's.
        template: as for `read`.
        place: its place, for messages.

    Raises:
        ValueError: it has neither, or the template refuses it.
    """
    if ("prompt" in row) == ("messages" in row):
        raise ValueError(
            f'{place}: a row must have "prompt" or "messages", it has {shown.values(row) or "nothing"}'
        )
    if "prompt" in row:
        return Question({"prompt": row["prompt"]}, _string(row, "prompt", place), place, is_whole=False)
    messages = list(_messages(row["messages"], place))
    if messages[-1]["role"] == "assistant":
        raise ValueError(f"{place}: the last message is the assistant's: there is nothing to answer")
    with _placed(place):
        text = _needed(template).render(messages, prompt=True)
    return Question({"messages": messages}, text, place, is_whole=True)


def read_parts(
    path: str, others: Mapping[str, str | None], template: ChatTemplate | None, how: tables.Format = _PLAIN
) -> tuple[dict[str, Corpus | Prompts], Summary]:
    """Read the parts of the data, and summarize them.

    Args:
        path: file or folder of the training texts.
        others: other part → file or folder; None to take a twentieth of the training texts.
        template: as for `read`.
        how: as for `read`.

    Returns:
        "train" and the others, and the summary.

    Raises:
        OSError: as for `read`.
        ValueError: as for `read`, the parts are of different forms, or more than a tenth of one is in training.
    """
    data = read(path, template, how)
    given = {name: read(other, template, how) for name, other in others.items() if other is not None}
    for name, part in given.items():
        if type(part) is not type(data):
            raise ValueError(f"{name} must be of the form of train, texts or prompts; {part.source} is not")
    data = _apart(data, given)
    shares = {name: 0.05 for name in others if name not in given}
    shares = {"train": 1 - sum(shares.values())} | shares
    if isinstance(data, Corpus):
        parts = corpus.split(data, shares)
        return {**parts, **given}, corpus.summary(data, parts, shares)
    parts = {**split(data, shares), **given}
    return parts, summary(parts)


def split(prompts: Prompts, shares: Mapping[str, float]) -> dict[str, Prompts]:
    """Distribute texts over named parts by a hash of what is asked, so that no question is in two parts.

    A part that would be empty gets those of the nearest hashes.

    Args:
        prompts: the texts.
        shares: part → expected share, > 0; the shares add up to 1.

    Raises:
        ValueError: a part would be empty.

    Example:
        >>> rows = tuple(Prompt(f"{i}?", ((1, 2),), f"{i}", 1, "x", False) for i in range(10))
        >>> parts = split(Prompts(rows, "digits"), {"train": 0.7, "test": 0.3})
        >>> [prompt.asked for prompt in parts["test"].prompts]
        ['2', '5', '6']
    """
    positions = [dealing.position(each.asked.encode("utf-8", "replace")) for each in prompts.prompts]
    owners = dealing.owners(positions, shares, fill=True)
    dealt: dict[str, list[Prompt]] = {name: [] for name in shares}
    for prompt, owner in zip(prompts.prompts, owners, strict=True):
        dealt[list(shares)[owner]].append(prompt)
    for name, part in dealt.items():
        if not part:
            rows, asked = len(prompts.prompts), len({prompt.asked for prompt in prompts.prompts})
            different = f" with {counted(asked, 'different prompts')}" if asked < rows else ""
            raise ValueError(
                f"{prompts.source}: none of {counted(rows, 'rows')}{different} is in the part {name!r}; "
                "add some, or a file for it"
            )
    return {name: Prompts(tuple(part), prompts.source, prompts.left_out) for name, part in dealt.items()}


def topics() -> dict[str, Prompts]:
    """Questions for the topics of sentences from Python's own documentation, see `docstrings`.

    Raises:
        ValueError: this installation of Python has no sources.
    """
    parts = {}
    for name, part in docstrings.load_split().items():
        rows = zip(part.texts, part.labels, strict=True)
        asked = ({"prompt": f"{text}\nTopic:", "answer": f" {part.label_names[label]}"} for text, label in rows)
        found = tuple(_prompt(row, f"sentence {number}") for number, row in enumerate(asked, 1))
        parts[name] = Prompts(found, part.source.partition(f", {name} part (")[0])
    return parts


def summary(parts: Mapping[str, Prompts]) -> Summary:
    """Summarize what to know about texts with answers before training on them.

    Args:
        parts: "train" and others.
    """
    train = parts["train"]
    others = {name: part.source for name, part in parts.items() if part.source != train.source}
    facts = {"data": train.source, **{f"{name} data": source for name, source in others.items()}}
    kind = "conversations" if train.prompts[0].is_whole else "prompts"
    facts[kind] = ", ".join(f"{len(part.prompts)} {name}" for name, part in parts.items())
    texts = collections.Counter(prompt.text for part in parts.values() for prompt in part.prompts)
    copies = texts.total() - len(texts)
    if copies:
        facts["duplicates"] = counted(copies, "texts")
    if train.left_out:
        facts["left out"] = ", ".join(f"{count} {what}" for what, count in train.left_out.items())
    trained, warnings = {prompt.asked for prompt in train.prompts}, []
    for name, part in parts.items():
        shared = 0 if name == "train" else sum(prompt.asked in trained for prompt in part.prompts)
        if shared:
            warnings.append(
                f"{name} shares {counted(shared, 'prompts')} with train: its metrics are optimistic"
            )
    return Summary(facts, warnings)


def _apart(train: Corpus | Prompts, others: Mapping[str, Corpus | Prompts]) -> Corpus | Prompts:
    """The training texts without those of other parts, which are counted."""
    if not others:  # shards are then read by the split alone
        return train
    texts, keys = _texts(train), {name: _texts(part) for name, part in others.items()}
    sources = {name: part.source for name, part in others.items()}
    rows = overlap.apart(texts, keys, sources, "texts")
    if not (count := len(texts) - len(rows)):
        return train
    left_out = {**train.left_out, "in another part": count}
    if isinstance(train, Prompts):
        return Prompts(tuple(train.prompts[row] for row in rows), train.source, left_out)
    return Corpus(tuple(texts[row] for row in rows), train.source, left_out)


def _texts(part: Corpus | Prompts) -> Sequence[str]:
    return [prompt.text for prompt in part.prompts] if isinstance(part, Prompts) else tuple(part.documents)


def _has_rows(path: Path) -> bool:
    """Whether a path means rows, and not documents."""
    if not path.is_dir():
        return path.suffix.lower() in (*tables.TEXT, *tables.COLUMNAR)
    found, _ = folders.files(path)
    shard = next((file for file in found if file.suffix.lower() in _OF_FOLDERS), None)
    others = (file for file in found if file.suffix.lower() not in _OF_FOLDERS)
    other = next((file for file in others if not corpus.is_no_text(file)), None)
    if shard is None or other is None or shard.suffix.lower() in tables.COLUMNAR:  # which are no documents
        return shard is not None
    raise ValueError(
        f"{shown.path(path)}: it holds both {shown.path(shard.relative_to(path))} and "
        f"{shown.path(other.relative_to(path))}; a folder must hold rows, or documents; name some of them in a "
        f"pattern, such as {shown.path(path)}/*{shard.suffix}"
    )


def _rows(table: tables.Table) -> tables.Rows:
    columns = table.columns or ()
    return table.rows([column for column in columns if column in _NEEDED] or columns)


def _form(row: Mapping[str, Any], place: str) -> str:
    """The form of a row: "text", "prompt" or "messages"."""
    forms = [form for form in ("text", "prompt", "messages") if form in row]
    odd = [key for key in row if key in _OTHERS and row[key] is not None]  # columns have a value in every row
    if len(forms) != 1 or odd:
        got = ", ".join(map(shown.name, list(row)[:8])) or "nothing"
        raise ValueError(f"{place}: a row must have {_FORMS}, and nothing of another form; it has {got}")
    return forms[0]


def _string(row: Mapping[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        what = "is missing" if key not in row else f"must be a text, got {type(value).__name__}"
        raise ValueError(f"{place}: {shown.value(key)} {what}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{place}: {shown.value(key)} has half of a surrogate pair, which is no text"
        ) from None
    return value


def _answer(text: str, place: str) -> str:
    if not text.strip():
        raise ValueError(f"{place}: an answer is empty")
    return text


def _prompt(row: Mapping[str, Any], place: str) -> Prompt:
    names = [name for name in ANSWERS if name in row]
    if len(names) != 1:
        raise ValueError(
            f"{place}: a prompt must have one of {', '.join(ANSWERS)}, it has {' and '.join(names) or 'none'}"
        )
    prompt, answer = _string(row, "prompt", place), _answer(_string(row, names[0], place), place)
    spans = ((len(prompt), len(prompt) + len(answer)),)
    return Prompt(prompt + answer, spans, prompt, len(answer.encode()), place, is_whole=False)


def _conversation(row: Mapping[str, Any], template: ChatTemplate | None, place: str) -> Prompt:
    messages = list(_messages(row["messages"], place))
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    if not said:
        raise ValueError(f"{place}: there is no message of the assistant")
    first = [message["role"] for message in messages].index("assistant")
    with _placed(place):
        template = _needed(template)
        text, spans = template.answers(messages)
        asked = template.render(messages[:first])
    if not any(end > start for start, end in spans):
        raise ValueError(f"{place}: {template.name} leaves out what the assistant says")
    return Prompt(text, spans, asked, len("".join(said).encode()), place, is_whole=True)


@contextlib.contextmanager
def _placed(place: str) -> Iterator[None]:
    """Say where an error is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _needed(template: ChatTemplate | None) -> ChatTemplate:
    if template is None:
        raise ValueError("messages need a chat template, and the tokenizer of the model has none")
    return template


def _messages(messages: Any, place: str) -> Iterator[dict[str, str]]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(f'{place}: "messages" must be a list of messages')
    for number, message in enumerate(messages, 1):
        where = f"{place}: message {number}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{where} must be an object, got {type(message).__name__}")
        role, content = _string(message, "role", where), _string(message, "content", where)
        if role not in ROLES:
            raise ValueError(f"{where}: role must be one of {', '.join(ROLES)}, got {shown.value(role)}")
        given = {
            key for key, value in message.items() if value is not None
        }  # records of Parquet have every key
        if unknown := sorted(given - {"role", "content"}):
            raise ValueError(f"{where} may have a role and a content, it also has {shown.values(unknown)}")
        yield {"role": role, "content": _answer(content, where) if role == "assistant" else content}
