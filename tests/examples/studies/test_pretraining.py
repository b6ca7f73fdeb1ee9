"""Recipes for pre-training are tuned and run, and the report's statements follow from the numbers."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

from examples import irreducible_losses
from examples.shared import command
from examples.studies.pretraining import recipes, study
from examples.studies.pretraining.recipes import BASELINE, HALF_WAY, RECIPES
from examples.studies.pretraining.report import UNTRAINED, Results, in_words, table
from optimiz import compare, schedules, training
from optimiz.training import Timing, Work
from tests.compare import records
from tests.examples.test_pretrain import text

SIZES = {"vocab_size": 60, "layers": 1, "hidden_size": 16, "length": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, and prices for up to four layers."""
    path = tmp_path_factory.mktemp("study")
    (path / "text.txt").write_text(text(400))
    times = {Work("forward", 4, 8): 0.8, Work("forward", 1, 8): 0.2, Work("hessian", 4, 4): 1.0}
    times |= {Work("forward", depth, 4): 0.1 * depth for depth in (1, 2, 3, 4)}
    times |= {Work("step", depth, 4): 0.25 * depth for depth in (1, 2, 3, 4)}
    timings = {work: Timing(seconds, 0.0, 1) for work, seconds in times.items()}
    training.Reference(times=timings, about={}).write(path / "prices.json")
    return path


def call(program, name, arguments):
    """A program, in this process."""
    with flagsaver.flagsaver():
        command.parse([name, *(f"--{flag}={value}" for flag, value in arguments.items())], program.FLAGS)
        command.guarded(program.main)


@pytest.fixture(scope="module")
def losses(folder):
    """The directory of irreducible losses."""
    given = SIZES | {"data": folder / "text.txt", "steps": 2, "batch_size": 4, "output": folder / "losses"}
    call(irreducible_losses, "irreducible_losses", given)
    return folder / "losses"


@pytest.fixture
def arguments(folder, tmp_path):
    given = SIZES | {"data": folder / "text.txt", "reference": folder / "prices.json"}
    return given | {"batch_size": 4, "budget": 1.0, "recipes": "adamw", "output": tmp_path / "out"}


def as_if_run(arm, seed):
    """A run whose loss is the lower the nearer its rate is to 0.03; half-way, higher."""
    loss = 4 + abs(math.log10(arm.learning_rate / 0.03)) + 0.1 * seed + 0.5 * (arm.name == HALF_WAY)
    history = [{"step": 0, "loss": 5.0, "fraction": 0.0}, {"steps": 1, "evaluation": {"loss": loss}}]
    spent = {"budget": 1.0, "reference_seconds": 1.0, "steps": 1}
    test = {"loss": loss, "accuracy": 1 / loss}
    return records.run(arm.name, None, rate=arm.learning_rate, seed=seed, history=history, test=test, **spent)


class FakeDownstream:
    examples = 10

    def __init__(self, problem, directory):
        pass

    def __call__(self, params):
        return {"accuracy": 0.1}


@pytest.mark.long
def test_recipes_are_tuned_on_one_seed_then_run_from_all(arguments, monkeypatch, capsys):
    calls = []

    def run_matrix(arms, seeds, **_):
        calls.append(([str(arm) for arm in arms], list(seeds)))
        return [as_if_run(arm, seed) for arm in arms for seed in seeds]

    monkeypatch.setattr(study.compare, "run_matrix", run_matrix)
    monkeypatch.setattr(study, "Downstream", FakeDownstream)
    arguments |= {"recipes": "lion", "learning_rates": "0.01,0.02,0.4", "seeds": 2}
    call(study, "studies.pretraining.study", arguments)
    grid = [f"{name} {rate}" for name in ("adamw", "lion") for rate in (0.01, 0.02, 0.4)]
    assert calls == [(grid, [0]), (["adamw 0.02", "lion 0.02", "adamw_half_way 0.02"], [0, 1])]
    report = (arguments["output"] / "report.md").read_text()
    runs = compare.Record.read(arguments["output"] / "record.json").runs
    assert "| adamw | 0.01: 4.477, **0.02: 4.176**, 0.4: 5.125 | 1 | 1000.00 | 4.226 ± 0.050 |" in report
    assert len(runs) == 6 + 4  # the chosen arms from both seeds, and the rest of the grid, which is not tested
    assert [bool(run.test) for run in runs] == [True] * 6 + [False] * 4
    assert (arguments["output"] / "curves.png").stat().st_size > 10_000
    assert "**lion**, 0.02: test loss 4.226" in capsys.readouterr().out

    call(study, "studies.pretraining.study", arguments | {"resume": True})
    assert compare.Record.read(arguments["output"] / "record.json").runs == runs


