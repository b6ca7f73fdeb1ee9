"""The mask of the weight decay has one name everywhere, and Optax's own name where Optax has the optimizer."""

import inspect

import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz import groups

DECAYING = {
    name: make
    for name, make in vars(optimiz).items()
    if inspect.isfunction(make)
    and {"weight_decay", "weight_decay_rate"} & inspect.signature(make).parameters.keys()
    if name != "decoupled_weight_decay"
}
PARAMS = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}


def make_with(name, **kwargs):
    needed = {
        "adamh": {"adam_learning_rate": 0.1},
        "muon": {"adam_learning_rate": 0.1},
        "muonh": {"adam_learning_rate": 0.1},
        "normuon": {"adam_learning_rate": 0.1},
        "pla_sls": {"units": {"bias": 0, "kernel": 1}},
        "sophia_g": {"classes": 2},
    }.get(name, {})
    rate = {"learning_rate": 0.1} if "learning_rate" in inspect.signature(DECAYING[name]).parameters else {}
    return DECAYING[name](**needed, **rate, weight_decay=0.5, **kwargs)


@pytest.mark.parametrize("name", DECAYING)
def test_one_name_everywhere(name):
    make_with(name, weight_decay_mask=groups.no_decay()).init(PARAMS)


@pytest.mark.parametrize("name", DECAYING)
def test_the_name_that_optax_has_is_taken_too(name):
    twin = getattr(optax, name, None)
    masks = (
        []
        if twin is None
        else [x for x in inspect.signature(twin).parameters if x in ("mask", "weight_decay_mask")]
    )
    for mask in masks:
        make_with(name, **{mask: groups.no_decay()}).init(PARAMS)
    if "mask" in masks:
        with pytest.raises(ValueError, match="mask and weight_decay_mask are the same thing; give one of them"):
            make_with(name, mask=True, weight_decay_mask=True)


def test_the_tables_are_not_empty():
    assert len(DECAYING) > 20 and {"adamw", "sgd_sai", "sophia_g", "lamb", "lars", "salsa"} <= DECAYING.keys()
