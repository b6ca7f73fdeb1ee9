"""Every flag of every program refuses an invalid value when it is parsed, in one line that names the flag."""

import importlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from examples import finetune_text, pretrain
from examples.shared import command, devices
from tests.conftest import ROOT

PROGRAMS = [
    "benchmarks.trainers",
    "benchmarks.update",
    "compare_optimizers",
    "finetune_image",
    "finetune_text",
    "studies.heterogeneity.study",
    "irreducible_losses",
    "studies.line_search.study",
    "studies.low_bit.study",
    "plan",
    "predict",
    "pmap_digits",
    "pretrain",
    "records",
    "studies.pretraining.study",
]

NUMBERS = ["", "-1", "-0.1", "nan", "inf", "-inf", "1e400", "1e39", "x", "0x", "None", "1,2", "[]"]
INTEGERS = [*NUMBERS, "1.5", "1e3", "2147483648", "9223372036854775808", "9" * 30, "9" * 5000]
HOSTILE = {
    "integer": INTEGERS,
    "float": NUMBERS,
    "list": ["", ",", "a,", ",a", "a,,b", "a,a"],
    "enum": ["", "no such", "None"],
    "boolean": ["", "maybe", "2"],
    "path": ["", "  ", "~nobody-of-that-name/x"],
    "string": [""],
}


def kind_of(flag):
    name = type(flag.parser).__name__
    for kind, parser in {
        "integer": "IntegerParser",
        "float": "FloatParser",
        "boolean": "BooleanParser",
        "enum": "EnumParser",
        "path": "_PathParser",
        "list": "ListParser",
    }.items():
        if name == parser:
            return kind
    return "string"


def own(program):
    return importlib.import_module(f"examples.{program}").FLAGS


def cases():
    for program in PROGRAMS:
        for name in own(program):
            yield program, name


def refused(program, *argv):
    """What is said of arguments, in one line; None where they are taken."""
    required = [f"--{name}=runs/x" for name in ("run", "output") if name in own(program)]
    try:
        with command.arguments(program, [*required, *argv], own(program)):
            return None
    except ValueError as error:
        return " ".join(str(error).split())


@pytest.mark.parametrize(("program", "name"), list(cases()))
def test_what_a_flag_cannot_mean_is_refused_when_it_is_parsed(program, name):
    flag = own(program)[name]
    allowed_empty = name == "downstream"
    for value in HOSTILE[kind_of(flag)]:
        said = refused(program, f"--{name}={value}")
        if said is None:
            assert allowed_empty and value == "", f"--{name}={value} is taken"
        else:
            assert name in said and "Traceback" not in said, said


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_does_by_default_is_taken(program):
    assert refused(program) is None


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_name_that_nothing_has_is_refused(program):
    for name in own(program):
        if kind_of(own(program)[name]) == "list" and name not in ("columns", "freeze", "label_names"):
            assert name in (refused(program, f"--{name}=no_such_thing") or "")


