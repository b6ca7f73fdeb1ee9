"""Hold no array of a parameter's size while an update is computed, whatever the optimizer.

Where a norm is taken of an array before the array is scaled, XLA computes the array, holds it in memory and
reads it twice. Inside of ``lean`` the norm is summed while the array is computed, and then the array is
computed again: one more loop over what is in memory anyway, in place of a parameter's bytes. See
``optimiz.numerics.recipes``.

Around ``optax.lamb`` it halves what is held, to four bytes a parameter. Of this suite ``lamb``, ``lars`` and
``guard`` have it within; but a clipped gradient is held for ``lars`` and ``adafactor``, and for ``sgd_sai``,
which may measure it, unless this is around the chain of both.
"""

import optax

from optimiz import checks, numerics


def lean(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, whose update needs next to no memory of its own.

    Its state is the state of ``tx``. Loops of the optimizer's own, such as a line search, run once, as ever.

    Args:
        tx: any transformation.

    Returns:
        A transformation that passes extra arguments on. Its updates are those of ``tx``, to rounding.

    Raises:
        TypeError: ``tx`` is no transformation.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = lean(optax.lamb(0.5))
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

        return numerics.lean(update)(updates, state, params)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)
