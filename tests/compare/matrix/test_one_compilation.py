"""An optimizer's step is compiled once for all learning rates and seeds; the results do not depend on that."""

import jax.monitoring
import pytest

import optimiz
from optimiz import compare, schedules, training
from optimiz.training import compiled_step
from tests.compare import small

RATES, STEPS = (0.3, 0.1, 0.03), 6


def over_budget(rate):
    return optimiz.adamw(schedules.over_budget(schedules.warm_up(schedules.cosine(rate), 0.1)))


def over_steps(rate):
    return optimiz.sgd_sai(schedules.over_steps(schedules.linear(rate), STEPS))


def searching(rate):
    return optimiz.salsa(init_step=rate)


def branching(rate):
    return optimiz.sgd(rate if rate > 0.05 else 0.05)


OVER_STEPS = {"settings": training.Settings(steps=STEPS, log_every=2), "reference": None}


def rates_of(make, rates=RATES):
    return [compare.Arm(make.__name__, rate, make) for rate in rates]


@pytest.fixture
def compilations(monkeypatch):
    """What the test compiles, of training steps and initial states."""
    compiled_step.compile_step.cache_clear()
    found = []

    def listen(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            name = about["fun_name"]
            found.extend(kind for kind in ("train", "init") if name.startswith(f"jit({kind}"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (optimiz.adamw, OVER_STEPS),
        (over_steps, OVER_STEPS),
        (searching, {}),
        (over_budget, {}),
    ],
)
def test_a_step_is_compiled_once_for_all_rates_and_seeds(make, changes, compilations, tmp_path):
    runs = small.run(tmp_path, rates_of(make), **changes)
    assert len(runs) == 6 and sorted(compilations) == ["init", "train"]
    first_losses = {run.seed: run.history[0]["loss"] for run in runs}
    assert all(run.history[0]["loss"] == pytest.approx(first_losses[run.seed]) for run in runs)
    ends = {run.learning_rate: run.test["loss"] for run in runs if run.seed == 0}
    assert len(set(ends.values())) > 1


@pytest.mark.long
def test_rates_that_are_not_listed_together_share_a_step_too(compilations, tmp_path):
    arms = [arm for pair in zip(rates_of(optimiz.adamw), rates_of(over_steps), strict=True) for arm in pair]
    runs = small.run(tmp_path, arms, seeds=[0], **OVER_STEPS)
    assert [(run.optimizer, run.learning_rate) for run in runs] == [
        (arm.name, arm.learning_rate) for arm in arms
    ]
    assert sorted(compilations) == ["init"] * 2 + ["train"] * 2


@pytest.mark.long
@pytest.mark.parametrize("make", [over_budget, searching])
def test_a_rate_has_the_same_results_alone_and_among_others(make, tmp_path):
    among = {(run.learning_rate, run.seed): run for run in small.run(tmp_path / "all", rates_of(make))}
    compiled_step.compile_step.cache_clear()
    (alone,) = small.run(tmp_path / "alone", rates_of(make, RATES[1:2]), seeds=[1])
    other = among[RATES[1], 1]
    assert (alone.history, alone.test, alone.fingerprint) == (other.history, other.test, other.fingerprint)
    settings = training.Settings(budget=1.0, log_every=3, evaluate_at=(0.5,), seed=1)
    fitted = training.fit(
        small.task_of(1),
        make,
        settings,
        tmp_path / "fit",
        identity={},
        learning_rate=RATES[1],
        reference=small.PRICES,
    )
    assert fitted.history == alone.history


@pytest.mark.long
def test_each_rate_is_its_own(tmp_path):
    runs = small.run(tmp_path / "all", rates_of(over_steps), seeds=[0], **OVER_STEPS)
    for run in runs:
        constant = training.fit(
            small.task_of(0),
            over_steps(run.learning_rate),
            OVER_STEPS["settings"],
            tmp_path / str(run.learning_rate),
            identity={},
        )
        rates = [row["learning_rate"] for row in run.history if "loss" in row]
        assert rates == pytest.approx([run.learning_rate * (1 - i / STEPS) for i in range(STEPS)], rel=1e-6)
        assert run.training_loss()[1] == pytest.approx(
            [row["loss"] for row in constant.history if "loss" in row], rel=1e-5
        )


@pytest.mark.long
def test_a_factory_that_needs_the_value_of_the_rate_is_compiled_for_each(compilations, tmp_path, caplog):
    runs = small.run(tmp_path, rates_of(branching), **OVER_STEPS)
    assert len(runs) == 6 and sorted(compilations) == ["init"] * 3 + ["train"] * 3
    rates = [run.per_update("learning_rate")[-1] for run in runs if run.seed == 0]
    assert rates == pytest.approx([0.3, 0.1, 0.05])
    said = [record.message for record in caplog.records if record.name == "optimiz.compare.matrix.preflight"]
    assert len(said) == 1 and said[0].startswith(
        "branching is compiled for each of its 3 learning rates, because make needs the value of the rate: Atte"
    )


def test_what_cannot_be_built_at_one_of_the_rates_is_refused_before_anything_runs(tmp_path):
    def make(rate):
        return optimiz.adamw(rate, 1 - rate)

    with pytest.raises(
        ValueError, match=r"make 3.0 cannot be trained on this task: b1 must be in \[0, 1\), got -2"
    ):
        small.run(tmp_path / "matrix", rates_of(make, (0.1, 3.0, 0.5)), **OVER_STEPS)
    assert not (tmp_path / "matrix").exists()
