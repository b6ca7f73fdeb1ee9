"""A resumed run may be extended if nothing in it depends on its number of steps."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import schedules, training
from optimiz.training import RunError, Settings
from tests.training import tiny


def run(directory, tx, steps, task=None, methods=training.Methods(), **more):  # noqa: B008
    settings = Settings(steps=steps, log_every=2)
    return training.fit(
        task or tiny.task(evaluate=lambda params: {"loss": 0.5}),
        tx,
        settings,
        directory,
        identity={},
        methods=methods,
        **more,
    )


def updates(result):
    return [row for row in result.history if "loss" in row]


CONSTANT = {
    "a number": lambda steps: optimiz.adamw(0.01),
    "Optax's schedule": lambda steps: optax.adamw(optax.warmup_constant_schedule(0.0, 0.01, 3)),
    "stable until later": lambda steps: optax.sgd(optax.piecewise_constant_schedule(0.01, {9: 0.1})),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("make", CONSTANT.values(), ids=CONSTANT)
def test_an_extended_run_equals_one_that_was_longer_from_the_start(tmp_path, make):
    run(tmp_path / "run", make(4), 4)
    longer = run(tmp_path / "run", make(7), 7, resume=True)
    whole = run(tmp_path / "whole", make(7), 7)
    assert longer.steps == 7 and updates(longer) == updates(whole)
    assert np.asarray(longer.params["w1"]).tobytes() == np.asarray(whole.params["w1"]).tobytes()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["steps"] == 7
    assert run(tmp_path / "run", make(7), 7, resume=True).history == longer.history
    with pytest.raises(RunError, match=r"settings\.steps was 7, is 4"):
        run(tmp_path / "run", make(4), 4, resume=True)


BOUND = {
    "bound anew": (lambda steps: optimiz.adamw(schedules.over_steps(schedules.linear(0.01), steps))),
    "of Optax, bound anew": (lambda steps: optax.adamw(optax.cosine_decay_schedule(0.01, steps))),
    "other betas": (lambda steps: optimiz.adamw(0.01, b1=0.9 if steps == 4 else 0.8)),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("make", BOUND.values(), ids=BOUND)
def test_what_depends_on_the_steps_is_refused_and_the_run_left_as_it_was(tmp_path, make):
    first = run(tmp_path, make(4), 4)
    with pytest.raises(
        RunError, match=r"settings\.steps was 4, is 7, and this changes the step: a schedule"
    ) as refused:
        run(tmp_path, make(7), 7, resume=True)
    assert "\n" not in str(refused.value)
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["steps"] == 4
    assert run(tmp_path, make(4), 4, resume=True).history == first.history


@pytest.mark.long
def test_layers_that_are_dropped_by_the_steps_and_growth_are_refused(tmp_path):
    from tests.training import layered

    dropping = training.Methods(layer_drop=training.LayerDrop(gamma=100.0))
    growing = training.Methods(growth=training.Growth(depths=(1, 2), at=(0.5,)))
    for name, methods, message in (
        ("drop", dropping, r"settings\.steps was 4, is 7, and this changes the step"),
        ("growth", growing, r"other settings: settings\.steps was 4, is 7"),
    ):
        task = layered.task(depth=1 if name == "growth" else 2)
        run(tmp_path / name, optax.sgd(0.1), 4, task, methods)
        with pytest.raises(RunError, match=message):
            run(tmp_path / name, optax.sgd(0.1), 7, task, methods, resume=True)


def test_settings_other_than_the_steps_are_still_refused(tmp_path):
    run(tmp_path, optax.sgd(0.1), 4)
    settings = Settings(steps=7, seed=1)
    with pytest.raises(training.OtherSettings, match=r"seed was 0, is 1; settings\.steps was 4") as refused:
        training.fit(tiny.task(), optax.sgd(0.1), settings, tmp_path, identity={}, resume=True)
    assert refused.value.names == ("settings.seed", "settings.steps")
    assert jnp.isfinite(run(tmp_path, optax.sgd(0.1), 4, resume=True).params["w1"]).all()


def test_a_schedule_that_has_reached_zero_is_named(tmp_path, caplog):
    """Bound to the old steps it would hold zero: nothing would be trained, and nothing said."""
    ended = optimiz.adamw(schedules.over_steps(schedules.linear(0.01), 4))
    run(tmp_path / "run", ended, 4)
    assert not caplog.records
    message = "a schedule is bound to 4 steps and 0 from then on, but steps is 7"
    with pytest.raises(RunError, match=message):
        run(tmp_path / "run", ended, 7, resume=True)
    run(tmp_path / "new", optimiz.adamw(schedules.over_steps(schedules.linear(0.01), 4)), 7)
    assert message in caplog.text


def test_a_run_whose_schedule_holds_a_rate_continues(tmp_path, caplog):
    held = optimiz.adamw(schedules.over_steps(schedules.warmup_constant(0.01, 0.5), 4))
    run(tmp_path, held, 4)
    assert run(tmp_path, held, 7, resume=True).steps == 7
    assert not caplog.records
