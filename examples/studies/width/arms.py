"""The arms of the study on width: AdamW and Muon at peak rates, with the multipliers of μP or without."""

import functools
from collections.abc import Callable, Mapping

import optax

import optimiz
from optimiz import compare, groups, matrix_scales, schedules

STANDARD, MUP = "standard", "μP"
WARMUP = 0.1
GRIDS = {"adamw": (3.16e-3, 1e-2, 3.16e-2), "muon": (3.16e-3, 1e-2, 3.16e-2)}
"""Peak rates with which a grid begins, in half decades."""

_SCALE = matrix_scales.match_adam()  # one rate for the matrices and for the rest


def _adamw(rate: optax.Schedule, mup: groups.Mup | None) -> optax.GradientTransformation:
    return optax.chain(
        optimiz.scale_by_adam(0.9, 0.95, 1e-8),
        *([] if mup is None else [optimiz.scale_by_groups(mup.adam)]),
        optimiz.decoupled_weight_decay(0.1, groups.no_decay()),  # the same at every width
        optimiz.scale_by_learning_rate(rate),
    )


def _muon(rate: optax.Schedule, mup: groups.Mup | None) -> optax.GradientTransformation:
    tx = optimiz.muon(rate, scale=_SCALE)
    return tx if mup is None else optax.chain(tx, optimiz.scale_by_groups(mup.muon(_SCALE)))


_OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {"adamw": _adamw, "muon": _muon}


def arm(name: str, rate: float, steps: int, width: int, mup: groups.Mup | None) -> compare.Arm:
    """An optimizer at a peak rate, for a run of a number of updates.

    Args:
        name: one of ``GRIDS``.
        rate: the peak rate.
        steps: number of updates.
        width: width of the model, for the record.
        mup: what gives the multipliers; None for none.
    """
    extra = {"width": width, "parametrization": STANDARD if mup is None else MUP}
    return compare.Arm(name, rate, _maker(name, steps, mup), extra=extra)


@functools.cache
def _maker(name: str, steps: int, mup: groups.Mup | None) -> Callable[[float], optax.GradientTransformation]:
    """Peak rate → optimizer; one function for all rates, so that they share a compiled step."""

    def make(rate: float) -> optax.GradientTransformation:
        schedule = schedules.over_steps(schedules.warm_up(schedules.cosine(rate), WARMUP), steps)
        return _OPTIMIZERS[name](schedule, mup)

    return make
