import json

import pytest

from examples.data import chat_template
from examples.data.chat_template import ChatTemplate, compiled

CHATML = (
    "{{ bos_token }}{% for message in messages %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message.content | trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{% if message.role == 'assistant' %}A: {% generation %}{{ message.content }}"
    "</s>{% endgeneration %}\n{% else %}Q: {{ message.content }}\n{% endif %}{% endfor %}"
)
# An answer has thoughts, if only empty ones, behind the last question alone; of others they are dropped.
THINKING = (
    "{% set ns = namespace(asked=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '[' + m.role + ']' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.asked %}"
    "{{ '<think>' + m.content.split('</think>')[-2:-1] | join | replace('<think>', '') + '</think>\n' }}"
    "{% endif %}{{ m.content.split('</think>')[-1] | trim + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# What the system says is written before the last question, and there is no prompt for an answer.
MOVED = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    "[Q] {% if m == (messages | selectattr('role', 'eq', 'user') | list)[-1] %}"
    "{{ messages[0].content + ' ' }}{% endif %}{{ m.content }} [A]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
CHAT = [
    {"role": "user", "content": " Two and two? "},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And <|im_end|>?"},
    {"role": "assistant", "content": "Ünd."},
]


def template(text, **variables):
    return ChatTemplate("t", compiled(text, "t"), variables)


def test_a_conversation_and_what_the_assistant_says():
    text, spans = template(CHATML, bos_token="<s>").answers(CHAT)
    assert text == (
        "<s><|im_start|>user\nTwo and two?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n"
        "<|im_start|>user\nAnd <|im_end|>?<|im_end|>\n<|im_start|>assistant\nÜnd.<|im_end|>\n"
    )
    assert [text[start:end] for start, end in spans] == ["Four.<|im_end|>\n", "Ünd.<|im_end|>\n"]


def test_marks_of_a_template():
    text, spans = template(MARKED).answers(CHAT)
    assert text.startswith("Q:  Two and two? \nA: Four.</s>")
    assert [text[start:end] for start, end in spans] == ["Four.</s>", "Ünd.</s>"]


def said(text, *contents):
    """What is found in a conversation of a question, an answer, a question, and so on."""
    roles = ("user", "assistant")
    chat = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    whole, spans = template(text).answers(chat)
    return [whole[start:end] for start, end in spans]


def test_answers_are_those_of_the_whole_conversation_where_others_are_written_otherwise():
    empty = "<think></think>\n"
    assert said(THINKING, "a", "b") == [f"{empty}b</s>\n"]
    assert said(THINKING, "a", "b", "b", "b") == ["b</s>\n", f"{empty}b</s>\n"]
    thought = "<think>hm</think>\n c "
    assert said(THINKING, "a", thought, "b", thought) == ["c</s>\n", "<think>hm</think>\nc</s>\n"]
    assert said(THINKING, "a", "b", "c", "d", "</s>", "</s>\n") == ["b</s>\n", "d</s>\n", f"{empty}</s></s>\n"]


def test_answers_after_which_what_is_before_them_changes_place():
    system = {"role": "system", "content": "Be kind."}
    text, spans = template(MOVED).answers([system, *CHAT])
    assert text.startswith("[Q]  Two and two?  [A] Four.</s>[Q] Be kind. And")
    assert [text[start:end] for start, end in spans] == [" Four.</s>", " Ünd.</s>"]


@pytest.mark.parametrize("text", [CHATML, MARKED])
def test_it_is_what_transformers_renders(text):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (rendered,), _ = utils.render_jinja_template([CHAT], chat_template=text, bos_token="<s>")
    assert template(text, bos_token="<s>").render(CHAT) == rendered


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}END", "does not write message 2"),
        ("{{ messages[-1].content }}", "does not write message 2"),
        ("{% for m in messages %}{{ m.content }} or {{ m.content }}{% endfor %}", "message 2 once"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "message 2 once"),
        (
            "{% for m in messages %}{{ m.content }}{% if loop.last %}</s>{% endif %}{% endfor %}",
            "does not write message 2",
        ),
        (
            "{{ messages | length }}{% for m in messages %}{{ m.role }}{% if m.role == 'user' or "
            "messages[-1].content | length < 2 %}{{ m.content }}{% endif %}{% endfor %}",
            "does not write message 2",
        ),
        (
            "{% macro say(t) %}: {% generation %}{{ t }}{% endgeneration %}{% endmacro %}"
            "{% for m in messages %}{{ m.role }}{{ say(m.content) }}{% endfor %}",
            "marks what is not written right there",
        ),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ raise_exception('no\\n\\nsuch role') }}", "cannot write this conversation: no such role"),
        ("{% for i in range(99999) %}{{ messages }}{% endfor %}", r"writes more than 6\d,\d{3} characters"),
        ("{{ 'x' * 1000000000 }}", r"'\*' is for numbers"),
        ("{{ 9 ** 9 ** 9 }}", r"\*\* is not for templates"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update(role='x') }}", "unsafe"),
        ("{{ lipsum(3) }}", "'lipsum' is undefined"),
        ("{% set n = namespace(__class__=1) %}", "a namespace cannot hold '__class__'"),
        ("{% include '/etc/hostname' %}", "no loader"),
        ("{{ strftime_now('%Y') }}", "'strftime_now' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_what_a_template_must_not_do_is_one_line(text, message):
    with pytest.raises(ValueError, match=f"^t .*{message}") as caught:
        template(text).answers(CHAT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{% for %}", "{{ x", "{% break %}", "{% generation %}"])
def test_what_is_no_template(text):
    with pytest.raises(ValueError, match=r"^t is not a template: "):
        compiled(text, "t")


def written(folder, settings, jinja=None):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if jinja is not None:
        (folder / chat_template.FILE).write_bytes(jinja)
    return folder


def test_where_a_template_is_read(tmp_path):
    assert chat_template.read(tmp_path) is None
    settings = {"bos_token": {"content": "<b>"}, "eos_token": None, "chat_template": "{{ bos_token }}x"}
    assert chat_template.read(written(tmp_path, settings)).render(CHAT) == "<b>x"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert chat_template.read(written(tmp_path, {"chat_template": named})).render(CHAT) == "d"
    assert chat_template.read(written(tmp_path, settings, b"{{ bos_token }}y")).render(CHAT) == "<b>y"
    assert chat_template.read(written(tmp_path, {})).name.endswith("chat_template.jinja")


@pytest.mark.parametrize(
    ("settings", "jinja", "message"),
    [
        ({"chat_template": 3}, None, "tokenizer_config.json: chat_template must be text"),
        ({"chat_template": [{"name": "rag", "template": "x"}]}, None, "or a list with a default"),
        ({"chat_template": "{{"}, None, "tokenizer_config.json: chat_template is not a template"),
        ({}, b"\xff", "chat_template.jinja: not UTF-8 at byte 0"),
        ({}, b"x" * (2**20 + 1), "must be text of at most 1,048,576 bytes"),
    ],
)
def test_files_that_are_refused(tmp_path, settings, jinja, message):
    with pytest.raises(ValueError, match=message):
        chat_template.read(written(tmp_path, settings, jinja))
