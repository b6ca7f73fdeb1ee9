"""Frozen parameters: no update, no state, and no part in any norm."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from optimiz import checks
from optimiz.groups.labels import label
from optimiz.groups.rules import everything

_OF_PARAMETERS = ("value_fn", "logits_fn", "obj_fn")  # functions that an update is given


def freeze(
    tx: optax.GradientTransformation, rule: Any | Callable[[optax.Params], Any]
) -> optax.GradientTransformationExtraArgs:
    """Freeze the parameters that a rule selects, and train the others with ``tx``.

    A frozen parameter gets a zero update, has no state, and is not seen by ``tx``, so that it is not part of a
    global norm. The functions that ``tx`` calls, ``value_fn``, ``logits_fn`` and ``obj_fn``, still receive all
    parameters, and ``grad`` is still the gradient of all.

    Args:
        tx: any transformation.
        rule: parameters to freeze: a rule, another function from the parameters to a tree of booleans, or a
            tree of booleans.

    Returns:
        A transformation. Its ``init`` raises ValueError if nothing, or everything, is frozen.

    Raises:
        TypeError: ``tx`` is not a transformation, or ``rule`` is a function that returns rules.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimiz.groups import path
        >>> tx = freeze(optax.sgd(0.5), path("^stem"))
        >>> grads = {"head": jnp.array(2.0), "stem": jnp.array(2.0)}
        >>> jax.tree.map(float, tx.update(grads, tx.init(grads))[0])
        {'head': -1.0, 'stem': 0.0}
    """
    checks.transformation("tx", tx)
    groups = optax.partition(
        {"frozen": optax.set_to_zero(), "trained": tx},
        label({"frozen": rule, "trained": everything}),
        mask_compatible_extra_args=True,
    )

    def update_fn(updates, state, params=None, **extra_args):
        def with_frozen(trained):
            return jax.tree.map(
                lambda t, p: p if isinstance(t, optax.MaskedNode) else t,
                trained,
                params,
                is_leaf=lambda node: isinstance(node, optax.MaskedNode),
            )

        def filling_in(function):
            # Optax's line searches read the signature to choose which extra arguments to pass on.
            @functools.wraps(function)
            def of_trained(trained, *args, **kwargs):
                return function(with_frozen(trained), *args, **kwargs)

            marked: Any = of_trained
            marked.fills_in_masked = True  # scale_by_armijo accepts holes then
            return marked

        for name in _OF_PARAMETERS:
            if extra_args.get(name) is not None:
                extra_args[name] = filling_in(extra_args[name])
        return groups.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(groups.init, update_fn)
