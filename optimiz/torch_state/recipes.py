"""Optimizers of PyTorch as chains of ours: which settings and moments each has, and what it does with them.

Source: ``torch.optim`` of PyTorch 2.14. Ours differ only in how a step is rounded. The weight decay of Adam
and SGD is an L2 penalty, which stands in front of the moments; that of AdamW and Adafactor is decoupled. The
rate of Adafactor is at most 1 / √t, and its decay is scaled by the rate without that bound.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import checks
from optimiz.optimizers.adafactor import adafactor
from optimiz.optimizers.adam import adam
from optimiz.optimizers.adamw import adamw
from optimiz.optimizers.amsgrad import amsgrad
from optimiz.optimizers.sgd import sgd
from optimiz.torch_state.tensors import array_of

Group = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Now:
    """Where training is.

    Attributes:
        rate: learning rate, a number or a schedule of the count of updates.
        behind: updates that were made before those that these parameters have had.
        dtype: dtype of the moments; None for the parameters'.
        torch_dtype: dtype of PyTorch's parameters.
    """

    rate: optax.ScalarOrSchedule
    behind: int
    dtype: np.dtype | None
    torch_dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One class of ``torch.optim``.

    Attributes:
        settings: keys of a group that decide its updates, next to ``lr``, ``weight_decay`` and ``maximize``.
        moments: key of a parameter's state → field of ours, of moments with the parameter's shape.
        make: (group, now) → our transformation, without ``maximize``.
        counts: whether a parameter's state has a ``step``.
        factored: whether matrices have a row and a column in place of a moment.
    """

    settings: tuple[str, ...]
    moments: Callable[[Group], Mapping[str, str]]
    make: Callable[[Group, Now], optax.GradientTransformation]
    counts: bool = True
    factored: bool = False


def scalar(group: Group, key: str) -> float:
    """A setting of a group as a number."""
    return _scalar(key, group[key])


def _scalar(key: str, value: Any) -> float:
    array = array_of(f"{key} of a group", value)
    if array.size != 1 or not jnp.issubdtype(array.dtype, jnp.number):
        raise ValueError(f"{key} of a group must be a number, got {value!r}")
    return float(array.reshape(()))


def _pair(group: Group, key: str) -> tuple[float, float]:
    first, second = (_scalar(key, value) for value in group[key])
    return first, second


def transformation(recipe: Recipe, group: Group, now: Now) -> optax.GradientTransformation:
    """Our transformation of a group's parameters."""
    tx = recipe.make(group, now)
    return optax.chain(optax.scale(-1.0), tx) if group.get("maximize") else tx


def _with_l2(group: Group, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    decay = scalar(group, "weight_decay")
    checks.number("weight_decay", decay, ge=0)
    return optax.chain(optax.add_decayed_weights(decay), tx) if decay else tx


def _adam(group: Group, now: Now) -> optax.GradientTransformation:
    return _with_l2(group, _of_adam(adam, group, now, 0.0))


def _adamw(group: Group, now: Now) -> optax.GradientTransformation:
    return _of_adam(adamw, group, now, scalar(group, "weight_decay"))


def _of_adam(make: Callable[..., Any], group: Group, now: Now, decay: float) -> optax.GradientTransformation:
    b1, b2 = _pair(group, "betas")
    settings: dict[str, Any] = {"b1": b1, "b2": b2, "eps": scalar(group, "eps"), "weight_decay": decay}
    settings |= {"mu_dtype": now.dtype, "nu_dtype": now.dtype}
    if group["amsgrad"]:
        return amsgrad(now.rate, max_before_correction=True, **settings)
    return make(now.rate, **settings)


def _adam_moments(group: Group) -> Mapping[str, str]:
    largest = {"max_exp_avg_sq": "nu_max"} if group["amsgrad"] else {}
    return {"exp_avg": "mu", "exp_avg_sq": "nu"} | largest


def _sgd(group: Group, now: Now) -> optax.GradientTransformation:
    momentum = scalar(group, "momentum")
    if momentum == 0:
        return _with_l2(group, sgd(now.rate))
    dampening = scalar(group, "dampening")
    tx = sgd(now.rate, momentum, bool(group["nesterov"]), now.dtype, dampening=dampening)
    return _with_l2(group, tx)


def _sgd_moments(group: Group) -> Mapping[str, str]:
    return {"momentum_buffer": "trace"} if scalar(group, "momentum") != 0 else {}


def _adafactor(group: Group, now: Now) -> optax.GradientTransformation:
    least, eps2 = group["eps"]
    rate, decay = checks.schedule("lr", now.rate), scalar(group, "weight_decay")

    def bounded(count: jax.typing.ArrayLike) -> jax.Array:
        steps = jnp.maximum(jnp.asarray(count, jnp.result_type(float)) - now.behind, 0) + 1
        return jnp.minimum(rate(count), steps**-0.5)

    def unbounded_decay(count: jax.typing.ArrayLike) -> jax.Array:
        of_step = bounded(count)
        return decay * jnp.where(of_step == 0, 1, rate(count) / jnp.where(of_step == 0, 1, of_step))

    return adafactor(
        bounded,
        min_dim_size_to_factor=1,
        decay_rate=-scalar(group, "beta2_decay"),
        clipping_threshold=scalar(group, "d"),
        weight_decay=unbounded_decay if decay else 0.0,
        eps=0.0,
        nu_dtype=now.dtype,
        eps2=_scalar("eps", eps2),
        floor=float(jnp.finfo(now.torch_dtype).eps) if least is None else _scalar("eps", least),
    )


RECIPES: Mapping[str, Recipe] = {
    "Adam": Recipe(("betas", "eps", "amsgrad"), _adam_moments, _adam),
    "AdamW": Recipe(("betas", "eps", "amsgrad"), _adam_moments, _adamw),
    "SGD": Recipe(("momentum", "dampening", "nesterov"), _sgd_moments, _sgd, counts=False),
    "Adafactor": Recipe(("beta2_decay", "eps", "d"), lambda group: {}, _adafactor, factored=True),
}
"""The classes of ``torch.optim`` whose state is converted, by name."""


def rate_of(group: Group, learning_rate: Callable[[float], Any] | None) -> optax.ScalarOrSchedule:
    """The learning rate of a group: its own, or what a function makes of it.

    Raises:
        TypeError: the function returns neither a number nor a schedule.
        ValueError: the rate is outside its domain.
    """
    now = scalar(group, "lr")
    if learning_rate is None:
        return now
    peak = scalar(group, "initial_lr") if "initial_lr" in group else now
    rate = learning_rate(peak)
    checks.schedule("learning_rate", rate)
    return rate
