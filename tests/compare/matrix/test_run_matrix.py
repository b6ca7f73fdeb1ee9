"""A matrix ends the same however often it was stopped, and refuses what cannot be compared."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import optimiz
from optimiz import compare, diagnostics, training
from optimiz.compare import report
from optimiz.compare.matrix import runs as matrix_runs
from optimiz.training import compiled_step
from optimiz.training.storage import checkpoint
from tests.compare import small
from tests.compare.small import ONE, SEARCH
from tests.training import layered, test_model_state

ROOT = Path(__file__).parents[3]


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def without_timings(runs):
    return [dataclasses.replace(run, seconds=1.0, compile_seconds=1.0) for run in runs]


def rendered(runs):
    return report.render(small.record(without_timings(runs)), metric="accuracy")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return small.run(tmp_path_factory.mktemp("uninterrupted"), ONE)


@pytest.fixture(scope="module")
def all_arms(tmp_path_factory):
    seen = []
    runs = small.run(tmp_path_factory.mktemp("all"), progress=seen.append)
    return runs, seen


def test_each_arm_decays_fully_on_its_own_clock_from_the_same_beginning(all_arms):
    runs, _ = all_arms
    assert [(run.optimizer, run.learning_rate, run.seed) for run in runs] == [
        (name, rate, seed) for name, rate in (("sgd", 0.5), ("sgd", 1e38), ("search", None)) for seed in (0, 1)
    ]
    sgd, _, _, _, search, _ = runs
    # Ten steps of 0.1 s; a step with three evaluations costs 0.4 s, and the third one crosses the budget.
    assert (sgd.steps, sgd.reference_seconds) == (10, 1.0)
    assert (search.steps, search.reference_seconds) == (3, pytest.approx(1.2))
    assert (sgd.forward_equivalents, search.forward_equivalents) == (3 * 10, (3 + 3) * 3)
    rates = [row["learning_rate"] for row in sgd.history if "loss" in row]
    assert rates == pytest.approx([0.5 * (1 - i / 10) for i in range(10)], abs=1e-6)
    assert [row["evaluations"] for row in search.history if "loss" in row] == [3, 6, 9]
    beginnings = {seed: {run.fingerprint for run in runs if run.seed == seed} for seed in (0, 1)}
    assert [len(found) for found in beginnings.values()] == [1, 1] and beginnings[0] != beginnings[1]
    first_losses = {round(run.history[0]["loss"], 5) for run in runs}
    assert len(first_losses) == 2  # one a seed


def test_an_arm_that_diverges_is_kept(all_arms):
    runs, _ = all_arms
    diverged = [run for run in runs if run.learning_rate == 1e38]
    for run in diverged:
        assert run.diverged_at == run.steps - 1 == run.history[-1]["step"]
        assert run.test == {"loss": None, "accuracy": None} and run.history[-1]["loss"] is None
        assert run.forward_equivalents == 3 * run.steps
    record = small.record(runs)
    assert record.scores(diverged, "accuracy", "test") == [float("-inf")] * 2
    assert "sgd diverged in 2 of 4 runs." in report.in_words(record, metric="accuracy")


def test_progress_is_over_the_whole_matrix(all_arms):
    _, seen = all_arms
    assert [progress.run for progress in seen] == sorted(progress.run for progress in seen)
    shares = [progress.share for progress in seen]
    # What a run that diverges has spent is read from its row, where it is float32.
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(shares))
    assert shares[-1] == pytest.approx(1) and seen[-1].seconds_left == 0
    assert str(seen[-1]).startswith("6/6  0 min left  search  seed 1  step 3  100.0% of the budget")


def not_a_number(params, batch, key):
    return small.loss(params, batch, key) * np.nan


def test_a_first_run_that_diverges_at_once_leaves_an_unknown_time(tmp_path):
    of_nan, seen = lambda seed: dataclasses.replace(small.task_of(seed), loss=not_a_number), []
    chosen = small.grid("sgd", [0.5], optimiz.sgd)
    runs = small.run(tmp_path, chosen, task_of=of_nan, progress=seen.append)
    assert [run.diverged_at for run in runs] == [0, 0]
    assert seen[0].seconds_left is None and str(seen[0]).startswith("1/2  sgd 0.5  seed 0  step ")


def test_seeds_share_a_compiled_step_and_the_results_stay_the_same(uninterrupted, tmp_path):
    first, second = uninterrupted
    assert second.compile_seconds < 0.2 * first.compile_seconds
    compiled_step.compile_step.cache_clear()
    (alone,) = small.run(tmp_path, ONE, seeds=[1])
    assert alone.history == second.history and alone.test == second.test


@pytest.mark.parametrize("point", ["first save", "second save", "write", "rmtree", "fit"])
def test_killed_at_any_point_it_resumes_to_the_same_report(point, uninterrupted, tmp_path, monkeypatch):
    owner, name, on = {
        "first save": (checkpoint, "save", 1),
        "second save": (checkpoint, "save", 2),
        "write": (compare.Run, "write", 2),
        "rmtree": (matrix_runs.shutil, "rmtree", 2),
        "fit": (training, "fit", 2),
    }[point]
    function, calls = getattr(owner, name), []

    def killed_before(*args, **kwargs):
        calls.append(point)
        if len(calls) == on:
            raise Killed
        return function(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, name, killed_before)
        small.run(tmp_path, ONE)
    resumed = small.run(tmp_path, ONE)
    assert rendered(resumed) == rendered(uninterrupted)
    assert not list(tmp_path.rglob("checkpoints/*"))


@pytest.mark.long
def test_a_killed_process_resumes_to_the_same_report(tmp_path, uninterrupted):
    command = [sys.executable, "-m", "tests.compare.small", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "search/seed_0/result.json").exists()
    assert rendered(small.run(tmp_path, ONE)) == rendered(uninterrupted)


def test_what_is_finished_is_read_and_not_run_again(uninterrupted, tmp_path, monkeypatch):
    small.run(tmp_path, ONE)
    monkeypatch.setattr(training, "fit", None)
    assert rendered(small.run(tmp_path, ONE)) == rendered(uninterrupted)


def test_a_result_that_is_cut_short_is_made_again(uninterrupted, tmp_path, caplog):
    small.run(tmp_path, ONE)
    path = tmp_path / "search/seed_1/result.json"
    path.write_text(path.read_text()[:500])
    assert rendered(small.run(tmp_path, ONE)) == rendered(uninterrupted)
    assert f"{path} is not a complete record" in caplog.text and "the run is repeated" in caplog.text


def test_a_result_that_was_changed_is_made_again(uninterrupted, tmp_path, caplog):
    small.run(tmp_path, ONE)
    path = tmp_path / "search/seed_1/result.json"
    text = path.read_text()
    path.write_text(re.sub(r'"accuracy": [0-9.]+', '"accuracy": 0.999', text))
    assert path.read_text() != text
    assert rendered(small.run(tmp_path, ONE)) == rendered(uninterrupted)
    assert f"{path} is not a complete record: run differs from its SHA-256: the run is repeated" in caplog.text


def test_a_result_of_another_schema_or_other_settings_is_refused(tmp_path):
    small.run(tmp_path, ONE, seeds=[0])
    with pytest.raises(training.RunError, match=r"settings\.budget was 1\.0, is 2\.0"):
        small.run(tmp_path, ONE, seeds=[0], settings=training.Settings(budget=2.0))
    path = tmp_path / "search/seed_0/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1}))
    with pytest.raises(ValueError, match=r"result\.json has record schema 1, this version reads 2"):
        small.run(tmp_path, ONE, seeds=[0])


def test_forward_passes_at_twice_the_price_leave_half_the_steps(tmp_path):
    steps = {}
    for forward in (0.05, 0.1):
        (run,) = small.run(
            tmp_path / str(forward),
            ONE,
            seeds=[0],
            reference=small.prices(step=1e-6, forward=forward, hessian=1.0),
            settings=training.Settings(budget=1.5),
        )
        steps[forward] = run.steps
    assert steps == {0.05: 10, 0.1: 5}


def test_an_optimizer_whose_step_costs_more_gets_fewer_of_them(tmp_path):
    prices = {
        name: small.prices(step=step, forward=1e-6, hessian=1.0) for name, step in (("a", 0.1), ("b", 0.3))
    }
    arms = [arm for name in prices for arm in small.grid(name, [0.5], optimiz.sgd)]
    given = {"seeds": [0], "settings": training.Settings(budget=1.2)}
    runs = small.run(tmp_path, arms, reference=prices, **given)
    assert [run.steps for run in runs] == [12, 4]
    assert small.run(tmp_path, arms, reference=prices, **given) == runs
    with pytest.raises(ValueError, match=r"^reference must have the prices of every optimizer, got none of b$"):
        small.run(tmp_path / "none", arms, reference={"a": prices["a"]}, **given)
    with pytest.raises(TypeError, match=r"^reference\['b'\] must be a training\.Reference"):
        small.run(tmp_path / "none", arms, reference=prices | {"b": 0.3}, **given)


def unpaid(schedule):
    """Evaluates the loss and does not count it."""
    return optax.chain(optax.sgd(schedule), optax.scale_by_backtracking_linesearch(3))


def needs_hessian(schedule):
    def update(updates, state, params=None, *, hessian, **extra_args):
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"chosen": []}, ValueError, "arms must have at least one entry, got none"),
        ({"chosen": ONE * 2}, ValueError, "arms must all be different, got search twice"),
        (
            {"chosen": [ONE[0], dataclasses.replace(ONE[0], name="Search")]},
            ValueError,
            "arms must differ in more than case and spaces, got 'search' and 'Search'",
        ),
        ({"seeds": []}, ValueError, "seeds must have at least one entry, got none"),
        ({"seeds": [1, 1]}, ValueError, "seeds must all be different, got 1 twice"),
        ({"seeds": [-1]}, ValueError, r"each seed must be in \[0, "),
        ({"metric": "f1"}, ValueError, "evaluate does not return the metric 'f1'; it returns loss, accuracy"),
        (
            {"metric": "harm"},
            ValueError,
            r"metric 'harm' has no known direction: give lower_is_better=\['harm'\] or higher_is_better=",
        ),
        (
            {"metric": "harm", "lower_is_better": ["harm"]},
            ValueError,
            "evaluate does not return the metric 'harm'",
        ),
        ({"metric": None}, TypeError, "metric must be a name such as 'accuracy', got None"),
        ({"test": lambda params: {"accuracy": "high"}}, ValueError, "test must return numbers by name, got"),
        ({"test": lambda params: [0.5]}, ValueError, r"test must return numbers by name, got \[0.5\]"),
        (
            {"test": lambda params: {"loss": 0.0}},
            ValueError,
            "test does not return the metric 'accuracy'; it returns loss",
        ),
        (
            {"reference": small.prices(step=0.1)},
            ValueError,
            r"search cannot be trained on this task: the reference lacks forward\(batch=8\)",
        ),
        (
            {"chosen": [*small.grid("lbfgs", [None], unpaid)]},
            ValueError,
            "lbfgs cannot be trained .* calls value_fn",
        ),
        (
            {"chosen": [*small.grid("newton", [None], needs_hessian)]},
            ValueError,
            "newton cannot be trained on this task: .*'hessian'",
        ),
        (
            {"chosen": small.grid("sophia_g", [0.1], lambda rate: optimiz.sophia_g(rate, classes=3))},
            ValueError,
            "sophia_g 0.1 cannot be trained on this task: gauss_newton_bartlett needs logits_fn",
        ),
        (
            {"task_of": lambda seed: dataclasses.replace(small.task_of(seed), evaluate=None)},
            ValueError,
            "the task must have an evaluate function",
        ),
        ({"chosen": ONE[0]}, TypeError, r"arms must be a list of compare.Arm; got Arm\("),
        ({"chosen": ["adamw"]}, TypeError, r"arms\[0\] must be a compare.Arm; got 'adamw'"),
        ({"seeds": 3}, TypeError, "seeds must be a list of integers; got 3"),
        ({"task_of": small.task_of(0)}, TypeError, r"task_of must be a function, seed → training.Task; got"),
        ({"task_of": lambda seed: None}, TypeError, r"task_of\(0\) must be a training.Task; got None"),
        (
            {"extra": {"a": 1}},
            TypeError,
            r"extra must be a function, \(arm, seed, result\) → plain JSON, or None",
        ),
        ({"settings": 100}, TypeError, "settings must be a training.Settings; got 100"),
        ({"lower_is_better": "accuracy_gap"}, TypeError, r"such as \['accuracy_gap'\], got 'accuracy_gap'"),
        (
            {"chosen": [compare.Arm("sgd", None, optimiz.sgd)]},
            ValueError,
            r"sgd cannot be trained on this task: sgd\(\) missing 1 required",
        ),
        (
            {"chosen": [compare.Arm("sgd", 0.1, lambda rate: optimiz.sgd)]},
            ValueError,
            r"sgd 0.1 cannot be trained on this task: what make returns must be .* call it: sgd\(…\)",
        ),
        (
            {"chosen": [compare.Arm("sgd", 0.1, lambda: optimiz.sgd(0.1))]},
            ValueError,
            r"sgd 0.1 cannot be trained on this task: .*takes 0 positional arguments but 1 was given",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        small.run(tmp_path / "matrix", **{"chosen": ONE} | changes)
    assert not (tmp_path / "matrix").exists()


def test_a_task_that_begins_differently_every_time_is_refused(tmp_path):
    calls = []

    def task_of(seed):
        calls.append(seed)
        return small.task_of(seed + len(calls))

    arms = [compare.Arm(name, None, lambda: SEARCH) for name in ("one", "other")]
    with pytest.raises(ValueError, match="task_of must be a pure function: from seed 0, other does not start"):
        small.run(tmp_path, arms, seeds=[0], task_of=task_of)


@pytest.mark.long
def test_arms_may_train_by_methods_on_what_they_make_of_the_task(tmp_path):
    selection = training.Methods(selection=training.RhoLoss(batch=8))
    batches = layered.task(size=16).batches
    arms = [
        compare.Arm("plain", 0.1, optimiz.sgd),
        compare.Arm(
            "rho",
            0.1,
            optimiz.sgd,
            methods=selection,
            adapt=lambda task: dataclasses.replace(task, batches=batches),
        ),
    ]

    def run():
        return compare.run_matrix(
            arms,
            [0],
            lambda seed: layered.task(),
            training.Settings(budget=1.5),
            tmp_path,
            identity={},
            metric="loss",
            reference=layered.PRICES,
        )

    plain, rho = run()
    assert (plain.steps, rho.steps) == (4, 3)  # of 0.45 s and of 0.45 + 0.24 s
    assert (plain.forward_equivalents, rho.forward_equivalents) == (3 * 4, (3 + 2) * 3)
    assert plain.fingerprint != rho.fingerprint
    described = json.loads((tmp_path / "rho_0.1" / "seed_0" / "run.json").read_text())
    assert described["methods"] == {"selection": {"name": "rho_loss", "batch": 8}}
    assert run() == [plain, rho]


def test_runs_keep_what_describes_their_arm_and_what_is_computed_of_their_result(tmp_path):
    half = compare.Arm("search.half", None, lambda: SEARCH, extra={"share": 0.5, "of": ("a", "b")})
    chosen = [*small.arms()[1:2], half]

    def extra(arm, seed, result):
        return {"arm": arm.name, "seed": seed, "norm": float(result.params["w"].sum() ** 2)}

    runs = small.run(tmp_path, chosen, extra=extra)
    assert [(run.extra["arm"], run.extra["seed"]) for run in runs] == [
        (name, seed) for name in ("sgd", "search.half") for seed in (0, 1)
    ]
    assert runs[0].diverged_at is not None and runs[0].extra["norm"] is None
    assert runs[2].extra["share"] == 0.5 and runs[2].extra["of"] == ["a", "b"] and runs[2].extra["norm"] >= 0
    assert small.run(tmp_path, chosen, extra=extra) == runs
    with pytest.raises(training.RunError, match=r"identity\.extra\.share was 0\.5, is 0\.25"):
        small.run(tmp_path, [dataclasses.replace(half, extra={"share": 0.25, "of": ["a", "b"]})])


def test_an_arm_whose_description_is_no_json_is_refused():
    with pytest.raises(TypeError, match=r"extra of sgd\['make'\] must be plain JSON, got"):
        compare.Arm("sgd", 0.1, lambda: SEARCH, extra={"make": optimiz.sgd})


@pytest.mark.parametrize(
    ("name", "rate", "error", "message"),
    [
        ("../up", 0.1, ValueError, r"name must be letters, .* got '\.\./up'"),
        ("", 0.1, ValueError, "name must be letters, .* got ''"),
        ("sgd", 0, ValueError, r"learning_rate of sgd must be in \(0, inf\), got 0"),
        ("sgd", "fast", TypeError, "learning_rate of sgd must be a number, got 'fast'"),
    ],
)
def test_an_arm_is_refused_by_name(name, rate, error, message):
    with pytest.raises(error, match=message):
        compare.Arm(name, rate, lambda: SEARCH)


def test_an_arm_whose_make_is_an_optimizer_is_told_what_makes_one():
    with pytest.raises(TypeError, match=r"make of sgd must be a function of the learning rate .*, such as opt"):
        compare.Arm("sgd", 0.1, optimiz.sgd(0.1))


@pytest.mark.long
def test_a_model_with_a_state_is_compared_at_the_state_that_it_has_learnt(tmp_path):
    task, settings = test_model_state.linen(), training.Settings(steps=4)
    arms = [compare.Arm("sgd", 0.1, optimiz.sgd)]
    run = lambda name, **more: compare.run_matrix(  # noqa: E731
        arms, [0], lambda seed: task, settings, tmp_path / name, identity={}, metric="loss", **more
    )[0]
    (tested, validated) = run("a", test=task.evaluate), run("b")
    alone = training.fit(task, optimiz.sgd, settings, tmp_path / "alone", identity={}, learning_rate=0.1)
    right = float(task.evaluate(alone.params, model_state=alone.model_state)["loss"])
    assert tested.test == validated.test == {"loss": right}
    assert tested.fingerprint == validated.fingerprint and "gini_norm" in tested.heterogeneity


def test_a_damaged_directory_is_left_alone(tmp_path):
    small.run(tmp_path, ONE, seeds=[0])
    shutil.rmtree(tmp_path / "search/seed_0")
    (tmp_path / "search/seed_0").mkdir()
    (tmp_path / "search/seed_0/thesis.txt").write_text("mine")
    with pytest.raises(training.RunError, match="is not empty and holds no run"):
        small.run(tmp_path, ONE, seeds=[0])


def test_the_noise_of_the_gradient_is_measured_before_and_after_a_run(tmp_path):
    runs = small.run(tmp_path, ONE, seeds=[0], noise_batches=50)
    rows = [row for row in runs[0].history if "noise" in row]
    assert [row["step"] for row in rows] == [0, runs[0].steps]
    task = small.task_of(0)
    params = task.init(training.train_state.keys(0)[0])
    gradient = jax.jit(jax.grad(lambda p, batch: small.loss(p, batch, None).mean()))
    means = []
    for step in range(50):
        gradients = gradient(params, dict(task.batches(step)))
        means.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradients)]).astype(float))
    trace = 8 * np.sum(np.var(means, axis=0, ddof=1))
    noise = rows[0]["noise"]
    tails = noise.pop("tails")
    assert tails["kurtosis"] == pytest.approx(diagnostics.gradient_tails(np.array(means)).kurtosis, abs=1e-3)
    assert noise == {
        "trace": pytest.approx(trace, rel=1e-4),
        "squared_norm": pytest.approx(np.sum(np.mean(means, axis=0) ** 2) - trace / 400, rel=1e-4),
        "batch_size": 8,
        "batches": 50,
    }
    scale = noise["trace"] / noise["squared_norm"]
    text = report.render(small.record(runs), metric="accuracy")
    assert "## How noisy are the gradients?" in text and f"| search | 8 | {scale:.3g} |" in text
    assert f"| search | {rows[1]['noise']['tails']['kurtosis']:.3g} |" in text
    with pytest.raises(ValueError, match="noise_batches must be 0, or at least 2 to show any noise, got 1"):
        small.run(tmp_path / "other", ONE, noise_batches=1)