@pytest.mark.long
def test_every_recipe_runs(arguments, folder):
    given = SIZES | {"layers": 4, "data": folder / "text.txt", "steps": 2, "output": folder / "four"}
    call(irreducible_losses, "irreducible_losses", given)
    arguments |= {"layers": 4, "budget": 5.0, "seeds": 1, "learning_rates": "1e-3"}
    arguments |= {"recipes": ",".join(RECIPES), "irreducible": folder / "four"}
    call(study, "studies.pretraining.study", arguments)
    assert re.findall(r"^\| (\w+) \|", (arguments["output"] / "report.md").read_text(), re.M)[1:] == [
        *RECIPES, HALF_WAY, UNTRAINED,
    ]  # fmt: skip


@pytest.mark.long
def test_irreducible_losses_cover_exactly_the_training_rows(losses, folder):
    of = irreducible_losses.problem(losses / "tokenizer.json", str(folder / "text.txt"), *SIZES.values())
    found = irreducible_losses.read(losses, of.fingerprint())
    assert found.ids.tolist() == list(range(len(of.rows["train"])))
    assert found.about["steps"] == 2 and found.about["validation_loss"] > 0
    setting = recipes.Setting(of, 4, found)
    recipe = RECIPES["rho_loss"](setting)
    task = recipe.adapt(setting.task(0))
    batch = task.batches(1)
    ids = [setting.task(0).batches(step)["id"] for step in (2, 3)]
    np.testing.assert_array_equal(batch["id"], np.concatenate(ids))
    np.testing.assert_array_equal(batch["irreducible"], found.losses[batch["id"]])
    less = dataclasses.replace(found, ids=found.ids[:3], losses=found.losses[:3])
    with pytest.raises(ValueError, match="there are no irreducible losses for the examples"):
        RECIPES["rho_loss"](recipes.Setting(of, 4, less)).adapt(setting.task(0)).batches(0)


def test_the_half_way_arm_has_half_of_its_schedule_left(folder):
    of = irreducible_losses.problem(Path("nowhere"), str(folder / "text.txt"), *SIZES.values())
    setting = recipes.Setting(of, 4, None)
    made = {"whole": recipes.arms(setting, BASELINE, [0.1])[0], "half": recipes.half_way(setting, 0.1)}
    params, grads = {"kernel": np.ones((2, 2), np.float32)}, {"kernel": np.ones((2, 2), np.float32)}
    moved = {}
    for name, arm in made.items():
        tx = arm.optimizer()
        for spent in (0.5, 1.0):
            with schedules.spending(spent):
                updates, _ = tx.update(grads, tx.init(params), params)
            moved[name, spent] = -float(updates["kernel"][0, 0])
    assert moved["whole", 1.0] == pytest.approx(0, abs=1e-8)
    assert moved["half", 1.0] == pytest.approx(moved["whole", 0.5]) and moved["half", 1.0] > 0.05


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": "lyon"}, "optimizer 'lyon' is unknown: did you mean lion"),
        ({"recipes": "rho_loss"}, "rho_loss needs --irreducible, the directory of"),
        ({"recipes": "stacking"}, "each of depths must be in [1, 2147483647], got 0"),
        ({"irreducible": "nowhere"}, "there are no irreducible losses at nowhere/losses.npz"),
        ({"irreducible": "LOSSES", "length": 17}, "holds irreducible losses of other rows"),
        ({"data": "nowhere.txt"}, "nowhere.txt: no such file or folder"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, losses, capsys, changes, message):
    changes = {name: losses if value == "LOSSES" else value for name, value in changes.items()}
    with pytest.raises(SystemExit) as exit:
        call(study, "studies.pretraining.study", arguments | changes)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and exit.value.code == command.EXIT_USAGE
    assert not arguments["output"].exists()


