"""The precisions that a command line can name, and what an optimizer needs in each."""

import jax.numpy as jnp
import optax

import optimiz
from optimiz import training

PRECISIONS = {
    "float32": training.Precision(),
    "mixed": training.Precision(compute=jnp.bfloat16),
    "bfloat16": training.Precision(params=jnp.bfloat16, compute=jnp.bfloat16),
}


def in_precision(tx: optax.GradientTransformation, name: str, seed: int) -> optax.GradientTransformation:
    """An optimizer that can train parameters of a precision.

    Args:
        tx: the optimizer.
        name: one of PRECISIONS.
        seed: seed of the rounding of bfloat16 parameters, which is stochastic: to the nearest, most steps would
            be lost.
    """
    if PRECISIONS[name].params == jnp.float32:
        return tx
    return optax.chain(tx, optimiz.stochastic_rounding(seed))
