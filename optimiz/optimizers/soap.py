r"""SOAP: Adam in the eigenbases of Shampoo's factors.

For a matrix of inputs × outputs with the gradient G, factors L and R, and their eigenbases Q:

.. math::
    Y &= Q_L^\top G\, Q_R, \qquad m \leftarrow \beta_1 m + (1 - \beta_1) Y, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) Y^2 \\
    W &\leftarrow W - \eta_t \left( \frac{\sqrt{1 - \beta_2^k}}{1 - \beta_1^k}\,
        Q_L \frac{m}{\sqrt v + \epsilon}\, Q_R^\top + \lambda W \right) \\
    L &\leftarrow \beta L + (1 - \beta)\, G G^\top, \qquad R \leftarrow \beta R + (1 - \beta)\, G^\top G

The first update finds the bases, as eigenvectors of L and R; its direction is zero, and k counts the later
ones. After every f-th of these, Q becomes the orthogonal factor of the QR of L Q, a step of the power
iteration. Before that its columns, and v with them, are sorted by the diagonal of :math:`Q^\top L Q`; m is
rotated into the new basis. A side longer than ``max_precond_dim`` is not rotated. Parameters that are no
matrices have the same update without Q, Adam's but for the place of ε.

Source: arXiv 2409.11321 and the authors' code, nikhilvyas/SOAP.

Departures from the authors' code: weight decay is of the parameters before the step, and of the first update
too; a parameter of several axes is the matrix, or the stack of matrices, of ``optimiz.groups.matrices``, or
else Adam's, while theirs rotates each axis alone or, with ``merge_dims``, merges neighbours with a short
product, layers and heads among them; m, v, factors and bases are at least float32, where their factors have the
default dtype; entries that are too large are limited, so that factors are finite; equal matrices are one stack,
which the devices of a mesh share; ``normalize_grads`` and ``precondition_1d`` are left out.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from optimiz import groups, numerics
from optimiz.groups.routing import Routing
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate
from optimiz.primitives.scale_in_eigenbases import Form, scale_in_eigenbases


def scale_by_soap(
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: jax.typing.ArrayLike = 10,
    max_precond_dim: int = 10_000,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale matrices by Adam's moments in the eigenbases of Shampoo's factors, and others by Adam's moments.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        shampoo_beta: β in [0, 1), decay rate of the factors; None for β₂.
        precondition_frequency: number f ≥ 1 of updates from one step of the bases to the next.
        max_precond_dim: length, ≥ 0, of the longest side that is rotated.
        matrices: which parameters are matrices: axes, or None, by pattern of path where those of
            ``groups.matrices(whole=True)`` do not fit, or a function of the parameters to the tree of both.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own.
        mesh: mesh whose devices share the matrices; None for that of ``jax.set_mesh``, if there is one.

    Returns:
        A transformation that keeps the dtype of its updates. Its first update is zero.

    Raises:
        TypeError: an argument has the wrong type; or a matrix is complex.
        ValueError: an argument is outside its domain; a gradient has another shape than its parameter; or, in
            ``init``, as for ``groups.matrices``, or a matrix has ``sizes``.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_soap(0.0, 0.0, 0.0)
        >>> g = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> first, state = tx.update(g, tx.init(g))
        >>> second, _ = tx.update(g, state)  # in the eigenbasis, the sign of the gradient
        >>> first.tolist(), second.tolist()
        ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    """
    return scale_in_eigenbases(
        Form(_Step, sort=True, bias_correction=True),
        b1,
        b2,
        eps,
        shampoo_beta=shampoo_beta,
        precondition_frequency=precondition_frequency,
        max_precond_dim=max_precond_dim,
        matrices=matrices,
        scanned=scanned,
        mesh=mesh,
    )


def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: jax.typing.ArrayLike = 10,
    max_precond_dim: int = 10_000,
    weight_decay: optax.ScalarOrSchedule = 0.01,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam in the eigenbases of Shampoo's factors, for matrices, and Adam for other parameters.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; the authors' is
            3e-3.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        shampoo_beta: β in [0, 1), decay rate of the factors; None for β₂.
        precondition_frequency: number f ≥ 1 of updates from one step of the bases to the next.
        max_precond_dim: length, ≥ 0, of the longest side that is rotated.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        matrices: which parameters are matrices: axes, or None, by pattern of path where those of
            ``groups.matrices(whole=True)`` do not fit, or a function of the parameters to the tree of both.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own.
        mesh: mesh whose devices share the matrices; None for that of ``jax.set_mesh``, if there is one.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay. Its first update is the
        weight decay alone.

    Raises:
        TypeError: an argument has the wrong type; or a matrix is complex.
        ValueError: an argument is outside its domain; a gradient has another shape than its parameter; or, in
            ``init``, as for ``groups.matrices``, or a matrix has ``sizes``.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = soap(0.5, 0.0, 0.0, 0.0, weight_decay=0.0)
        >>> params = jnp.zeros((2, 2))
        >>> g = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> _, state = tx.update(g, tx.init(params), params)
        >>> updates, _ = tx.update(g, state, params)
        >>> updates.tolist()
        [[-0.5, -0.0], [-0.0, -0.5]]
    """
    return optax.chain(
        scale_by_soap(
            b1,
            b2,
            eps,
            shampoo_beta=shampoo_beta,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
            matrices=matrices,
            scanned=scanned,
            mesh=mesh,
        ),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate),
    )


@dataclasses.dataclass(frozen=True)
class _Step:
    """The direction of a stack of matrices, their moments and factors."""

    sides: tuple[int, ...]

    def __call__(self, g: jax.Array, m: jax.Array, v: jax.Array, *rest: Any) -> tuple[jax.Array, ...]:
        n = len(self.sides)
        factors, bases, (rates,) = rest[:n], rest[n : 2 * n], rest[2 * n :]
        dtype, wide = g.dtype, numerics.limited(g, m.dtype, self.sides)
        y = numerics.rotated(wide, bases, self.sides)
        direction, m, v = numerics.moments_in_bases(y, m, v, bases, self.sides, rates)
        factors = [
            numerics.average(rates.beta, x, numerics.gram(wide, side))
            for x, side in zip(factors, self.sides, strict=True)
        ]
        return direction.astype(dtype), m, v, *factors
