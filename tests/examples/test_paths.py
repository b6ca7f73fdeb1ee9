"""Paths on a command line: `~` is the home directory, and unusable paths are refused before any work."""

import importlib
from pathlib import Path

import pytest
from absl import flags

import examples
from examples import finetune_image
from examples.shared import command
from optimiz import training

NAMES = {"data", "irreducible", "model", "output", "reference", "task", "test", "validation"}
NO_PATHS = {
    ("benchmarks.beside_torch.trainer", "task"),
    ("benchmarks.update", "model"),
    ("studies.low_bit.study", "task"),
}
EXAMPLES = Path(examples.__file__).parent
PROGRAMS = [
    ".".join(page.relative_to(EXAMPLES).with_suffix("").parts)
    for page in EXAMPLES.rglob("*.py")
    if "FLAGS.DEFINE_path" in page.read_text()
]


def refused(capsys, code, action):
    with pytest.raises(SystemExit) as ended:
        action()
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def claim(path, settings=None):
    with training.claimed(path, settings or {}, resume=settings is not None):
        pass


def test_all_programs_that_write_are_looked_at():
    assert len(PROGRAMS) >= 10 and {"finetune_text", "finetune_image", "pretrain"} <= set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_home_is_expanded_in_every_flag_that_takes_a_path(program, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    own = importlib.import_module(f"examples.{program}").FLAGS
    paths = [name for name in own if name in NAMES and (program, name) not in NO_PATHS]
    assert "output" in paths
    for name in paths:
        parse = own[name].parser.parse
        assert parse("~/a b") == "/home/me/a b" and parse("~") == "/home/me", name
        assert [parse(path) for path in ("x/~y", "resnet", "./~x", "org/model")] == [
            "x/~y",
            "resnet",
            "./~x",
            "org/model",
        ]
        with pytest.raises(ValueError, match="must not be empty"):
            parse(" ")
        with pytest.raises(ValueError, match="there is no home directory for '~nobody-at-all/x'; for a file"):
            parse("~nobody-at-all/x")


def test_where_no_run_can_lie_is_said_in_one_line_in_terms_of_flags(tmp_path, capsys, monkeypatch):
    flags.FLAGS.mark_as_parsed()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    run = tmp_path / "run"
    command.guarded(lambda: claim(run))
    for path, message in {
        run: f"{run} holds a run: continue it with --resume, or choose another --output",
        tmp_path / "other": f"{tmp_path}/other is not empty and holds no run: choose another directory",
        tmp_path
        / "other"
        / "thesis.tex": f"{tmp_path}/other/thesis.tex cannot be a run directory: File exists",
    }.items():
        assert refused(capsys, 2, lambda path=path: command.guarded(lambda: claim(path))) == message
    assert "File name too long" in refused(
        capsys, 2, lambda: command.guarded(lambda: claim(tmp_path / ("a" * 256)))
    )
    assert "with other settings" in refused(
        capsys, 1, lambda: command.guarded(lambda: claim(run, {"steps": 1}))
    )
    monkeypatch.setattr(flags, "FLAGS", finetune_image.FLAGS)
    differs = refused(capsys, 1, lambda: command.guarded(lambda: claim(run, {"steps": 1})))
    assert differs.endswith(
        "steps was absent, is 1; --resume takes more --steps, never fewer, and only where nothing follows "
        "their number: --schedule=constant --warmup=0, no --average=tail:S, no --patience. Choose another "
        "--output and --init=RUN to begin with its parameters"
    )
    judged = {"settings": {"keep_best": "loss"}}
    assert refused(capsys, 1, lambda: command.guarded(lambda: claim(run, judged))).endswith(
        'keep_best was absent, is "loss"; --resume takes the --keep and --patience of before, or choose '
        "another --output"
    )


@pytest.mark.parametrize("flag", ["--output=", "--data= ", "--data=~nobody-at-all/x"])
def test_a_path_that_is_none_is_refused_when_it_is_read(flag):
    argv = ["--output=x", flag]
    with (
        pytest.raises(ValueError, match=f"flag {flag}: "),
        command.arguments("finetune_image", argv, finetune_image.FLAGS),
    ):
        pass
