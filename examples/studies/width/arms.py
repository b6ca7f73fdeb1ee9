"""The arms of the study on width: Adam and Muon at peak rates, with the multipliers of μP or without."""

import functools
from collections.abc import Callable, Mapping

import optax

import optimiz
from optimiz import compare, groups, matrix_scales, schedules

STANDARD, MUP = "standard", "μP"
WARMUP = 0.1
GRIDS = {"adam": (3.16e-3, 1e-2, 3.16e-2), "muon": (3.16e-3, 1e-2, 3.16e-2)}
"""Peak rates with which a grid begins, in half decades."""

_SCALE = matrix_scales.match_adam()  # one rate for the matrices and for the rest
_OPTIMIZERS: Mapping[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "adam": functools.partial(optimiz.adam, b2=0.95),
    "muon": functools.partial(optimiz.muon, scale=_SCALE),
}


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
        tx = _OPTIMIZERS[name](schedules.over_steps(schedules.warm_up(schedules.cosine(rate), WARMUP), steps))
        if mup is None:
            return tx
        return optax.chain(tx, optimiz.scale_by_groups(mup.adam if name == "adam" else mup.muon(_SCALE)))

    return make
