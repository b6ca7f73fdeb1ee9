"""Controls of a comparison on text: models that should be worse than a trained one, if the setting matters."""

from collections.abc import Callable, Sequence

import jax

from examples.shared.budget_arms import head_alone
from examples.shared.train_each import made_or_left_out
from examples.tasks.text_classification import TextClassification
from optimiz import compare


def controls(
    problem: TextClassification,
    baseline: compare.Arm,
    run_matrix: Callable[..., list[compare.Run]],
    left_out: dict[str, str],
    *,
    seeds: Sequence[int],
    batch_size: int,
    trained: bool,
) -> dict[str, list[dict[str, float | None]]]:
    """Test metrics, for each seed, of models that should be worse than the baseline.

    Args:
        problem: the problem.
        baseline: the first optimizer at its best rate.
        run_matrix: (arms, task_of=, directory=) → runs from every seed, with all else as in the comparison.
        left_out: receives the reason for each that cannot be made.
        seeds: the seeds of the comparison.
        batch_size: examples per update.
        trained: whether to train on half of the data, and the head alone, too.
    """
    test, keys = problem.evaluation("test"), map(jax.random.key, seeds)
    made = {"untrained": lambda: [test(problem.task(batch_size, 0).init(key)) for key in keys]}
    if trained:
        half = lambda seed: problem.task(batch_size, seed, of=0.5)  # noqa: E731
        alone = head_alone(baseline, classes=len(problem.classifier.names))
        made["half of the data"] = lambda: run_matrix([baseline], task_of=half, directory="half_of_the_data")
        made["frozen encoder"] = lambda: run_matrix([alone], directory="frozen_encoder")
    found = {}
    for name, make in made.items():
        if (runs := made_or_left_out(name, left_out, make)) is not None:
            found[name] = [run.test if isinstance(run, compare.Run) else run for run in runs]
    return found
