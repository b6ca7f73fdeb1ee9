"""The judgement of ways to pre-train: which of them beat a fully decayed AdamW on one budget of reference time.

Every way is tuned over a grid of rates, one run each from seed 0 at the whole budget; the rate whose validation
loss is lowest in the end is run from the other seeds too. All schedules are decayed when the budget is spent,
but for that of the arm that is wrong on purpose. Every model is then fine-tuned on the topics of Python's own
sentences. Runs are kept in ``runs/``, and what the report is made of in ``rows.jsonl``.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from examples.irreducible_losses import TOKENIZER
from examples.shared import terminal
from examples.shared.prices import given_or_measured
from examples.shared.rows import Rows
from examples.studies.pretraining import recipes, report
from examples.studies.pretraining.downstream import Downstream
from examples.studies.pretraining.recipes import BASELINE, Setting, half_way
from examples.studies.pretraining.report import UNTRAINED, final_loss
from optimiz import compare, training

_LOOKS = (0.125, 0.25, 0.5, 0.75)  # shares of the budget


def judge(
    setting: Setting,
    grid: Sequence[compare.Arm],
    *,
    sizes: Mapping[str, Any],
    budget: float,
    seeds: int,
    given: training.Reference | None,
    output: Path,
    resume: bool,
    asked: str,
) -> str:
    """Run what is missing, write the report, and return the part of it that is the result.

    Args:
        setting: what all ways share.
        grid: every way at every rate, the baseline among them.
        sizes: from which the setting was made, as plain JSON.
        budget: of each run, in seconds of reference time.
        seeds: runs of each way at its best rate.
        given: prices; None to measure them.
        output: a directory.
        resume: go on with what is there.
        asked: the command, as typed.

    Raises:
        RunError: the directory cannot be claimed.
        ValueError: a way cannot be run.
    """
    identity = dict(sizes) | setting.identity()
    with training.claimed(output, identity | {"budget": budget}, resume), terminal.matrix_bar() as progress:
        training.write_whole(output / TOKENIZER, setting.problem.vocabulary.tokenizer.to_str(pretty=True))
        about = dict(sizes) | {"batch_size": setting.batch_size}
        measure = functools.partial(recipes.prices, setting, about)
        reference = given_or_measured(given, measure, output / "reference.json")
        downstream, told = Downstream(setting.problem, output / "encoder"), setting.problem.evaluation("test")

        def test(params: Any) -> dict[str, float]:
            return {"loss": told(params)["loss"], "accuracy": downstream(params)["accuracy"]}

        def run(chosen: Sequence[compare.Arm], seeds: Sequence[int]) -> list[compare.Run]:
            return compare.run_matrix(
                chosen,
                seeds,
                setting.task,
                training.Settings(budget=budget, log_every=20, evaluate_at=_LOOKS),
                output / "runs",
                identity=identity,
                figure="loss",
                reference=reference,
                test=test,
                progress=progress,
            )

        settings = dict(identity) | {"budget": budget, "reference": reference.prices()}
        settings |= {"reference_date": reference.date}
        # Before the runs: rows of other settings are refused before hours of work.
        with Rows(output / "rows.jsonl", settings, report.fields) as rows:
            tuned = [row_of(run) for run in run(grid, [0])]
            best: dict[str, compare.Arm] = {}
            for arm, _ in sorted(zip(grid, tuned, strict=True), key=lambda pair: final_loss(pair[1])):
                best.setdefault(arm.name, arm)
            wrong = half_way(setting, best[BASELINE].learning_rate)
            chosen = [arm for arm in grid if arm is best[arm.name]]
            final = [row_of(run) for run in run([*chosen, wrong], range(seeds))]
            for row in [*final, *({**row, "test": None} for row in tuned)]:  # what was not chosen is not tested
                if not rows.has(arm=row["arm"], learning_rate=row["learning_rate"], seed=row["seed"]):
                    rows.add(row)
            for seed in range(seeds):
                if not rows.has(arm=UNTRAINED, seed=seed):
                    start = setting.problem.start(jax.random.key(seed))
                    rows.add({"arm": UNTRAINED, "learning_rate": None, "seed": seed, "test": test(start)})
            return rows.reported(lambda rows: report.write(rows, output, asked))


def row_of(run: compare.Run) -> dict[str, Any]:
    """What the report is made of."""
    updates, values = run.validation("loss")
    shares = [spent / run.budget for spent in run.spent(updates)]
    kept = "learning_rate seed steps diverged_at seconds compile_seconds reference_seconds"
    return {
        "arm": run.optimizer,
        **{name: getattr(run, name) for name in kept.split()},
        "test": dict(run.test),
        "validation": [[round(share, 4), loss] for share, loss in zip(shares, values, strict=True)],
    }
