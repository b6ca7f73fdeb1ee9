"""How long a run goes and when it is looked at, and what makes it this run and no other."""

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
    "compare_replicas_every": 0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to train, and when to look.

    Args:
        steps: number of updates, ≥ 1; under a budget the most of them, None for as many as it pays for.
        budget: reference time to spend, in seconds, in [1e-9, 1e9]; None for a run of so many steps. A
            step that begins before the budget is spent is made, also where it crosses it.
        seed: of the initial parameters and of dropout, in [0, 2^32): of a greater one JAX would make the
            key that one of these has.
        log_every: steps between two looks at the figures, ≥ 1; in between, the host does not wait.
        evaluate_every: steps between two evaluations; 0 for one at the end.
        evaluate_at: fractions of the budget, ascending in (0, 1): there is an evaluation after the step
            that crosses each, and one at the end.
        save_every: steps between two checkpoints; 0 for one at the end.
        keep: number of checkpoints kept, ≥ 1; the newest.
        keep_best: figure of the evaluations by which one checkpoint more is kept: it is written after each
            evaluation that is the best so far, and ``load_params(directory, "best")`` reads it. None for none.
            Of a run that is resumed with another figure, or the other direction, it is the best from then on.
        lower_is_better: whether less of that figure is better; given with ``keep_best``, and only then.
        compare_replicas_every: steps between two comparisons of the copies that the devices of a mesh have of
            the parameters; they are compared before every checkpoint, and 0 is for that alone.

    Raises:
        TypeError: a value that is not a number, or not an integer where one is asked for.
        ValueError: a value outside its range; neither steps nor budget, or fractions of no budget; or of
            ``keep_best`` and ``lower_is_better`` only one.
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
    compare_replicas_every: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
            object.__setattr__(self, name, int(value))  # NumPy's would be no JSON
        if self.seed >= _SEEDS:
            raise ValueError(f"seed must be less than 2^32, got {self.seed}")
        if not isinstance(self.evaluate_at, Sequence):
            raise TypeError(f"evaluate_at must be a list of fractions, got {self.evaluate_at!r}")
        if self.budget is not None:
            check_seconds("budget", self.budget)
        elif self.steps is None:
            raise ValueError("steps or budget must be given, got neither")
        elif self.evaluate_at:
            raise ValueError(f"evaluate_at needs a budget, got {self.evaluate_at} and none")
        if (self.keep_best is None) != (self.lower_is_better is None):
            raise ValueError(
                "keep_best and lower_is_better go together, as in keep_best='loss', lower_is_better=True; got "
                f"{self.keep_best!r} and {self.lower_is_better!r}"
            )
        if not isinstance(self.keep_best, str | None) or not isinstance(self.lower_is_better, bool | None):
            raise TypeError(
                "keep_best must be the name of a figure and lower_is_better True or False, got "
                f"{self.keep_best!r} and {self.lower_is_better!r}"
            )
        for fraction in self.evaluate_at:
            checks.number("each of evaluate_at", fraction, gt=0, lt=1)
        if any(a >= b for a, b in itertools.pairwise(self.evaluate_at)):
            raise ValueError(f"evaluate_at must ascend, got {self.evaluate_at}")


def description(
    settings: Settings,
    identity: Mapping[str, Any],
    prices: Mapping[str, float] | None = None,
    methods: Methods = PLAIN,
) -> dict[str, Any]:
    """Describe what decides a run's trajectory and its metrics, as plain JSON.

    When to look, when to save and how much to keep decide nothing, and may change on resume.

    Args:
        settings: of the run.
        identity: what else decides it.
        prices: seconds of reference time by unit of work, under a budget.
        methods: which layers and examples are trained on.

    Raises:
        TypeError: naming the entry of ``identity`` that is not plain JSON.
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
    if methods != PLAIN:
        described["methods"] = methods.described()
    # There and back, so that a tuple is the list it will be when it is read.
    return json.loads(json.dumps(described))
