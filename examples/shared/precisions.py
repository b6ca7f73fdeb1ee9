"""The precisions, and the formats of an optimizer's state, that a command line can name."""

import jax.numpy as jnp
import optax

import optimiz
from optimiz import training

PRECISIONS = {
    "float32": training.Precision(),
    "mixed": training.Precision(compute=jnp.bfloat16),
    "bfloat16": training.Precision(params=jnp.bfloat16, compute=jnp.bfloat16),
    "bfloat16_kahan": training.Precision(params=jnp.bfloat16, compute=jnp.bfloat16),
}
STATES = {
    "float32": None,
    "bfloat16": optimiz.BFloat16(),
    "int8": optimiz.Int8(),
    "float8": optimiz.Float8(),
    "int4": optimiz.Int4(),
}


def with_state(tx: optax.GradientTransformation, name: str) -> optax.GradientTransformation:
    """An optimizer whose state is stored in a format, one of STATES."""
    fmt = STATES[name]
    return tx if fmt is None else optimiz.low_bit(tx, fmt)


def in_precision(tx: optax.GradientTransformation, name: str, seed: int) -> optax.GradientTransformation:
    """An optimizer that can train parameters of a precision: to the nearest bfloat16, most steps would be lost.

    Args:
        tx: the optimizer.
        name: one of PRECISIONS.
        seed: seed of rounding that is stochastic.
    """
    if PRECISIONS[name].params == jnp.float32:
        return tx
    return optax.chain(tx, optimiz.stochastic_rounding(seed) if name == "bfloat16" else optimiz.kahan())
