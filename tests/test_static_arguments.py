"""What ``optax.inject_hyperparams`` makes an array of, and may not, is named, with what is to be done."""

import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz

PARAMS = {"layer": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}


def _by_rank(params):
    return jax.tree.map(lambda x: jnp.array(jnp.ndim(x) > 1), params)


def _by_name(params):
    return jax.tree.map(lambda _: jnp.array(0), params)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("adamw", "weight_decay_mask", _by_rank),
        ("sgd_sai", "weight_decay_mask", _by_rank),
        ("salsa", "weight_decay_mask", _by_rank),
        ("lamb", "trust_ratio_mask", _by_rank),
        ("adam", "mu_dtype", lambda count: count),
        ("lion", "mu_dtype", jnp.float32),
        ("adafactor", "nu_dtype", jnp.float32),
        ("adamw", "decay_coupling", lambda count: count),
        ("salsa", "decay", optax.constant_schedule(1.0)),
        ("pla_sls", "units", _by_name),
    ],
)
def test_an_argument_that_is_not_a_number_must_be_static(name, argument, value):
    rate = {} if name in ("salsa", "pla_sls") else {"learning_rate": 0.1}
    decay = {"weight_decay": 0.5} if argument == "weight_decay_mask" else {}
    make = getattr(optimiz, name)
    named = rf'static_args=\("{argument}",\)' if name != "lion" else "static_args"
    with pytest.raises(TypeError, match=named):
        optax.inject_hyperparams(make)(**rate, **decay, **{argument: value}).init(PARAMS)


def test_what_determines_the_shapes_of_adafactor_must_be_static():
    state = optax.inject_hyperparams(optimiz.adafactor)(0.1).init(PARAMS)
    update = optax.inject_hyperparams(optimiz.adafactor)(0.1).update
    with pytest.raises(TypeError, match=r'static_args=\("min_dim_size_to_factor",\)'):
        jax.jit(update)(PARAMS, state, PARAMS)


@pytest.mark.parametrize(
    ("name", "hyperparameter", "dtype"),
    [("adam", "b2", jnp.bfloat16), ("amsgrad", "b2", jnp.bfloat16), ("adamax", "b2", jnp.bfloat16)]
    + [(name, "eps", jnp.float16) for name in ("adam", "adagrad", "rmsprop", "adamax", "sophia_h")],
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_dtype_that_rounds_a_usual_value_to_zero_or_one_is_refused_also_under_jit(
    name, hyperparameter, dtype, wrap
):
    params = {"w": jnp.ones(3, dtype)}
    make = getattr(optimiz, name)
    with pytest.raises(ValueError, match=rf"{hyperparameter} must .*; under optax.inject_hyperparams give"):
        wrap(optax.inject_hyperparams(make)(0.1).init)(params)
    wrap(optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)(0.1).init)(params)


def test_a_rounded_hyperparameter_is_refused_with_the_dtype_to_ask_for():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    for name in ("adam", "adamw", "adamax", "amsgrad", "lamb", "nadam", "nadamw", "salsa", "adam_sls"):
        rate = {} if name in ("salsa", "adam_sls") else {"learning_rate": 0.1}
        with pytest.raises(ValueError, match=r"b2 must be in .* bfloat16; .* hyperparam_dtype=jnp.float32"):
            optax.inject_hyperparams(getattr(optimiz, name))(**rate).init(params)
        optax.inject_hyperparams(getattr(optimiz, name), hyperparam_dtype=jnp.float32)(**rate).init(params)
