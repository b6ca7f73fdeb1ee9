"""Transform only the step direction of a line search, not its search direction."""

import optax

from optimiz import checks, numerics


def on_step(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Apply a transformation to the step direction of a line search, not to its search direction.

    So what is not part of the loss, such as weight decay, does not enter Armijo's rule.

    Args:
        tx: any transformation.

    Returns:
        A transformation of the two directions, which :func:`scale_by_adam` returns for a search, with the state
        of ``tx``.

    Raises:
        TypeError: ``tx`` is not a transformation; or, in ``update``, the updates are not two directions.

    Example:
        >>> from optimiz.numerics import Directions
        >>> tx = on_step(optax.scale(0.5))
        >>> directions, _ = tx.update(Directions(search=4.0, step=2.0), tx.init(1.0))
        >>> directions
        Directions(search=4.0, step=1.0)
    """
    checks.transformation("tx", tx)
    tx = optax.with_extra_args_support(tx)

    def update_fn(updates, state, params=None, **extra_args):
        if not isinstance(updates, numerics.Directions):
            raise TypeError(
                "on_step is for the two directions of a line search, numerics.Directions, got updates of type "
                f"{type(updates).__name__}"
            )
        step, state = tx.update(updates.step, state, params, **extra_args)
        return updates._replace(step=step), state

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)
