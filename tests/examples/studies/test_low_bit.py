import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.studies.low_bit import report as low_bit_report
from examples.studies.low_bit.arms import FORMS, Arm, arms, optimizer
from optimiz import compare
from optimiz.methods import METHODS
from tests.compare import records

ROOT = Path(__file__).parents[3]
SIZES = {"task": "language", "length": 8, "batch_size": 2, "steps": 10, "seeds": 2}


def run(arguments):
    """The study, as a person runs it."""
    given = (f"--{name}={value}" for name, value in arguments.items())
    command = [sys.executable, "-m", "examples.studies.low_bit.study", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return SIZES | {"data": tmp_path / "text.txt", "output": tmp_path / "study"}


@pytest.mark.long
def test_a_study_is_reported_and_continues_where_it_was_stopped(arguments):
    arguments |= {"optimizers": "sgd_sai"}
    output, done = arguments["output"], run(arguments)
    assert done.returncode == 0, done.stderr
    record = compare.Record.read(output / "record.json")
    settings = dict(record.settings)
    assert settings.pop("fingerprint") and settings == {
        name: arguments[name] for name in ("task", "steps", "batch_size", "length")
    } | {"width": 64, "data": "text.txt"}
    ran = [(run.extra["form"], run.learning_rate, run.seed) for run in record.runs]
    rate = METHODS["sgd_sai"].from_scratch_rate
    assert ran == [(form, rate, seed) for form in ("float32", "int8", "int4") for seed in range(2)]
    # One start and one batch, and then rounding; another of both from another seed.
    wide, another, narrow, _, narrowest, _ = (run.extra for run in record.runs)
    assert narrow["loss"][0] == pytest.approx(wide["loss"][0], abs=1e-5) != another["loss"][0]
    assert wide["loss"] != narrow["loss"]
    assert wide["loss"][-1] < wide["loss"][0]
    assert record.runs[2].test["loss"] == pytest.approx(record.runs[0].test["loss"], rel=0.01)
    # Parameters and momentum; rows of 64 have a scale each, a sixteenth of a byte an entry.
    assert wide["bytes_per_parameter"] == pytest.approx(8, abs=0.01) and 5 < narrow["bytes_per_parameter"] < 5.2
    assert 4.5 < narrowest["bytes_per_parameter"] < narrow["bytes_per_parameter"] - 0.45
    assert (output / "report.md").read_text() == low_bit_report.render(record)
    assert (output / "curves.png").stat().st_size > 10_000

    (begun,) = output.glob("runs/sgd_sai.float32*/seed_0")
    shutil.rmtree(begun)  # as if it had been stopped before this run
    again = run(arguments)
    assert again.returncode == 0 and "1/6" in again.stdout and "2/6" not in again.stdout
    assert [run.extra for run in compare.Record.read(output / "record.json").runs] == [
        run.extra for run in record.runs
    ]

    # One form alone, next to the others of the record, and not of another study's.
    alone = arguments | {"forms": "int4", "keep": output / "record.json", "output": output.parent / "alone"}
    done = run(alone)
    assert done.returncode == 0 and "2/2" in done.stdout
    kept = compare.Record.read(alone["output"] / "record.json")
    assert [run.extra for run in kept.runs] == [run.extra for run in record.runs]
    assert kept.command == record.command
    done = run(alone | {"steps": 11, "output": output.parent / "other"})
    assert done.returncode != 0 and "has the settings" in done.stderr


@pytest.mark.long
def test_every_form_of_adamw_trains_and_plain_bfloat16_stalls_at_the_low_rate(arguments):
    done = run(arguments | {"optimizers": "adamw", "steps": 30})
    assert done.returncode == 0, done.stderr
    moved, sizes = {}, {}
    runs = low_bit_report.by_arm(compare.Record.read(arguments["output"] / "record.json"))
    for arm, by_seed in runs.items():
        for found in by_seed.values():
            moved[arm], sizes[arm.form] = found.extra["moved"], found.extra["bytes_per_parameter"]
            assert found.extra["loss"][-1] < found.extra["loss"][0] and np.isfinite(found.test["loss"])
    assert list(moved) == arms(["adamw"], 3e-5, from_scratch=True)
    low = {arm.form: share for arm, share in moved.items() if arm.learning_rate == 3e-5}
    assert low["bf16"] < low["bf16 stochastic"] < low["float32"]
    assert sizes["float32"] == pytest.approx(12, abs=0.01) and 4 < sizes["int8 bf16 stochastic"] < 4.5


def test_the_arms():
    named = arms(["adamw", "lion"], 1e-5, from_scratch=False)
    own = [arm for arm in named if arm.learning_rate != 1e-5]
    assert [arm.form for arm in own if arm.optimizer == "adamw"] == list(FORMS)
    assert [arm.form for arm in own if arm.optimizer == "lion"] == ["float32", "int8", "int4"]
    rates = {METHODS[name].fine_tuning_rate for name in ("adamw", "lion")}
    assert {arm.learning_rate for arm in own} == rates
    low = [arm for arm in named if arm not in own]
    assert {arm.optimizer for arm in low} == {"adamw"} and {"bf16", "bf16 stochastic"} < {a.form for a in low}
    assert all(arm.base in named for arm in named)
    assert {arm.learning_rate for arm in arms(["lion"], 1.0, from_scratch=True)} == {
        METHODS["lion"].from_scratch_rate
    }
    with pytest.raises(ValueError, match="optimizer 'lyon' is unknown: did you mean lion"):
        arms(["lyon"], 3e-5, from_scratch=True)
    with pytest.raises(ValueError, match="optimizer 'salsa' needs no learning rate"):
        arms(["salsa"], 3e-5, from_scratch=True)
    with pytest.raises(ValueError, match="optimizer 'optax:lion' has no default learning rate"):
        arms(["optax:lion"], 3e-5, from_scratch=False)


@pytest.mark.quick(2)
@pytest.mark.parametrize(("form", "moves"), [("bf16", False), ("bf16 stochastic", True), ("bf16 kahan", True)])
def test_at_the_low_rate_plain_bfloat16_does_not_move(form, moves):
    # Steps of at most 3e-5, and from 2⁻⁷ up half the distance of neighbours is 2⁻¹⁵ = 3.05e-5.
    params = {"kernel": jnp.full((8, 8), 0.015, jnp.bfloat16)}
    tx = optimizer("adamw", form, 3e-5, 20, from_scratch=True)
    state, now = tx.init(params), params
    for _ in range(20):
        updates, state = tx.update({"kernel": jnp.ones((8, 8), jnp.bfloat16)}, state, now)
        now = optax.apply_updates(now, updates)
    assert bool((now["kernel"] != params["kernel"]).any()) == moves
    if moves:  # by the sum of the rates: up over two steps, down over eighteen
        moved = float((params["kernel"].astype(jnp.float32) - now["kernel"].astype(jnp.float32)).mean())
        assert moved == pytest.approx(3e-5 * 10, rel=0.2)


def runs_of(losses):
    """Runs of AdamW: form → losses by seed."""
    runs = [
        records.run(
            f"adamw.{form.replace(' ', '_')}",
            None,
            rate=0.1,
            seed=seed,
            test={"loss": loss if math.isfinite(loss) else None},
            extra={
                "optimizer": "adamw",
                "form": form,
                "bytes_per_parameter": 4.0,
                "moved": 0.5,
                "loss": [3.0, 1.0],
            },
        )
        for form, of_form in losses.items()
        for seed, loss in enumerate(of_form)
    ]
    return low_bit_report.by_arm(records.record(*runs))


def test_differences_are_paired_by_seed_and_in_percent():
    runs = runs_of({"float32": [1.0, 2.0], "int8": [1.01, 2.04]})
    found = low_bit_report.relative(runs, Arm("adamw", 0.1, "int8"))
    assert found.mean == pytest.approx(1.5) and found.n == 2
    # Of 1 % and 2 %: a standard error of 0.5, and Student's t of 12.7.
    assert found.low == pytest.approx(1.5 - 12.706 * 0.5, abs=1e-3)
    assert "| 50.0 | 4.00 |" in low_bit_report.table(runs)


@pytest.mark.parametrize(
    ("form", "losses", "message"),
    [
        ("int8", [1.001, 2.002, 1.001], "**within** 0.3 %;"),
        ("int8", [1.01, 2.04, 1.01], "**beyond** 0.3 %, which the interval leaves open;"),
        ("int8", [1.02, 2.041, 1.02], "**beyond** 0.3 %;"),
        ("bf16 stochastic", [1.004, 2.008, 1.0041], "**within** 0.5 %;"),
        ("bf16", [1.02, 2.041, 1.02], "significantly worse;"),
        ("bf16", [0.98, 1.961, 0.98], "significantly better;"),
        ("bf16", [0.9, 2.2, 1.0], "no significant difference;"),
        ("bf16", [float("inf"), 2.0, 1.0], "**diverged**;"),
        ("int8", [float("nan"), 2.0, 1.0], "**diverged**;"),
    ],
)
def test_the_words_follow_from_the_numbers(form, losses, message):
    assert message in low_bit_report.in_words(runs_of({"float32": [1.0, 2.0, 1.0], form: losses}))


@pytest.mark.long
def test_a_mistake_is_one_line_and_leaves_nothing(arguments):
    done = run(arguments | {"task": "file"})
    assert done.returncode == 2 and "--task=file needs --data and --validation" in done.stderr
    assert done.stderr.count("\n") == 1 and not arguments["output"].exists()