@pytest.mark.parametrize(
    ("program", "argv", "said"),
    [
        ("finetune_text", ["--steps=0"], "flag --steps=0: "),
        ("finetune_text", ["--seed=9223372036854775808"], "is not an integer in the range [0, "),
        ("finetune_text", ["--optimizer=adawm"], "optimizer 'adawm' is unknown: did you mean adamw"),
        ("finetune_text", ["--optimizer=adamw,adamw"], "must have each item once"),
        (
            "finetune_text",
            ["--optimizer=salsa", "--learning_rate=0.1"],
            "--learning_rate needs an optimizer",
        ),
        ("finetune_text", ["--warmup=1"], "must be in [0, 1)"),
        (
            "finetune_text",
            ["--optimizer=salsa,pla_sls", "--warmup=0.2"],
            "--warmup needs an optimizer that",
        ),
        ("finetune_text", ["--optimizer=adam_sls", "--head_rate=2"], "--head_rate needs an optimizer that"),
        (
            "pretrain",
            ["--optimizer=salsa", "--warmup=0.2"],
            "--warmup needs an optimizer that takes a rate",
        ),
        ("finetune_text", ["--head_rate=0"], "must be above 0, or the new head would not be trained"),
        ("finetune_image", ["--head_rate=0"], "must be above 0, or the new head would not be trained"),
        ("finetune_image", ["--test=x.npz"], "--test goes with --data"),
        ("finetune_image", ["--image_size=8"], "--image_size goes with --data"),
        ("finetune_image", ["--dropout=0.1"], "--dropout is of a ViT"),
        ("finetune_image", ["--remat=dots"], "--remat is of a ViT"),
        ("finetune_image", ["--augment=none,crop"], "must be crop, flip, both, or none"),
        ("finetune_image", ["--image_size=100000", "--data=x"], "--image_size=100000"),
        ("pretrain", ["--vocab_size=99999999999"], "--vocab_size=99999999999"),
        ("pretrain", ["--vocab_size=2000000"], "--vocab_size=2000000"),
        ("pretrain", ["--batch_size=1000000000"], "--batch_size=1000000000"),
        ("pretrain", ["--heads=3"], "--heads must divide --hidden_size"),
        ("pretrain", ["--downstream="], "--downstream needs --objective=masked"),
        ("pretrain", ["--objective=masked", "--downstream='"], "No closing quotation"),
        ("compare_optimizers", ["--learning_rates="], "--learning_rates"),
        ("compare_optimizers", ["--learning_rates=1e-3,0.001"], "must be different numbers above 0"),
        ("compare_optimizers", ["--learning_rates=0"], "must be different numbers above 0"),
        ("compare_optimizers", ["--budget=0"], "must be in [1e-9, 1e9]"),
        ("compare_optimizers", ["--optimizers=stacking"], "optimizer 'stacking' is unknown"),
        ("studies.heterogeneity.study", ["--optimizers=adam"], "must hold adam and sgd"),
        ("studies.heterogeneity.study", ["--models=gpt"], "must be among "),
        ("irreducible_losses", ["--hidden_size=63"], "must be a multiple of 4"),
        ("studies.line_search.study", ["--methods=adam,sgd"], "must be among adam, adam_head, salsa"),
        ("studies.line_search.study", ["--methods=salsa"], "must hold adam"),
        ("studies.line_search.study", ["--rows=50,0"], "must be different numbers that are whole and above 0"),
        ("studies.low_bit.study", ["--width=63"], "must be even"),
        ("studies.low_bit.study", ["--low_rate=0"], "must be above 0"),
        ("studies.low_bit.study", ["--forms=int3"], "must be some of float32, int8, int4"),
        ("studies.low_bit.study", ["--forms=int4"], "--forms without float32 needs --keep"),
        ("studies.low_bit.study", ["--optimizers=salsa"], "needs no learning rate"),
        ("plan", ["--optimizer=clip:adawm"], "optimizer 'adawm' is unknown"),
        (
            "plan",
            ["--optimizer=clap:adam"],
            "a wrapper must be one of clip, guard, update_guard, low_bit, int4, float8, rounded, got 'clap'",
        ),
        ("plan", ["--optimizer=salsa"], "salsa needs value, grad, value_fn: plan a whole step"),
        ("plan", ["--model=gpt5"], "or a config.json, got 'gpt5'"),
        ("plan", ["--length=16"], "--length, --remat and --precision are of a whole step: give --batch"),
        ("plan", ["--remat=layers"], "--length, --remat and --precision are of a whole step: give --batch"),
        ("pmap_digits", ["--optimizer=adawm"], "optimizer 'adawm' is unknown: did you mean adamw"),
        (
            "pmap_digits",
            ["--optimizer=sophia_g"],
            "draws labels from logits, which this program does not provide",
        ),
        ("finetune_image", ["--optimizer=optax:lion", "--model=/a/vit"], "--learning_rate is needed"),
        (
            "pretrain",
            ["--optimizer=adamw,optax:lion"],
            "--learning_rate is needed: there is no default learning rate",
        ),
        ("compare_optimizers", ["--optimizers=optax:lion"], "--learning_rates is needed: there is no default"),
        ("compare_optimizers", ["--optimizers=salsa_class"], "'salsa_class' has no weight decay: it must be 0"),
        (
            "finetune_text",
            ["--optimizer=no_such:tx"],
            "optimizer 'no_such:tx' cannot be imported: ModuleNotFound",
        ),
        ("finetune_text", ["--optimizer=optax:no_such"], "cannot be imported: AttributeError"),
        ("finetune_text", ["--optimizer=optax:adamw"], "--learning_rate is needed: there is no default"),
    ],
)
def test_what_does_not_go_together_is_said(program, argv, said):
    assert said in (refused(program, *argv) or "nothing")


@pytest.mark.parametrize(
    "argv",
    [
        ["--optimizer=salsa", "--head_rate=2"],  # its step sizes are multiplied
        ["--optimizer=salsa,adamw", "--warmup=0.2", "--learning_rate=0.1", "--head_rate=2"],
        ["--optimizer=pla_sls"],
    ],
)
def test_a_flag_that_one_of_the_optimizers_heeds_is_taken(argv):
    assert refused("finetune_text", *argv) is None


