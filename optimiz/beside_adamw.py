"""Hidden matrices by one chain, and all other parameters by AdamW, as Muon and its kin do."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from optimiz import checks, groups
from optimiz.groups.routing import Routing, axes_by_leaf
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def beside_adamw(
    name: str,
    of_matrices: Callable[[Routing], optax.GradientTransformation],
    matrices: Mapping[str, groups.Matrix | None] | Routing | None,
    scanned: Mapping[str, int] | None,
    *,
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    weight_decay: optax.ScalarOrSchedule,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None,
    decay_coupling: Coupling,
    cautious_decay: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """One chain for the hidden matrices, and AdamW for the other parameters.

    Args:
        name: label of the matrices in the state; that of the others is ``"adamw"``.
        of_matrices: from the axes of the matrices, as a function of a tree of these alone, to their chain.
        matrices: which parameters are matrices, see :func:`optimiz.groups.routing.axes_by_leaf`.
        scanned: axis along which layers are stacked, by pattern of path.
        learning_rate: that of AdamW, ``adam_learning_rate`` in messages.
        b1: β₁ of AdamW, ``adam_b1`` in messages.
        b2: β₂ of AdamW, ``adam_b2`` in messages.
        eps: ε of AdamW, ``adam_eps`` in messages.
        weight_decay: decoupled weight decay of AdamW.
        weight_decay_mask: mask of the weight decay, of all parameters; None for none.
        decay_coupling: how the decay scales with the learning rate.
        cautious_decay: whether only those entries decay that the direction, too, moves toward zero.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; or, in ``init``, as for ``groups.matrices``.
    """
    checks.schedule("adam_learning_rate", learning_rate)
    checks.number("adam_b1", b1, ge=0, lt=1)
    checks.number("adam_b2", b2, ge=0, lt=1, typical=0.95)
    checks.number("adam_eps", eps, ge=0, typical=1e-10)
    rest = optax.chain(
        scale_by_adam(b1, b2, eps),
        decoupled_weight_decay(
            weight_decay,
            weight_decay_mask,
            coupling=decay_coupling,
            learning_rate=learning_rate,
            cautious=cautious_decay,
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
    axes_of = axes_by_leaf(matrices, scanned)
    of_matrices(_unflattened(()))  # bad arguments are refused now
    decays = (
        None if weight_decay_mask is None else checks.mask("the mask of the weight decay", weight_decay_mask)
    )

    @functools.cache
    def parts(axes: tuple[groups.Matrix | None, ...]) -> optax.GradientTransformationExtraArgs:
        chosen = tuple(a for a in axes if a is not None)
        labels = ["adamw" if a is None else name for a in axes]
        return optax.partition(
            {name: of_matrices(_unflattened(chosen)), "adamw": rest},
            lambda tree: jax.tree.structure(tree).unflatten(labels),
        )

    def init_fn(params):
        if decays is not None:
            decays(params)  # a pattern that matches nothing shows only in the whole tree
        return parts(axes_of(params)).init(params)

    def update_fn(updates, state, params=None, **extra_args):
        if params is not None:
            checks.same_shapes("gradient", updates, "parameter", params)
        return parts(axes_of(updates)).update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _unflattened(axes: tuple[groups.Matrix, ...]) -> Routing:
    return lambda tree: jax.tree.structure(tree).unflatten(axes)
