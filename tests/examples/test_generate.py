"""What a model writes is what its own logits say, from any run or directory."""

import json

import numpy as np
import pytest
from absl.testing import flagsaver

from examples import generate
from examples.models import families, weights
from examples.models.writer import Writer, read_tokenizer
from examples.shared import command
from optimiz import compare
from tests.examples import golden, tiny_lm


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run."""
    directory = tmp_path_factory.mktemp("run")
    (directory / "model").mkdir()
    tiny_lm.save(directory / "model")
    return directory


def call(**arguments):
    with flagsaver.flagsaver():
        command.parse(["generate", *(f"--{name}={value}" for name, value in arguments.items())], generate.FLAGS)
        command.guarded(generate.main)


def expected(run, text, most):
    """The likeliest tokens one after the other, from whole passes over all tokens."""
    config, params = weights.load(run / "model", families.GPT2)
    tokenizer, apply = read_tokenizer(run / "model", config.vocab_size), golden.apply_of(families.GPT2, config)
    ids = tokenizer.encode(text).ids
    row, start = np.zeros((1, 96), np.int32), len(ids)
    for _ in range(most):
        row[0, : len(ids)] = ids
        ids.append(int(np.argmax(apply(params, row)[0, len(ids) - 1])))
        if ids[-1] == 0:
            break
    return tokenizer.decode(ids[start:])


def on_the_screen(text):
    return "\n".join(map(compare.shown, text.split("\n"))) + "\n"


def test_it_continues_a_text_and_answers_a_user(run, capsys):
    call(model=run, prompt="Say red", tokens=6)
    assert capsys.readouterr().out == on_the_screen(expected(run, "Say red", 6))
    call(model=run / "model", prompt="Say red", tokens=6, chat=True)
    text = "<user> Say red</s>\n<assistant> "
    assert capsys.readouterr().out == on_the_screen(expected(run, text, 6))


@pytest.mark.long
def test_rows_of_different_lengths_are_those_of_each_alone(run, tmp_path):
    rows = [{"prompt": " red" * count} for count in (1, 9, 4)] * 7
    data = tiny_lm.written(tmp_path / "asked.jsonl", rows)
    call(model=run, data=data, tokens=5, output=tmp_path / "said.jsonl")
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in said] == [row["prompt"] for row in rows]
    for row in said[:3]:
        assert row["answer"] == expected(run, row["prompt"], 5)
    assert said[:3] == said[-3:]


def test_what_is_drawn_depends_on_the_seed(run):
    writer = Writer(run / "model", 8, generate.generation.sampled(1.0))
    one, again, other = (writer(["Say"], whole=False, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give --prompt or --data"),
        ({"prompt": "a", "data": "b.jsonl"}, "give --prompt or --data"),
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"data": "nowhere.jsonl", "chat": True}, "--chat is for --prompt"),
        ({"prompt": "a", "model": "/nowhere"}, "model must be a directory or a Hub repository"),
        ({"prompt": "a", "tokens": 96}, "prompts and what follows must have at most 96 tokens per row, got 97"),
        ({"prompt": "a", "top_p": 0}, "flag --top_p=0.0: must be in (0, 1]"),
        ({"prompt": "a", "output": __file__}, "exists; choose another, or remove it"),
        ({"prompt": "a", "output": "no/out.jsonl"}, "--output=no/out.jsonl: there is no directory no"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        call(**{"model": run, **arguments})
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert message in line and exit.value.code == command.EXIT_USAGE


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "a prompt must have a token, got ''"), ("a" * 99, "must have at most 96 tokens")],
)
def test_a_prompt_that_is_refused_is_named_by_its_line(run, capsys, tmp_path, prompt, message):
    data = tmp_path / "asked.csv"
    data.write_text(f'prompt\n"Say\n"\n"{prompt}"\n')
    with pytest.raises(SystemExit):
        call(model=run, data=data)
    assert f"error: {data}:4: " in (error := capsys.readouterr().err) and message in error


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_more_is_written_than_the_model_reads(tmp_path, kind, monkeypatch):
    writer, said = Writer(tiny_lm.save(tmp_path, kind), 90), []
    monkeypatch.setattr(writer, "_answers", lambda rows, key: said.extend(rows) or ["red"] * len(rows))
    texts = ["\n"] * 16  # as many as are gone on from at once
    assert writer([*texts, "\n" * 6], whole=True) == ["red"] * 17
    said.clear()
    with pytest.raises(ValueError, match="must have at most 96 tokens per row, got 97"):
        writer([*texts, "\n" * 7], whole=True)
    assert not said


def test_the_directory_of_several_runs_is_refused_with_their_names(run, tmp_path, capsys):
    for name in ("lion", "adamw"):
        (tmp_path / name).symlink_to(run)
    with pytest.raises(SystemExit):
        call(model=tmp_path, prompt="a")
    message = f"--model={tmp_path} holds the runs adamw, lion; choose one, such as --model={tmp_path}/adamw"
    assert message in capsys.readouterr().err