def test_digits_of_another_script_are_the_numbers_that_they_are():
    with command.arguments("x", ["--output=x", "--steps=\N{FULLWIDTH DIGIT ONE}2"], finetune_text.FLAGS):
        assert finetune_text.FLAGS.steps == 12


def test_flags_have_their_values_again():
    before = {name: finetune_text.FLAGS[name].value for name in finetune_text.FLAGS}
    with command.arguments("x", ["--output=x", "--steps=12", "--optimizer=lion"], finetune_text.FLAGS):
        assert finetune_text.FLAGS.optimizer == ["lion"]
    assert {name: finetune_text.FLAGS[name].value for name in finetune_text.FLAGS} == before


def call(main, own, *argv):
    with flagsaver.flagsaver():
        command.parse(["program", *argv], own)
        command.guarded(main)


@pytest.mark.parametrize(
    ("downstream", "said"),
    [
        ("--steps=0", "error: --downstream: flag --steps=0: "),
        ("--optimizer=adawm", "error: --downstream: flag --optimizer=['adawm']: optimizer 'adawm' is unknown"),
        ("--data=nowhere.csv", "error: --downstream: nowhere.csv: "),
        ("--test=x.csv", "error: --downstream: --test goes with the training examples of --data"),
        ("--length=1000", "error: --downstream: --length=1000: the model reads at most 128 tokens"),
        ("--learning_rate=nan", "error: --downstream: flag --learning_rate=nan: must be finite"),
        ("--nosuchflag=1", "error: --downstream: Unknown command line flag 'nosuchflag'"),
        ("train.csv", "error: --downstream: flags must begin with --, got train.csv"),
    ],
)
def test_what_is_to_follow_is_refused_before_anything_is_trained(tmp_path, capsys, downstream, said):
    argv = ["--objective=masked", f"--downstream={downstream}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as exit:
        call(pretrain.main, pretrain.FLAGS, *argv)
    assert exit.value.code == command.EXIT_USAGE
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith(said), lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mesh", "fits"), [("data:1", True), ("data:1,model:1", True), ("data:1,model:2", False)]
)
def test_a_mesh_along_which_nothing_is_split_is_refused(monkeypatch, mesh, fits):
    real = devices.training.make_mesh
    one = devices.jax.devices()[0]
    count = 1 if fits else 2
    monkeypatch.setattr(devices.training, "make_mesh", lambda description: real(description, [one] * count))
    with flagsaver.flagsaver():
        flags.FLAGS(["program"])
        flags.FLAGS.mesh = mesh
        if fits:
            assert devices.layout().share == (0, 1)
        else:
            with pytest.raises(ValueError, match=r"--mesh=data:1,model:2: .* along model .* --mesh=data:2"):
                devices.layout()


def test_a_mesh_must_not_be_empty():
    with flagsaver.flagsaver():
        flags.FLAGS(["program"])
        flags.FLAGS.mesh = ""
        with pytest.raises(ValueError, match='a mesh must be described as in "data:4,model:2", got ""'):
            devices.layout()


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_every_flag_of_the_program(program, monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    saved = flagsaver.save_flag_values(own(program))
    try:
        own(program).join(program)
    finally:
        flagsaver.restore_flag_values(saved, own(program))
    shown = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(program)}
    assert shown == set(own(program))
    assert {flag.name for flag in flags.FLAGS.flags_by_module_dict()[program]} == shown  # of --helpfull


@pytest.mark.long
@pytest.mark.parametrize("flag", ["--help", "--helpfull"])
def test_help_is_no_error(flag):
    done = subprocess.run(
        [sys.executable, "-m", "examples.predict", flag], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode == 0
        and "--run:" in done.stdout
        and ("--[no]debug" in done.stdout) == (flag == "--helpfull")
    )


@pytest.mark.parametrize("program", ["finetune_image", "finetune_text", "pretrain"])
def test_a_rate_of_zero_trains_nothing_and_is_refused(program):
    saved = flagsaver.save_flag_values(own(program))
    try:
        with pytest.raises(flags.IllegalFlagValueError, match=r"learning_rate=0\.0: must be above 0"):
            own(program)([program, "--output=x", "--learning_rate=0"])
    finally:
        flagsaver.restore_flag_values(saved, own(program))
