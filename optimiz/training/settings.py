"""How long a run trains and how often it logs, evaluates and saves; and what identifies a run."""

import dataclasses
import itertools
import json
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from optimiz import checks
from optimiz.training.budget.clock import check_seconds
from optimiz.training.methods.methods import PLAIN, Methods

_SEEDS = 2**32
_LEAST = {
    "steps": 1,
    "seed": 0,
    "log_every": 1,
    "evaluate_every": 0,
    "save_every": 0,
    "keep": 1,
    "patience": 1,
    "micro_batches": 1,
    "noise_every": 0,
    "compare_replicas_every": 0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to train, and how often to log, evaluate and save.

    Args:
        steps: number of updates, ≥ 1. Under a budget it is an upper limit; None for as many as the budget
            allows.
        budget: reference time to spend, in seconds, in [1e-9, 1e9]; None for a run of ``steps`` updates. A step
            that starts before the budget is spent is completed.
        seed: seed of the initial parameters and of dropout, in [0, 2^32). JAX would map a larger seed to the
            key of one in this range.
        log_every: number of steps after which metrics are logged, ≥ 1. In between, the host does not wait for
            the device.
        evaluate_every: number of steps after which to evaluate; 0 for the end only.
        evaluate_at: fractions of the budget, ascending in (0, 1). An evaluation follows the step that crosses
            each of them, and the last step.
        save_every: number of steps after which to save a checkpoint; 0 for the end only.
        keep: number of newest checkpoints to keep, ≥ 1.
        keep_best: name of the evaluation metric by which the best checkpoint is kept too. It is written after
            every evaluation that is the best so far, and read by ``load_params(directory, "best")``. None for
            no such checkpoint. Once a value of it was finite, a run is resumed with the same metric and
            direction only: the best parameters by another may be gone.
        lower_is_better: whether a lower value of that metric is better. Required with ``keep_best``, and
            allowed only then.
        patience: number of evaluations in a row without a better value of that metric after which the run ends,
            ≥ 1; an equal value, or NaN, is not better. None for a run to the end. It ends a run early and
            changes nothing else, so that a learning rate that decays over ``steps`` has not decayed by then.
        profile: (first, end), indices of updates, 0 ≤ first < end: the updates from the first to the one before
            the end are traced with ``jax.profiler``, into ``profile`` in the run's directory, for TensorBoard,
            XProf or Perfetto. None for no trace.
        micro_batches: number of parts, a divisor of the batch, in which a step computes it one after the other,
            ≥ 1: the same update, up to rounding and the keys of dropout, in less memory. Micro-batch m of n has
            the examples m, m + n, m + 2 n and so on; means are over the weights of the whole batch. With two or
            more, every update's row in ``metrics.jsonl`` has the noise of its gradient.
        noise_every: number of updates from one measurement of the gradient's noise to the next, beginning with
            the first; 0 for none. It takes the gradient of the update's batch once more, in micro-batches, and
            a compilation. It is not charged to a budget, nor part of the seconds of updates.
        compare_replicas_every: number of steps after which the copies of the parameters on the devices of a
            mesh are compared, in addition to before every checkpoint; 0 for before checkpoints only.

    Raises:
        TypeError: a value is not a number, or not an integer where one is required.
        ValueError: a value is outside its range; neither ``steps`` nor ``budget`` is given; ``evaluate_at`` is
            given without a budget; only one of ``keep_best`` and ``lower_is_better`` is given; ``patience`` is
            given without ``keep_best``, or without evaluations before the end; or ``noise_every`` is given with
            micro-batches, which show the noise of every update.
    """

    steps: int | None = None
    budget: float | None = None
    seed: int = 0
    log_every: int = 100
    evaluate_every: int = 0
    evaluate_at: Sequence[float] = ()
    save_every: int = 0
    keep: int = 2
    keep_best: str | None = None
    lower_is_better: bool | None = None
    patience: int | None = None
    profile: tuple[int, int] | None = None
    micro_batches: int = 1
    noise_every: int = 0
    compare_replicas_every: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if name in ("steps", "patience") and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
            object.__setattr__(self, name, int(value))  # NumPy's integers are not JSON
        if self.seed >= _SEEDS:
            raise ValueError(f"seed must be less than 2^32, got {self.seed}")
        if not isinstance(self.evaluate_at, Sequence):
            raise TypeError(f"evaluate_at must be a list of fractions, got {self.evaluate_at!r}")
        if self.budget is not None:
            check_seconds("budget", self.budget)
        elif self.steps is None:
            raise ValueError("steps or budget must be given, got neither")
        elif self.evaluate_at:
            raise ValueError(f"evaluate_at needs a budget, got {self.evaluate_at} without one")
        if (self.keep_best is None) != (self.lower_is_better is None):
            raise ValueError(
                "keep_best and lower_is_better go together, as in keep_best='loss', lower_is_better=True; got "
                f"{self.keep_best!r} and {self.lower_is_better!r}"
            )
        if not isinstance(self.keep_best, str | None) or not isinstance(self.lower_is_better, bool | None):
            raise TypeError(
                "keep_best must be the name of a metric and lower_is_better True or False, got "
                f"{self.keep_best!r} and {self.lower_is_better!r}"
            )
        if self.patience is not None and (
            self.keep_best is None or not (self.evaluate_every or self.evaluate_at)
        ):
            lacking = "keep_best=" if self.keep_best is None else "evaluate_every= or evaluate_at="
            raise ValueError(f"patience needs {lacking}, got patience={self.patience} without it")
        if self.noise_every and self.micro_batches > 1:
            raise ValueError(
                "noise_every must be 0 with micro-batches, which show the noise of every update; got "
                f"noise_every={self.noise_every} and micro_batches={self.micro_batches}"
            )
        if self.profile is not None:
            first, end = _pair("profile", self.profile)
            checks.integer("the first of profile", first, ge=0)
            checks.integer("the end of profile", end, ge=first + 1)
            if self.steps is not None and first >= self.steps:
                raise ValueError(f"profile must begin within the {self.steps} steps, got ({first}, {end})")
        for fraction in self.evaluate_at:
            checks.number("each of evaluate_at", fraction, gt=0, lt=1)
        if any(a >= b for a, b in itertools.pairwise(self.evaluate_at)):
            raise ValueError(f"evaluate_at must ascend, got {self.evaluate_at}")


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{name} must be two integers, such as (10, 15), got {value!r}")
    return value[0], value[1]


def description(
    settings: Settings,
    identity: Mapping[str, Any],
    prices: Mapping[str, float] | None = None,
    methods: Methods = PLAIN,
) -> dict[str, Any]:
    """Describe what decides a run's trajectory and its metrics, as plain JSON.

    How often to log and to save, and how many checkpoints to keep, is not part of it and may change on resume.
    With ``patience``, what is best decides the run's end, and is part of it.

    Args:
        settings: the settings of the run.
        identity: whatever else decides the trajectory, by name.
        prices: seconds of reference time by unit of work, under a budget.
        methods: which layers and examples are trained.

    Raises:
        TypeError: an entry of ``identity`` is not plain JSON; the message names it.
    """
    for name, value in identity.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"identity[{name!r}] is not plain JSON: {error}") from None
    decisive = {name: getattr(settings, name) for name in ("steps", "seed", "evaluate_every")}
    described: dict[str, Any] = {"settings": decisive, "identity": dict(identity)}
    if settings.budget is not None:
        decisive |= {"budget": float(settings.budget), "evaluate_at": [float(x) for x in settings.evaluate_at]}
        described["reference"] = dict(prices or {})
    if settings.micro_batches > 1:
        decisive["micro_batches"] = settings.micro_batches
    if settings.noise_every:
        decisive["noise_every"] = settings.noise_every
    if settings.patience is not None:
        ends = ("keep_best", "lower_is_better", "patience")
        decisive |= {name: getattr(settings, name) for name in ends}
    if methods != PLAIN:
        described["methods"] = methods.described()
    # Serialized and read back, so that a tuple becomes a list, as in a file.
    return json.loads(json.dumps(described))
