"""Compute an update without holding an array of a parameter's size, whatever the optimizer.

Where the norm of an array is taken before the array is scaled, XLA computes the array, holds it in memory and
reads it twice. Inside ``low_memory_update`` the array is computed twice, once in the sum and once where it is
scaled.

Around ``optax.lamb`` it halves the memory of an update, to four bytes per parameter. ``lamb`` and ``lars`` of
this suite include it. Behind ``clip_by_global_norm``, methods that take norms, such as ``sgd_sai``,
``adafactor``, ``lars`` and, on an accelerator, ``lamb``, read the clipped gradient twice. It is held in memory
unless this is around the chain, clip included; the trainers' ``--clip`` does so.
"""

import optax

from optimiz import checks, numerics


def low_memory_update(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Let an optimizer compute its update with next to no memory of its own.

    Loops inside the optimizer, such as a line search, still run once.

    Args:
        tx: any transformation.

    Returns:
        A transformation with the state of ``tx``, its updates up to rounding, and its extra arguments.

    Raises:
        TypeError: ``tx`` is not a transformation.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = low_memory_update(optax.lamb(0.5))
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, _ = tx.update(jnp.array([2.0, 0.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # Adam's [1, 0], of norm 1, to the norm 5
        [-2.5, -0.0]
    """
    checks.transformation("tx", tx)
    tx = optax.with_extra_args_support(tx)

    def update_fn(updates, state, params=None, **extra_args):
        def update(updates, state, params):
            return tx.update(updates, state, params, **extra_args)

        # Within numerics.update_and_apply, which defers everything, the kernels of low_bit remain.
        run = update if numerics.is_traced() else numerics.low_memory(update)
        return run(updates, state, params)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)
