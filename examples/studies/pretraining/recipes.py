"""Recipes for pre-training: optimizers, and methods on top of AdamW that claim to save time.

The methods are those of arXiv 2307.06440: a model whose depth is doubled twice, at 12.5 % and 30 % of the
budget; layer dropping with γ = 100; selective back-propagation with β = 1; and RHO-loss with the better half of
twice as many examples. Each is charged for all of its work. ``adamw_half_way`` is unfair on purpose: it is
AdamW on a schedule for twice the budget, evaluated when the budget is spent, as if the baseline were read off
in the middle of a longer run.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.shared import optimizers
from examples.tasks.objectives import Arrays
from examples.tasks.pretraining import Pretraining
from optimiz import compare, groups, schedules, training

BASELINE, HALF_WAY = "adamw", "adamw_half_way"
WARMUP, WEIGHT_DECAY, GROWN_AT, GAMMA, BETA = 0.1, 0.1, (0.125, 0.3), 100.0, 1.0
# Centres of the grids of peak rates, for a BERT of four layers and width 64: the best rates of a first sweep
# on half the budget around 1e-3, 3e-4, 3e-4 and 1e-2, or one step beyond the better edge.
RATES = {"adamw": 1e-3, "lion": 3e-5, "sophia_g": 3e-5, "sgd_sai": 0.1}
_MULTIPLES = (1 / 3, 1, 3)
_TIMED = 50  # steps timed at each depth, for the prices
_PLAIN = training.Methods()


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all recipes share.

    Attributes:
        problem: pre-training problem.
        batch_size: rows per update.
        losses: irreducible losses of the training rows; None if no recipe needs them.
    """

    problem: Pretraining
    batch_size: int
    losses: training.IrreducibleLosses | None

    @property
    def layers(self) -> int:
        """Number of layers of the whole model."""
        return self.problem.objective.config.layers

    def task(self, seed: int) -> training.Task:
        """The common task."""
        return self.problem.task(self.batch_size, seed)

    def identity(self) -> dict[str, object]:
        """What decides the trajectories, as plain JSON."""
        found = {"batch_size": self.batch_size, "data": self.problem.source, "rows": self.problem.fingerprint()}
        return found if self.losses is None else found | {"irreducible_losses": self.losses.about}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An optimizer, with the methods and the adapted task of a ``compare.Arm``."""

    optimizer: str
    methods: training.Methods = _PLAIN
    adapt: Callable[[training.Task], training.Task] | None = None


def _stacking(setting: Setting) -> Recipe:
    depth = setting.layers
    growth = training.Growth(depths=(depth // 4, depth // 2, depth), at=GROWN_AT)
    start = functools.partial(setting.problem.start, layers=growth.depths[0])
    adapt = lambda task: dataclasses.replace(task, init=start)  # noqa: E731
    return Recipe(BASELINE, training.Methods(growth=growth), adapt)


def _layer_drop(setting: Setting) -> Recipe:
    return Recipe(BASELINE, training.Methods(layer_drop=training.LayerDrop(gamma=GAMMA)))


def _selective_backprop(setting: Setting) -> Recipe:
    selection = training.SelectiveBackprop(batch=setting.batch_size, beta=BETA)
    return Recipe(BASELINE, training.Methods(selection=selection))


def _rho_loss(setting: Setting) -> Recipe:
    losses = setting.losses
    if losses is None:
        raise ValueError("rho_loss needs --irreducible, the directory of python -m examples.irreducible_losses")

    def adapt(task: training.Task) -> training.Task:
        return dataclasses.replace(task, batches=losses.joined(in_pairs(task.batches)))

    return Recipe(BASELINE, training.Methods(selection=training.RhoLoss(batch=setting.batch_size)), adapt)


RECIPES: dict[str, Callable[[Setting], Recipe]] = {
    **{name: lambda _, name=name: Recipe(name) for name in (BASELINE, "lion", "sophia_g", "sgd_sai")},
    "stacking": _stacking,
    "layer_drop": _layer_drop,
    "selective_backprop": _selective_backprop,
    "rho_loss": _rho_loss,
}


def in_pairs(batches: Callable[[int], Arrays]) -> Callable[[int], dict[str, np.ndarray]]:
    """Batches of twice the size, with the same examples in the same order."""

    def pair(step: int) -> dict[str, np.ndarray]:
        first, second = batches(2 * step), batches(2 * step + 1)
        return {name: np.concatenate([x, second[name]]) for name, x in first.items()}

    return pair


def arms(setting: Setting, name: str, rates: list[float] | None) -> list[compare.Arm]:
    """A recipe at each rate: the given rates, or that of ``RATES``, a third of it and three times it.

    Raises:
        ValueError: there is no such recipe, or the setting does not allow it.
    """
    recipe = optimizers.among(name, RECIPES)(setting)
    rates = rates or [float(f"{RATES[recipe.optimizer] * multiple:.3g}") for multiple in _MULTIPLES]
    make = functools.partial(_make, setting, recipe.optimizer)
    return [compare.Arm(name, rate, make, recipe.methods, recipe.adapt) for rate in rates]


def grid(setting: Setting, names: Sequence[str], rates: list[float] | None) -> list[compare.Arm]:
    """Every recipe at every rate, the baseline first.

    Raises:
        ValueError: as :func:`arms`.
    """
    return [arm for name in dict.fromkeys([BASELINE, *names]) for arm in arms(setting, name, rates)]


def half_way(setting: Setting, rate: float) -> compare.Arm:
    """The unfair baseline: half of its schedule is left when the budget is spent."""
    return compare.Arm(HALF_WAY, rate, functools.partial(_make, setting, BASELINE, share=0.5))


def _make(
    setting: Setting, name: str, rate: jax.typing.ArrayLike, share: float = 1.0
) -> optax.GradientTransformation:
    """The optimizer on a warm-up and a cosine; the budget covers a share of this schedule."""
    whole = schedules.warm_up(schedules.cosine(rate), WARMUP)
    schedule = schedules.over_budget(lambda spent: whole(share * jnp.asarray(spent)))
    choice = optimizers.choose(name, classes=setting.problem.vocabulary.size)
    return choice.make(schedule, WEIGHT_DECAY, groups.no_decay(), optimizers.one_rate)


def prices(setting: Setting, about: dict[str, object]) -> training.Reference:
    """Measure on this machine what the work of all recipes costs: one table, by active layers.

    Args:
        setting: setting of the runs.
        about: description of what is timed, as plain JSON.
    """
    task = setting.task(0)
    of_pairs = dataclasses.replace(task, batches=in_pairs(task.batches))
    methods = training.Methods(
        layer_drop=training.LayerDrop(), selection=training.RhoLoss(batch=setting.batch_size)
    )
    with schedules.spending(0.0):
        adamw, sophia_g = (_make(setting, name, 1e-3) for name in (BASELINE, "sophia_g"))
    common = training.calibrate(of_pairs, adamw, about=about, n=_TIMED, methods=methods)
    # One step in ten contains an estimate, the only work of Sophia that is not in the common table.
    estimates = training.calibrate(task, sophia_g, about=about, n=10 * _TIMED).times
    times = common.times | {work: taken for work, taken in estimates.items() if work.name == "hessian"}
    return training.Reference(times=times, about=about)
