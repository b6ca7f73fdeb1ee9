"""A run whose optimizer is made from a learning rate: its results, what it refuses, and how it resumes."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import schedules, training
from optimiz.training import compiled_step
from tests.training import layered, tiny

SETTINGS = training.Settings(steps=8, log_every=2, save_every=2)


def make(rate):
    return optimiz.adamw(schedules.over_steps(schedules.linear(rate), 8))


def fit(directory, make=make, rate=0.1, task=None, settings=SETTINGS, identity=None, **options):
    task = tiny.task() if task is None else task
    return training.fit(task, make, settings, directory, identity=identity or {}, learning_rate=rate, **options)


def same(first, second):
    assert first.history == second.history
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True):
        np.testing.assert_array_equal(a, b)


class Stopped(BaseException):
    pass


@pytest.mark.long
def test_a_run_that_was_stopped_resumes_to_the_bit_whichever_rate_was_compiled_in_between(tmp_path):
    whole = fit(tmp_path / "whole")

    def stop(progress):
        if progress.steps == 4:
            raise Stopped

    with pytest.raises(Stopped):
        fit(tmp_path / "stopped", progress=stop)
    compiled_step.compile_step.cache_clear()
    fit(tmp_path / "other", rate=0.3)
    same(fit(tmp_path / "stopped", resume=True), whole)


def test_another_rate_is_refused_on_resume(tmp_path):
    fit(tmp_path)
    with pytest.raises(training.RunError, match=r"identity\.learning_rate was 0\.1, is 0\.3"):
        fit(tmp_path, rate=0.3, resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"make": optimiz.adamw(0.1)}, TypeError, "tx, given a learning_rate, must be a function from a"),
        (
            {"make": lambda rate: optimiz.adamw},
            TypeError,
            r"tx\(0.1\) must be an opt",
        ),
        ({"rate": -1.0}, ValueError, r"learning_rate must be in \[0, inf"),
        ({"rate": "fast"}, TypeError, "learning_rate must be a number, got"),
        (
            {"identity": {"learning_rate": 0.2}},
            ValueError,
            r"learning_rate must equal identity\['learning_rate'\], got 0.1 and 0.2",
        ),
    ],
)
def test_what_makes_no_optimizer_of_the_rate_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        fit(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_factory_that_needs_the_value_of_the_rate_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(jax.errors.TracerBoolConversionError) as raised:
        fit(tmp_path, lambda rate: optimiz.sgd(rate if rate > 0 else 1.0))
    assert any("pass tx(learning_rate) instead" in note for note in raised.value.__notes__)


def test_a_schedule_that_ends_before_the_run_is_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fit(tmp_path / "short", settings=training.Settings(steps=10))
        fit(tmp_path / "long", settings=training.Settings(steps=8))
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'short'}: a schedule is bound to 8 steps and 0 from then on, but steps is 10"
    ]


def test_a_schedule_that_the_optimizer_never_calls_is_not_warned_of(tmp_path, caplog):
    def ignoring(rate):
        schedules.over_steps(schedules.linear(rate), 4)
        return optimiz.sgd(rate)

    fit(tmp_path, ignoring)
    assert not caplog.records


def test_the_rate_is_weakly_typed_as_a_python_float_is(tmp_path):
    task = tiny.task()
    fit(tmp_path, optax.sgd, task=task)  # optax.sgd multiplies bfloat16 gradients by the rate
    constant = training.fit(task, optax.sgd(0.1), SETTINGS, tmp_path / "constant", identity={})
    read = training.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["loss"] for row in read if "loss" in row] == pytest.approx(
        [row["loss"] for row in constant.history if "loss" in row], rel=1e-5
    )


@pytest.mark.long
def test_runs_on_a_mesh_take_the_rate_as_an_argument_too(tmp_path):
    layout = training.Layout(training.make_mesh("data:1"))
    same(fit(tmp_path / "first", layout=layout), fit(tmp_path / "again", layout=layout))
    on_mesh = fit(tmp_path / "low", rate=0.01, layout=layout)
    alone = fit(tmp_path / "alone", rate=0.01)
    for a, b in zip(jax.tree.leaves(on_mesh.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(jnp.float32(a), jnp.float32(b), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["layer_drop", *(pytest.param(name, marks=pytest.mark.long) for name in ("growth", "rho_loss"))]
)
def test_methods_train_at_the_rate(name, tmp_path):
    options = {
        "task": layered.task(depth=1 if name == "growth" else 4, size=layered.SIZES.get(name, 8)),
        "methods": layered.METHODS[name],
    }
    runs = [fit(tmp_path / str(rate), optimiz.adamw, rate, **options) for rate in (0.01, 0.1)]
    constant = training.fit(
        options["task"], optimiz.adamw(0.1), SETTINGS, tmp_path / "c", identity={}, methods=options["methods"]
    )
    losses = lambda run: [row["loss"] for row in run.history if "loss" in row]  # noqa: E731
    assert losses(runs[1]) == pytest.approx(losses(constant), rel=1e-4)
    assert losses(runs[0]) != pytest.approx(losses(constant), rel=1e-4)
