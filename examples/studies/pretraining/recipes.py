"""The ways to pre-train that are judged: optimizers, and methods on AdamW that are said to save time.

The methods are as in arXiv 2307.06440: a model that is doubled in depth twice, at 12.5 % and 30 % of the
budget; layers that are dropped at γ = 100; selective back-propagation with β = 1; RHO-loss with the better half
of twice the examples. All are charged for what they do. ``adamw_half_way`` is wrong on purpose: AdamW on a
schedule for twice the budget, read off when the budget is spent, as if a baseline were looked up in the middle
of a longer run.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax

from examples.shared import optimizers
from examples.tasks.objectives import Arrays
from examples.tasks.pretraining import Pretraining
from optimiz import compare, groups, schedules, training

BASELINE, HALF_WAY = "adamw", "adamw_half_way"
WARMUP, WEIGHT_DECAY, GROWN_AT, GAMMA, BETA = 0.1, 0.1, (0.125, 0.3), 100.0, 1.0
# Peak rates in the middle of the grids, for a BERT of four layers and width 64: best, or beyond the better
# edge, of a first go at half the budget, with grids about 1e-3, 3e-4, 3e-4 and 1e-2.
RATES = {"adamw": 1e-3, "lion": 3e-5, "sophia_g": 3e-5, "sgd_sai": 0.1}
_MULTIPLES = (1 / 3, 1, 3)
_TIMED = 50  # steps of each depth, to measure the prices
_PLAIN = training.Methods()


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all ways share.

    Attributes:
        problem: what is learned.
        batch_size: B, rows that are trained on at a step.
        losses: irreducible losses of the training rows; None where no way needs them.
    """

    problem: Pretraining
    batch_size: int
    losses: training.IrreducibleLosses | None

    @property
    def layers(self) -> int:
        """Of the whole model."""
        return self.problem.objective.config.layers

    def task(self, seed: int) -> training.Task:
        """The common task."""
        return self.problem.task(self.batch_size, seed)

    def identity(self) -> dict[str, object]:
        """What of it decides the trajectories, as plain JSON."""
        found = {"batch_size": self.batch_size, "data": self.problem.source, "rows": self.problem.fingerprint()}
        return found if self.losses is None else found | {"irreducible_losses": self.losses.about}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to train; the fields are those of ``compare.Arm``, and the optimizer's name."""

    optimizer: str
    methods: training.Methods = _PLAIN
    adapt: Callable[[training.Task], training.Task] | None = None


def _stacking(setting: Setting) -> Way:
    depth = setting.layers
    growth = training.Growth(depths=(depth // 4, depth // 2, depth), at=GROWN_AT)
    start = functools.partial(setting.problem.start, layers=growth.depths[0])
    adapt = lambda task: dataclasses.replace(task, init=start)  # noqa: E731
    return Way(BASELINE, training.Methods(growth=growth), adapt)


def _layer_drop(setting: Setting) -> Way:
    return Way(BASELINE, training.Methods(layer_drop=training.LayerDrop(gamma=GAMMA)))


def _selective_backprop(setting: Setting) -> Way:
    selection = training.SelectiveBackprop(batch=setting.batch_size, beta=BETA)
    return Way(BASELINE, training.Methods(selection=selection))


def _rho_loss(setting: Setting) -> Way:
    losses = setting.losses
    if losses is None:
        raise ValueError("rho_loss needs --irreducible, the directory of python -m examples.irreducible_losses")

    def adapt(task: training.Task) -> training.Task:
        return dataclasses.replace(task, batches=losses.joined(in_pairs(task.batches)))

    return Way(BASELINE, training.Methods(selection=training.RhoLoss(batch=setting.batch_size)), adapt)


WAYS: dict[str, Callable[[Setting], Way]] = {
    **{name: lambda _, name=name: Way(name) for name in (BASELINE, "lion", "sophia_g", "sgd_sai")},
    "stacking": _stacking,
    "layer_drop": _layer_drop,
    "selective_backprop": _selective_backprop,
    "rho_loss": _rho_loss,
}


def in_pairs(batches: Callable[[int], Arrays]) -> Callable[[int], dict[str, np.ndarray]]:
    """A stream of batches of twice the size, of the same examples in the same order."""

    def pair(step: int) -> dict[str, np.ndarray]:
        first, second = batches(2 * step), batches(2 * step + 1)
        return {name: np.concatenate([x, second[name]]) for name, x in first.items()}

    return pair


def arms(setting: Setting, name: str, rates: list[float] | None) -> list[compare.Arm]:
    """A way at each rate of its grid: those given, or that of ``RATES``, a third of it and three times it.

    Raises:
        ValueError: there is no such way, or the setting does not allow it.
    """
    way = optimizers.choose(name, WAYS)(setting)
    rates = rates or [float(f"{RATES[way.optimizer] * multiple:.3g}") for multiple in _MULTIPLES]
    make = functools.partial(_make, setting, way.optimizer)
    return [compare.Arm(name, rate, functools.partial(make, rate), way.methods, way.adapt) for rate in rates]


def grid(setting: Setting, names: Sequence[str], rates: list[float] | None) -> list[compare.Arm]:
    """Every way at every rate, the baseline first.

    Raises:
        ValueError: as :func:`arms`.
    """
    return [arm for name in dict.fromkeys([BASELINE, *names]) for arm in arms(setting, name, rates)]


def half_way(setting: Setting, rate: float) -> compare.Arm:
    """The wrong baseline: when the budget is spent, half of its schedule is still to come."""
    return compare.Arm(HALF_WAY, rate, functools.partial(_make, setting, BASELINE, rate, share=0.5))


def _make(setting: Setting, name: str, rate: float, share: float = 1.0) -> optax.GradientTransformation:
    """The optimizer on a warm-up and a cosine, of which the budget sees a share."""
    whole = schedules.warm_up(schedules.cosine(rate), WARMUP)
    schedule = schedules.over_budget(lambda spent: whole(share * jnp.asarray(spent)))
    choice = optimizers.from_scratch(name, setting.problem.vocabulary.size)
    return choice.make(schedule, WEIGHT_DECAY, groups.no_decay(), optimizers.one_rate)


def prices(setting: Setting, about: dict[str, object]) -> training.Reference:
    """Measure what the work of all ways costs on this machine: one table, by active layers.

    Args:
        setting: of the runs.
        about: what is timed, plain JSON.
    """
    task = setting.task(0)
    of_pairs = dataclasses.replace(task, batches=in_pairs(task.batches))
    methods = training.Methods(
        layer_drop=training.LayerDrop(), selection=training.RhoLoss(batch=setting.batch_size)
    )
    with schedules.spending(0.0):
        adamw, sophia_g = (_make(setting, name, 1e-3) for name in (BASELINE, "sophia_g"))
    common = training.calibrate(of_pairs, adamw, about=about, n=_TIMED, methods=methods)
    # A step in ten has an estimate in it. All else is charged alike, so of Sophia's this alone counts.
    estimates = training.calibrate(task, sophia_g, about=about, n=10 * _TIMED).times
    times = common.times | {work: taken for work, taken in estimates.items() if work.name == "hessian"}
    return training.Reference(times=times, about=about)
