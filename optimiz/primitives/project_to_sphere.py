r"""The step along a sphere: every matrix keeps its norm, and the learning rate is about the angle of a step.

With d a direction of ascent, and norms over one matrix:

.. math::
    q = \theta - \eta_t\, \|\theta\| \frac{d}{\|d\|}, \qquad
    \theta \leftarrow \|\theta\| \frac{q}{\|q\|}

The size of the direction has no part in it, and weight decay has nothing to do: it would only change the
length of θ. So this is for parameters whose scale does not matter, such as the kernels of a network with norms.

The update is computed from the cosine c of θ and d, without a difference of numbers as large as θ:

.. math::
    \Delta\theta = \frac{1}{s} \left( \frac{2 \eta_t c - \eta_t^2}{1 + s}\, \theta
        - \eta_t\, \|\theta\| \frac{d}{\|d\|} \right), \qquad s = \sqrt{1 - 2 \eta_t c + \eta_t^2}

Source: arXiv 2606.16899 (Hyperball), and its first author's code in KellerJordan/modded-nanogpt.

Departures from the author's code: the norms neither overflow nor underflow, where theirs are at least 1e-10; a
matrix of zeros, which could never move, is refused; each of several fused or stacked matrices has a sphere of
its own. As in that code, and unlike in the paper, the norm to keep is that of the parameters as they are, not
that of the initial ones, which is the same but for rounding.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optimiz import checks, groups, numerics
from optimiz.groups.routing import Routing, axes_by_leaf

_ELSEWHERE = "give it to another optimizer, with optax.partition"


class ProjectToSphereState(NamedTuple):
    """State of :func:`project_to_sphere`."""

    count: jax.Array  # int32 scalar: updates made so far
    rate: jax.Array  # float32 scalar: the learning rate of the last update (before it: of the first)


def project_to_sphere(
    learning_rate: optax.ScalarOrSchedule,
    *,
    matrices: Routing | None = None,
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Turn a direction of ascent into the update that leaves the norm of each matrix as it is.

    This is a step, in place of ``scale_by_learning_rate``, for all parameters that it is given.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count: the tangent of
            the angle of a step whose direction is perpendicular to the parameters.
        matrices: function of the parameters to the tree of their axes, such as ``groups.matrices()``, by which
            each matrix has a sphere of its own; None for one sphere for each parameter.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has a sphere of its own. Without ``matrices``, which knows of the layers.

    Returns:
        A transformation whose updates have the parameters' dtype, and whose ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type, or ``matrices`` names no axes for a parameter.
        ValueError: the learning rate is NaN, infinite or negative; ``scanned`` is given beside ``matrices``; in
            ``init``, a sphere is of a single entry or of zeros; or, in ``update``, an update's shape is not its
            parameter's, or another step comes before this one. Zeros that ``init`` cannot see, as under
            ``jit``, become NaN.

    Example:
        >>> tx = project_to_sphere(0.75)
        >>> params = jnp.array([10.0, 0.0])
        >>> updates, _ = tx.update(jnp.array([0.0, 123.0]), tx.init(params), params)
        >>> (params + updates).round(4).tolist()  # 10 (1, -3/4) / (5/4)
        [8.0, -6.0]
    """
    rate = checks.schedule("learning_rate", learning_rate)
    axes_of = _axes_by_parameter(scanned) if matrices is None else axes_by_leaf(matrices, scanned)

    def spheres(params: Any) -> tuple[groups.Matrix, ...]:
        axes = axes_of(params)
        for (path, _), a in zip(jax.tree_util.tree_leaves_with_path(params), axes, strict=True):
            if a is None:
                raise TypeError(
                    "matrices must name the axes of every parameter, got None for "
                    f"{jax.tree_util.keystr(path)}: {_ELSEWHERE}"
                )
        return tuple(a for a in axes if a is not None)

    def init_fn(params):
        _refuse_points(params, spheres(params))
        return ProjectToSphereState(
            jnp.zeros([], jnp.int32), checks.at_first("learning_rate", rate).astype(jnp.float32)
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.needs_params(params)
        checks.only_step("project_to_sphere", updates, "a second minus goes uphill")
        checks.same_shapes("gradient", updates, "parameter", params)
        eta, axes = rate(state.count), spheres(params)
        leaves, structure = jax.tree.flatten(params)
        directions = jax.tree.leaves(updates)

        norms = numerics.matrix_norms(lambda: leaves + directions, axes * 2)
        radii, lengths = norms[: len(leaves)], norms[len(leaves) :]
        rows = zip(leaves, directions, radii, lengths, axes, strict=True)
        moved = [_moved(eta, *row) for row in rows]
        return structure.unflatten(moved), ProjectToSphereState(*_next(state.count, eta))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _axes_by_parameter(scanned: Mapping[str, int] | None) -> Callable[[Any], tuple[groups.Matrix, ...]]:
    """All axes of each parameter but that of stacked layers, in the order of ``jax.tree.leaves``."""

    def axes(tree: Any) -> tuple[groups.Matrix, ...]:
        leaves, stacked = jax.tree.leaves(tree), groups.scanned_axes(tree, scanned)
        return tuple(
            groups.Matrix(() if axis is None else (axis,), numerics.block_axes(x.ndim, axis), ())
            for x, axis in zip(leaves, stacked, strict=True)
        )

    return axes


def _refuse_points(params: optax.Params, axes: tuple[groups.Matrix, ...]) -> None:
    """Refuse spheres on which nothing can move."""
    for (path, p), a in zip(jax.tree_util.tree_leaves_with_path(params), axes, strict=True):
        name = f"{jax.tree_util.keystr(path) or 'the parameter'} of shape {np.shape(p)}"
        if p.size and math.prod(p.shape[i] for i in a.reduction + a.output) == 1:
            raise ValueError(f"{name} has one entry on a sphere, and could never move: {_ELSEWHERE}")
        if p.size and _has_zeros(p, a):
            raise ValueError(
                f"{name} is zero, or one of its matrices is, and on a sphere of radius 0 it could never move: "
                f"initialize it otherwise, or {_ELSEWHERE}"
            )


def _has_zeros(p: Any, axes: groups.Matrix) -> bool:
    """Whether a matrix is known to be zero: neither is it traced, nor is a part of it elsewhere."""
    if not isinstance(p, jax.Array) or isinstance(p, Tracer) or not p.is_fully_addressable:
        return False
    with jax.ensure_compile_time_eval():
        return bool(jnp.any(numerics.matrix_sum(jnp.abs(p), axes) == 0))


@functools.partial(numerics.dispatched_once, static=("axes",))
def _moved(
    eta: jax.Array, p: jax.Array, d: jax.Array, radius: jax.Array, length: jax.Array, axes: groups.Matrix
) -> jax.Array:
    """The update of one parameter."""
    wide = numerics.widen(p)
    unit = numerics.widen(d).astype(wide.dtype) / numerics.nonzero_divisor(length)
    cosine = numerics.matrix_sum(((wide / numerics.nonzero_divisor(radius)).conj() * unit).real, axes)
    eta = eta.astype(radius.dtype) * jnp.sign(length)  # zeros are no direction
    longer = eta * (eta - 2 * cosine)  # s² - 1
    s = jnp.sqrt(jnp.maximum(1 + longer, 0))
    update = -(longer / (1 + s) * wide + eta * radius * unit) / numerics.nonzero_divisor(s)
    undefined = (radius == 0) & (length > 0) | jnp.isinf(length)
    return jnp.where(undefined, jnp.asarray(jnp.nan, wide.dtype), update).astype(p.dtype)


@numerics.dispatched_once
def _next(count: jax.Array, eta: jax.Array) -> tuple[jax.Array, jax.Array]:
    return numerics.increment(count), eta.astype(jnp.float32)
