"""The chat template of a tokenizer: how a conversation becomes the text that a model reads.

It is a Jinja template from a stranger, and is rendered in Jinja's sandbox for immutable data: it reads messages
and writes text, calls no function but those given to it, and is stopped where it writes far more than it reads.
It is in `chat_template.jinja`, or in `tokenizer_config.json` as `chat_template`.

What the assistant says is found in the text in one of two ways. Where the template marks it with
`{% generation %}`, the marks say it. Otherwise the text is written again with a stand-in for an answer, a
character that is nowhere else: the two differ where the answer is. What the template writes between the prompt
for an answer and the answer, and the end that it writes after it, belong to it as they stand there: a thought
that is written before the last answer alone is not in those before.

Departure: `strftime_now` is not defined, as a text that tells the date would be another one tomorrow; templates
of Llama have a fixed date then.

Source: the templates of `transformers`, and the variables that it defines for them.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from examples.data import shown
from examples.data.tokenizer_file import SETTINGS
from examples.shared import strict_json

FILE = "chat_template.jinja"
MAX_BYTES = 2**20  # of a template, a hundred times the size of a usual one
_PRIVATE = range(0xE000, 0xF900)  # characters for private use
_MARGIN, _GROWTH = 2**16, 64  # characters, and how many times longer than its messages a text may be

Messages = Sequence[Mapping[str, str]]
Spans = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template, ready to render.

    Attributes:
        name: name of its file, for messages.
        template: the compiled template.
        variables: the special tokens by the names that templates give them.
    """

    name: str
    template: jinja2.Template
    variables: Mapping[str, str]

    def render(self, messages: Messages, *, prompt: bool = False) -> str:
        """The text of a conversation.

        Args:
            messages: each with a `role` and a `content`.
            prompt: whether the prompt for an answer follows.

        Raises:
            ValueError: the template refuses the conversation, fails, or writes too much.
        """
        return self._marked(messages, prompt)[0]

    def answers(self, messages: Messages) -> tuple[str, Spans]:
        """The text of a conversation, and where in it the assistant speaks.

        Args:
            messages: as for `render`.

        Returns:
            The text, and the start and the end of each answer, including the mark that ends it.

        Raises:
            ValueError: as for `render`, or the answers cannot be found in the text.
        """
        text, marks = self._marked(messages, False)
        if marks:
            return text, marks
        spans: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                found = self._found(text, messages, index)
                if found is None or found[0] < (spans[-1][1] if spans else 0):
                    raise ValueError(
                        f"{self.name} does not write message {index + 1} once, after the prompt for it, and "
                        "with the same end wherever it stands; it must mark answers with {% generation %}"
                    )
                spans.append(found)
        return text, tuple(spans)

    def _found(self, text: str, messages: Messages, index: int) -> tuple[int, int] | None:
        """Where in the text of a conversation a message is; None if a stand-in does not show it."""
        mark = next(mark for mark in map(chr, _PRIVATE) if mark not in text)
        marked = [*messages[:index], {**messages[index], "content": mark}, *messages[index + 1 :]]
        prompt = self.render(messages[:index], prompt=True)
        last, whole = self.render(marked[: index + 1]), self.render(marked)
        if not last.startswith(prompt) or last.count(mark) != 1 or whole.count(mark) != 1:
            return None
        opening, _, end = last.removeprefix(prompt).partition(mark)
        before, _, after = whole.partition(mark)
        start = len(prompt if whole.startswith(prompt) else before.removesuffix(opening))
        rest = after.removeprefix(end)
        stop = len(text) - len(rest)
        is_same = after.startswith(end) and text.startswith(whole[:start]) and text.endswith(rest)
        return (start, stop) if is_same and start < stop else None

    def _marked(self, messages: Messages, prompt: bool) -> tuple[str, Spans]:
        """The text, and what the template marks in it."""
        most = _MARGIN + _GROWTH * sum(len(message["content"]) for message in messages)
        written: Any = _Written(most)
        self.template.environment.extend(written=written)  # for the marks, and out of the template's reach
        variables = {**self.variables, "messages": [dict(message) for message in messages]}
        try:
            for piece in self.template.generate(**variables, add_generation_prompt=prompt):
                written.add(piece)
        except _TooLong:
            raise ValueError(f"{self.name} writes more than {most:,} characters of this conversation") from None
        except Exception as error:  # whatever an expression of the template raises
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{self.name} cannot write this conversation: {reason}") from None
        text = "".join(written.pieces)
        if any(text[start : start + len(marked)] != marked for start, marked in written.marks):
            raise ValueError(f"{self.name} marks what is not written right there, as in a macro")
        return text, tuple((start, start + len(marked)) for start, marked in written.marks)


def read(directory: Path) -> ChatTemplate | None:
    """The chat template of the tokenizer in a directory; None if it has none.

    Raises:
        ValueError: it is not a template.
    """
    settings = strict_json.read_object(directory / SETTINGS) if (directory / SETTINGS).exists() else {}
    if (directory / FILE).exists():
        name = shown.path(directory / FILE)
        with (directory / FILE).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        try:
            text: Any = content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: not UTF-8 at byte {error.start}") from None
    else:
        name, text = f"{shown.path(directory / SETTINGS)}: chat_template", settings.get("chat_template")
    if text is None:
        return None
    if isinstance(text, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in text if isinstance(each, dict)}
        text = named.get("default")
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        raise ValueError(f"{name} must be text of at most {MAX_BYTES:,} bytes, or a list with a default")
    tokens = {key: _token(value) for key, value in settings.items() if key.endswith("_token")}
    return ChatTemplate(name, compiled(text, name), {key: each for key, each in tokens.items() if each})


def compiled(text: str, name: str) -> jinja2.Template:
    """Compile a template.

    Args:
        text: the template.
        name: its name, for the message.

    Raises:
        ValueError: it is not a template.
    """
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    given = {"range": environment.globals["range"], "dict": _dict, "namespace": _Namespace}
    environment.globals.clear()
    environment.globals.update(given, raise_exception=_refuse)
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(text)
    except Exception as error:  # of Jinja, or of Python where it compiles what Jinja has made of it
        raise ValueError(f"{name} is not a template: {' '.join(str(error).split())[:200]}") from None


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which no product is a text of gigabytes, and no power a number of as many digits."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(each, int | float) for each in (left, right)):
            raise jinja2.exceptions.SecurityError(f"{operator!r} is for numbers, and ** is not for templates")
        return super().call_binop(context, operator, left, right)


class _TooLong(Exception):
    """More was written than any template has to."""


class _Written:
    """What a template has written so far, and the parts of it that it has marked."""

    def __init__(self, most: int):
        self.pieces: list[str] = []
        self.marks: list[tuple[int, str]] = []  # where each begins, and what it is
        self.length, self._most = 0, most

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.length += len(piece)
        if self.length > self._most:
            raise _TooLong


class _Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}`: what the assistant says."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        text, written = caller(), self.environment.written
        written.marks.append((written.length, text))
        return text


class _Namespace(jinja2.utils.Namespace):
    """A namespace without names that begin with an underscore, by which a template could leave the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        given = dict(*args, **kwargs)
        for name in given:
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """As JSON, without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _token(value: Any) -> str | None:
    """A special token, which may be written as an object."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None
