"""Random keys as arguments."""

import jax
import jax.numpy as jnp

# Fixed, so that a resumed run draws the same random numbers whatever JAX's default.
_KEY_IMPL = "threefry2x32"


def typed_key(key: jax.Array | int) -> jax.Array:
    """The random key for an argument.

    Args:
        key: a random key, typed or as the data of a threefry key, or an integer seed.

    Example:
        >>> jax.random.key_data(typed_key(3)).tolist()
        [0, 3]
    """
    if jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        return jnp.asarray(key)
    if jnp.ndim(key) == 0:
        return jax.random.key(key, impl=_KEY_IMPL)
    return jax.random.wrap_key_data(jnp.asarray(key), impl=_KEY_IMPL)
