"""Whether two arrays agree in sign, entry by entry."""

import jax
import jax.numpy as jnp


def agree(a: jax.Array, b: jax.Array) -> jax.Array:
    """Where two arrays have the same sign, and neither is 0; where the angle between complex numbers is acute.

    Example:
        >>> agree(jnp.array([1e-30, 1.0, 0.0]), jnp.array([1e-30, -1.0, 1.0])).tolist()
        [True, False, False]
    """
    return _product_of_signs(a, b) > 0


def oppose(a: jax.Array, b: jax.Array) -> jax.Array:
    """Where two arrays have opposite signs; where the angle between complex numbers is obtuse.

    Example:
        >>> oppose(jnp.array([1e-30, 1.0, 0.0]), jnp.array([1e-30, -1.0, 1.0])).tolist()
        [False, True, False]
    """
    return _product_of_signs(a, b) < 0


def _product_of_signs(a: jax.Array, b: jax.Array) -> jax.Array:
    # Of the signs, because a product may underflow.
    return jnp.real(jnp.conj(jnp.sign(a)) * jnp.sign(b))