# --- what the report says ---------------------------------------------------------------------------------


def run(name, rate, seed, loss, accuracy=0.3, diverged_at=None):
    known = diverged_at is None
    return records.run(
        name,
        accuracy,
        rate=rate,
        seed=seed,
        steps=100,
        reference_seconds=1.0,
        diverged_at=diverged_at,
        history=[],
        test={"loss": loss if known else None, "accuracy": accuracy if known else None},
        extra={"validation": [[0.5, 5.0], [1.0, loss]] if known else []},
    )


def results_of(*more, **losses):
    """Runs at one rate: recipe → losses by seed; and more runs."""
    runs = [run(name, 0.1, seed, loss) for name, found in losses.items() for seed, loss in enumerate(found)]
    untrained = {UNTRAINED: [{"loss": 6.0, "accuracy": 0.1}] * 3}
    return Results(dataclasses.replace(records.record(*runs, *more), extra=untrained))


BASE = {BASELINE: [4.0, 4.1, 4.2], HALF_WAY: [4.5, 4.6, 4.71]}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            [3.9, 4.0, 4.11],
            "test loss 4.003 ± 0.061, -0.097 relative to adamw (-0.111 to -0.082), significantly better;",
        ),
        ([4.1, 4.2, 4.31], "significantly worse;"),
        ([3.8, 4.3, 4.1], "no significant difference;"),
        (
            [4.3, 4.4, 4.5],
            "Of these, lion would be a spurious gain: its loss is not below the decayed baseline's.",
        ),
        ([3.9, 4.0, 4.1], "No gain is spurious: these also have a lower loss than the decayed baseline."),
        ([4.3, 4.4, 4.5], "1 of 1 recipes has a lower loss than adamw_half_way, significantly lion."),
        ([4.3, 4.4, 4.5], "0 of 1 recipes have a lower loss than adamw, **none significantly**."),
        (
            [4.0, 4.1, 4.2],
            "accuracy of 0.300 ± 0.000, +0.200 relative to untrained (+0.200 to +0.200), no significant",
        ),
    ],
)
def test_the_words_follow_from_the_numbers(losses, message):
    assert message in in_words(results_of(**BASE, lion=losses))


def test_an_unfair_baseline_that_is_not_worse_misleads_little():
    results = results_of(**{BASELINE: [4.0, 4.1, 4.2], HALF_WAY: [4.0, 4.2, 4.1]}, lion=[4.3, 4.4, 4.5])
    assert "Here, the unfair baseline is not significantly worse than the fair one" in in_words(results)


def test_the_rate_is_that_of_the_lowest_validation_loss_of_seed_0():
    runs = [run("lion", 0.01, 0, 4.3), run("lion", 0.1, 0, 4.4), run("lion", 1.0, 0, 9.0, diverged_at=7)]
    runs += [run("lion", 0.01, seed, 4.3) for seed in (1, 2)]
    results = results_of(*runs, **BASE)
    assert [run.seed for run in results.runs["lion"]] == [0, 1, 2] and results.recipes == ["lion"]
    assert "| lion | **0.01: 4.300**, 0.1: 4.400, 1: diverged | 100 | 10.00 | 4.300 ± 0.000 |" in table(results)
    first = in_words(results).split("\n")[0]
    assert "(**the best rate of lion is at the edge of its grid**: rates beyond may be better)" in first


def test_a_run_that_diverged_is_infinitely_bad():
    words = in_words(results_of(run("lion", 0.1, 2, 9.0, diverged_at=7), **BASE, lion=[3.0, 3.0]))
    assert "test loss inf, **diverged**; accuracy -inf, **diverged**" in words
    assert "0 of 1 recipes have a lower loss than adamw, **none significantly**." in words
