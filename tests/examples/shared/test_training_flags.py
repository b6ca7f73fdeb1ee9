"""How long a trainer trains, which parameters it keeps, and which run it begins with."""

import dataclasses
import json
from fractions import Fraction

import jax
import numpy as np
import optax
import pytest
from absl.testing import flagsaver

import optimiz
from examples import finetune_text, pretrain
from examples.shared import command, optimizers, training_flags, warm_start
from examples.shared.train_each import Plan
from optimiz import training
from tests.training import tiny


def parsed(*argv, program=finetune_text):
    """What is refused of arguments, in one line, or the plan for 100 examples."""
    saved = flagsaver.save_flag_values(program.FLAGS)
    try:
        with command.arguments("flags", ["--output=runs/x", *argv], program.FLAGS):
            return Plan.of(program.FLAGS, 100, log_every=5)
    except ValueError as error:
        return " ".join(str(error).split())
    finally:
        flagsaver.restore_flag_values(saved, program.FLAGS)


@pytest.mark.parametrize("epochs", ["1", "3", "0.1", "0.3", "0.001", "2.5"])
def test_epochs_are_as_many_updates_as_begin_within_them(epochs):
    for batch_size in (1, 3, 10, 32, 1000):
        exact = Fraction(epochs) * 100 / batch_size
        plan = parsed(f"--epochs={epochs}", f"--batch_size={batch_size}")
        assert plan.settings.steps == max(-(-exact.numerator // exact.denominator), 1)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--epochs=2", "--steps=150"], "--epochs replaces --steps; give one of them"),
        (["--epochs=0"], "flag --epochs=0.0: must be above 0"),
        (["--epochs=1e12"], "--epochs=1e+12 are 3,125,000,000,000 updates, more than 2,147,483,647"),
        (["--clip=0"], "flag --clip=0.0: must be above 0"),
        (["--clip=1", "--optimizer=salsa"], "--clip needs an optimizer that takes a rate"),
        (
            ["--schedule=cosine", "--optimizer=schedule_free_adamw", "--learning_rate=1"],
            "--schedule needs an optimizer that takes a",
        ),
        (["--state=int2"], "value should be one of <float32|bfloat16|int8|float8|int4>"),
        (["--schedule=step"], "value should be one of <cosine|linear|constant>"),
        (["--accumulate=5"], "--accumulate must divide --batch_size"),
        (["--keep=first"], """keep 'first' must be "last", "best", "best:METRIC" or a number of at least 1"""),
        (["--keep=0"], "keep '0' must be"),
        (["--keep=best:"], "keep 'best:' must be"),
        (["--keep=9999999999"], "keep '9999999999' must be"),
        (
            ["--keep=best:f1"],
            "keep 'best:f1' must name a metric of the evaluation: loss, accuracy, macro_f1, mcc",
        ),
        (["--patience=3"], "--patience needs --keep=best, or --keep=best:METRIC"),
        (["--patience=3", "--keep=5"], "--patience needs --keep=best, or --keep=best:METRIC"),
        (
            ["--patience=3", "--keep=best", "--evaluate_every=0"],
            "--patience needs evaluations in between: --evaluate_every must be above 0",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(argv, said):
    assert said in parsed(*argv)


def test_what_is_best_has_the_direction_of_its_metric():
    by = lambda *argv, **of: (  # noqa: E731
        (settings := parsed(*argv, **of).settings).keep_best,
        settings.lower_is_better,
    )
    assert by() == (None, None)
    assert by("--keep=best") == ("loss", True)
    assert by("--keep=best:accuracy", "--patience=2") == ("accuracy", False)
    for metric in pretrain.METRICS:
        assert by(f"--keep=best:{metric}", program=pretrain) == (metric, True)
    assert parsed("--keep=7").settings.keep == 7


@pytest.mark.parametrize("name", training_flags.SCHEDULES)
def test_an_update_is_that_of_the_clipped_gradient_at_the_rate_of_the_schedule(name):
    flags = ["--optimizer=optax:sgd", "--learning_rate=3", "--warmup=0.25", "--steps=8", "--weight_decay=0"]
    plan = parsed(*flags, f"--schedule={name}", "--clip=0.5")
    tx, _ = plan.optimizer(optimizers.choose("optax:sgd"), optimizers.one_rate)
    params, gradient = {"w": np.zeros(2, np.float32)}, {"w": np.float32([3, 4])}  # of norm 5
    state, found = tx.init(params), []
    for _ in range(8):
        updates, state = tx.update(gradient, state, params)
        found.append(updates["w"])
    x = (np.arange(8) / 8 - 0.25) / 0.75  # of the way after the warm-up
    after = {"cosine": (1 + np.cos(np.pi * x)) / 2, "linear": 1 - x, "constant": 1 + 0 * x}[name]
    rates = 3 * np.where(x < 0, np.arange(8) / 2, after)
    np.testing.assert_allclose(found, -rates[:, None] * [0.3, 0.4], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "size"), [("float32", 8), ("bfloat16", 4), ("int8", 2), ("float8", 2), ("int4", 1)]
)
def test_the_state_is_stored_in_the_format_of_the_flag(name, size):
    plan = parsed(f"--state={name}", "--clip=1")
    tx, _ = plan.optimizer(optimizers.choose("adamw"), optimizers.one_rate)
    params = {"w": jax.ShapeDtypeStruct((64, 512), np.float32)}
    assert optimiz.state_bytes(tx, params).per_parameter == pytest.approx(size, rel=0.07)
    assert plan.decisive["state"] == name


def resumed(output, *argv):
    """A run of tiny.task by the plan of some flags, in a directory where it may have begun; and its record."""
    plan = parsed("--evaluate_every=2", "--warmup=0", "--learning_rate=0.01", *argv)
    plan = dataclasses.replace(plan, output=output, resume=True)
    choices = [optimizers.choose(name) for name in NAMES]
    task, identity = plan.begun(tiny.task(), {"steps": plan.settings.steps, "seed": 0}, choices)
    with training.claimed(output, identity, resume=True):
        chosen = plan.optimizers(choices, optimizers.one_rate)
        return {name: made for name, *made in plan.train_each(chosen, task, tiny.task().evaluate, identity)}


NAMES = ("adamw", "schedule_free_sgd")


@pytest.mark.quick(1)
@pytest.mark.parametrize("more", ["--keep=last", "--average=ema:0.9", "--clip=1", "--keep=best"])
def test_more_steps_at_a_constant_rate_are_those_of_a_run_that_was_longer_from_the_start(tmp_path, more):
    flags = ["--schedule=constant", more]
    resumed(tmp_path / "run", "--steps=4", *flags)
    longer = resumed(tmp_path / "run", "--steps=6", *flags)
    whole = resumed(tmp_path / "whole", "--steps=6", *flags)
    for name in NAMES:
        both = [(tmp_path / of / name / "metrics.jsonl").read_bytes() for of in ("run", "whole")]
        assert both[0] == both[1] and longer[name][1].test == whole[name][1].test
        jax.tree.map(np.testing.assert_array_equal, longer[name][0], whole[name][0])
        assert longer[name][1].extra == whole[name][1].extra
    with pytest.raises(training.OtherSettings, match=r"settings\.steps was 6, is 4"):
        resumed(tmp_path / "run", "--steps=4", *flags)


@pytest.mark.parametrize(
    ("names", "flags"),
    [
        (["adamw"], ["--schedule=linear"]),
        (["schedule_free_sgd", "adamw"], ["--schedule=cosine"]),
        (["adamw"], ["--schedule=constant", "--warmup=0.1"]),
        (["adamw"], ["--schedule=constant", "--average=tail:0.5"]),
        (["adamw"], ["--schedule=constant", "--keep=best", "--patience=2"]),
        (["adamw", "salsa"], ["--schedule=constant"]),
    ],
)
def test_what_follows_the_steps_has_them_in_its_identity(names, flags):
    identities = []
    for argv, chosen in ((flags, names), ([], ["schedule_free_sgd"])):
        plan = parsed("--warmup=0", "--learning_rate=0.01", f"--optimizer={','.join(chosen)}", *argv)
        choices = map(optimizers.choose, chosen)
        identities.append(plan.begun(tiny.task(), {"steps": 6, "seed": 0}, choices)[1])
    assert identities == [{"steps": 6, "seed": 0}, {"seed": 0}]


def test_the_last_parameters_are_tested_if_what_is_best_was_never_finite_and_this_is_said(tmp_path, capsys):
    plan = dataclasses.replace(parsed("--steps=1", "--keep=best:accuracy"), output=tmp_path)
    task = tiny.task(evaluate=lambda params: {"loss": 1.0, "accuracy": np.nan})
    chosen = {"sgd": (optax.sgd(0.1), 0.1)}
    ((_, params, made),) = plan.train_each(chosen, task, lambda params: {"loss": 1.0}, {})
    assert "warning: sgd: accuracy was never finite: the last parameters are" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, params, training.load_params(tmp_path / "sgd"))
    assert "kept" not in made.extra


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of classes a and b."""
    directory = tmp_path_factory.mktemp("run")
    identity = {"label_names": ["a", "b"], "vocabulary": "123"}
    training.fit(tiny.task(), optax.sgd(0.1), tiny.settings(steps=2), directory, identity=identity)
    return directory


def test_a_run_begins_with_the_parameters_of_another(run, tmp_path):
    identity = {"label_names": ["a", "b"], "vocabulary": "123", "seed": 0}
    task, more = warm_start.begun(tiny.task(), identity, str(run))
    begun = task.init(jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, begun, training.load_params(run))
    assert more.keys() - identity.keys() == {"init"} and len(more["init"]) == 64
    result = training.fit(task, optax.sgd(0.0), tiny.settings(steps=1), tmp_path, identity=more)
    jax.tree.map(np.testing.assert_array_equal, result.params, begun)


@pytest.mark.parametrize(
    ("change", "width", "said"),
    [
        (
            {"label_names": ["b", "a"]},
            8,
            r"its classes are not those .*: label_names is \['a', 'b'\] there, \['b',",
        ),
        ({"vocabulary": "456"}, 8, "its tokens are not those of this run: vocabulary is 123 there, 456 here"),
        ({"adapted": "78"}, 8, "its frozen parameters are not those of .*: adapted is absent there, 78 here"),
        ({}, 9, r"does not fit: \.params\['w1'\] is float32\[4, 8\] there, \[4, 9\] here"),
    ],
)
def test_parameters_of_another_meaning_or_shape_are_refused(run, change, width, said):
    identity = {"label_names": ["a", "b"], "vocabulary": "123"} | change
    with pytest.raises(ValueError, match=f"--init=.*: .*{said}"):
        warm_start.begun(tiny.task(width), identity, str(run))


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"there is no run\.json; a run is a directory such as runs/mine/adamw"
    ):
        warm_start.begun(tiny.task(), {}, str(tmp_path))
    for name in ("lion", "adamw"):
        (tmp_path / "of/mine" / name).mkdir(parents=True)
        (tmp_path / "of/mine" / name / "run.json").write_text("{}")
    (tmp_path / "of/mine/run.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"mine holds the runs adamw, lion; choose one, such as --init=.*/mine/adamw"
    ):
        warm_start.begun(tiny.task(), {}, str(tmp_path / "of/mine"))
    (tmp_path / "run.json").write_text(json.dumps({"identity": []}))
    with pytest.raises(ValueError, match="label_names is absent there"):
        warm_start.begun(tiny.task(), {"label_names": ["a"]}, str(tmp_path))
    with pytest.raises(ValueError, match="holds no checkpoint"):
        warm_start.begun(tiny.task(), {}, str(tmp_path))
    assert training_flags.kept("last") == {}
