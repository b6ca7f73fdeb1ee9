"""The optimizers that a command line can name, each with a rate that suits fine-tuning, or none to be chosen.

The rates were chosen by the validation accuracy of one run each on the trainer's default task, from two to five
rates a factor of about three apart: enough for a sensible start, too little to compare optimizers by.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

import optimiz
from optimiz import groups


@dataclasses.dataclass(frozen=True)
class Choice:
    """How to build an optimizer, and its default learning rate.

    Attributes:
        make: (schedule, weight decay, weight-decay mask, multipliers of the learning rate) → optimizer. The
            schedule is that of the learning rate or, where a line search finds one, of the share of it that is
            taken.
        learning_rate: the peak of the schedule; None where a line search finds it.
    """

    make: Callable[[optax.Schedule, float, Any, Any], optax.GradientTransformationExtraArgs]
    learning_rate: float | None


def _scaled(make: Callable[[optax.Schedule, float, Any], optax.GradientTransformation]) -> Callable[..., Any]:
    """With multipliers after the optimizer, where nothing has been searched that they could undo."""
    return lambda rate, decay, mask, multipliers: optax.chain(
        make(rate, decay, mask), optimiz.scale_by_groups(multipliers)
    )


OPTIMIZERS = {
    # ADAMSLS and PLASLS are as their authors have them: one rule for all parameters.
    "adam_sls": Choice(
        lambda _, decay, mask, __: optimiz.adam_sls(weight_decay=decay, weight_decay_mask=mask),
        None,
    ),
    "adamw": Choice(
        _scaled(lambda rate, decay, mask: optimiz.adamw(rate, weight_decay=decay, mask=mask)),
        3e-4,
    ),
    "lion": Choice(
        _scaled(lambda rate, decay, mask: optimiz.lion(rate, weight_decay=decay, mask=mask)),
        1e-4,
    ),
    "pla_sls": Choice(
        lambda _, decay, mask, __: optimiz.pla_sls(
            groups.search_units(), weight_decay=decay, weight_decay_mask=mask
        ),
        None,
    ),
    "salsa": Choice(
        lambda share, decay, mask, multipliers: optimiz.salsa(
            share, weight_decay=decay, weight_decay_mask=mask, multipliers=multipliers
        ),
        None,
    ),
    "sgd": Choice(
        _scaled(lambda rate, decay, mask: optimiz.sgd(rate, 0.9, weight_decay=decay, weight_decay_mask=mask)),
        3e-3,
    ),
    "sgd_sai": Choice(
        _scaled(lambda rate, decay, mask: optimiz.sgd_sai(rate, weight_decay=decay, weight_decay_mask=mask)),
        1e-4,
    ),
    "sign_sgd": Choice(
        _scaled(lambda rate, decay, mask: optimiz.sign_sgd(rate, weight_decay=decay, weight_decay_mask=mask)),
        2e-4,
    ),
    "signum": Choice(
        _scaled(lambda rate, decay, mask: optimiz.signum(rate, weight_decay=decay, weight_decay_mask=mask)),
        5e-5,
    ),
}


def choose(name: str, among: Mapping[str, Choice] = OPTIMIZERS) -> Choice:
    """The optimizer of that name.

    Args:
        name: of the optimizer.
        among: those there are.

    Raises:
        ValueError: there is none; the message offers the nearest names.
    """
    if name not in among:
        near = difflib.get_close_matches(name, among, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"optimizer {name!r} is unknown: {hint}there are {', '.join(among)}")
    return among[name]


def head_multipliers(rate: float) -> Callable[[Any], Any]:
    """Multipliers of the learning rate: so much for the new head, and 1 for the trained encoder."""
    return lambda params: jax.tree.map(lambda new: rate if new else 1.0, groups.path("^head/")(params))


def one_rate(params: Any) -> Any:
    """Multipliers of the learning rate: 1 for every parameter."""
    return jax.tree.map(lambda _: 1.0, params)


# Peak rates for models that begin from random parameters: chosen by one run each of 150 steps, of a GPT-2 of
# two layers and width 64 on part of the text that pretrain takes by default, from three rates a factor of about
# three apart. Not so sophia_h's: it is sophia_g's, and no run has chosen it.
SCRATCH_RATES = {
    "adamw": 3e-3,
    "lion": 1e-3,
    "sgd": 0.1,
    "sgd_sai": 1e-2,
    "sign_sgd": 3e-3,
    "signum": 3e-3,
    "sophia_g": 1e-3,
    "sophia_h": 1e-3,
}


def for_classes(name: str, classes: int) -> Choice:
    """The optimizer of that name, one that measures the curvature of a classifier's loss too.

    Args:
        name: one of OPTIMIZERS, `sophia_g`, which draws labels from the logits, or `sophia_h`.
        classes: that the logits tell apart: of a language model, the size of its vocabulary.

    Raises:
        ValueError: there is none; the message offers the nearest names.
    """

    def sophia_g(rate: optax.Schedule, decay: float, mask: Any) -> optax.GradientTransformation:
        return optimiz.sophia_g(rate, weight_decay=decay, weight_decay_mask=mask, classes=classes)

    def sophia_h(rate: optax.Schedule, decay: float, mask: Any) -> optax.GradientTransformation:
        return optimiz.sophia_h(rate, weight_decay=decay, weight_decay_mask=mask)

    # Their rates were not chosen by runs: a third of AdamW's, as from scratch.
    both = {"sophia_g": Choice(_scaled(sophia_g), 1e-4), "sophia_h": Choice(_scaled(sophia_h), 1e-4)}
    return choose(name, OPTIMIZERS | both)


def from_scratch(name: str, classes: int) -> Choice:
    """The optimizer of that name, with a rate that suits a model that begins from random parameters.

    Args:
        name: as for `for_classes`.
        classes: likewise.

    Raises:
        ValueError: there is none; the message offers the nearest names.
    """
    choice = for_classes(name, classes)
    return dataclasses.replace(choice, learning_rate=SCRATCH_RATES.get(name, choice.learning_rate))
