"""A setting in which optimizers are compared: the interface of every task of ``compare_optimizers``."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from examples.shared.optimizers import Choice, one_rate
from examples.shared.train_each import made_or_left_out
from optimiz import compare, training

Metrics = Mapping[str, float | None]
RunMatrix = Callable[..., list[compare.Run]]


def untrained(
    setting: "Setting", best: compare.Arm, run_matrix: RunMatrix, left_out: dict[str, str], seeds: Sequence[int]
) -> dict[str, list[Metrics]]:
    """The control that every task has: the test metrics of the initial parameters, for each seed.

    Args:
        setting: the setting.
        best: the first optimizer at its best rate, for controls that are trained.
        run_matrix: (arms, task_of=, directory=) → runs from every seed, with all else as in the comparison.
        left_out: receives the reason for each control that cannot be made.
        seeds: the seeds of the comparison.
    """
    del best, run_matrix

    def tested(seed: int) -> Metrics:
        task, key = setting.task_of(seed), jax.random.key(seed)
        others = {"model_state": task.model_state, "frozen": task.frozen}
        given = {name: make(key) for name, make in others.items() if make is not None}
        return dict(setting.test(task.init(key), **given))

    found = made_or_left_out("untrained", left_out, lambda: [tested(seed) for seed in seeds])
    return {} if found is None else {"untrained": found}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting.

    Attributes:
        title: what is trained, for the title of the report.
        about: rows of the report that describe it.
        decisive: settings that decide the runs, for the report; those of the comparison are not among them.
        identity: what else decides them, such as a digest of model and data.
        task_of: seed → task; all share one loss.
        test: parameters → test metrics; it takes what else the task keeps, as ``evaluate`` does.
        test_examples: number of examples of the test.
        metrics: metrics of the test, the one that ranks by default first; empty if any may be named.
        choose: name → optimizer, with the rates that suit the task.
        multipliers: multipliers of the rate, by parameter.
        show: shows what is to be known of the data.
        baselines: (reasons for what is left out) → name of what is not trained → part → metrics.
        controls: see `untrained`.
    """

    title: str
    about: Mapping[str, Any]
    decisive: Mapping[str, Any]
    identity: Mapping[str, Any]
    task_of: Callable[[int], training.Task]
    test: Callable[..., Mapping[str, float]]
    test_examples: int
    metrics: Sequence[str]
    choose: Callable[[str], Choice]
    multipliers: Callable[[Any], Any] = one_rate
    show: Callable[[], None] = lambda: None
    baselines: Callable[[dict[str, str]], Mapping[str, Mapping[str, Metrics]]] = lambda left_out: {}
    controls: Callable[..., dict[str, list[Metrics]]] = untrained

    def metric(self, asked: str | None) -> str:
        """The metric that ranks.

        Args:
            asked: the value of ``--metric``; None for the default.

        Raises:
            ValueError: the test has no such metric.
        """
        if asked is None and not self.metrics:
            raise ValueError("--metric must name the metric that ranks")
        if asked is not None and self.metrics and asked not in self.metrics:
            raise ValueError(f"--metric={asked}: the metrics of this task are {', '.join(self.metrics)}")
        return self.metrics[0] if asked is None else asked
