r"""KL-SOAP: SOAP with the factors of KL-Shampoo, each of which leaves out the scale of the other side.

Y, m, v and the bases are those of ``optimiz.soap``, without bias correction and with unsorted bases. For a
matrix of r inputs × c outputs, with s the inverse roots of the eigenvalues μ that a side has in its basis:

.. math::
    L &\leftarrow \beta L + (1 - \beta)\, X X^\top / c, \qquad X = G\, Q_R \operatorname{diag}(s_R) \\
    \mu_L &\leftarrow \beta s_L^{-2} + (1 - \beta) \operatorname{mean}_\text{out}
        \left( Y \operatorname{diag}(s_R) \right)^2, \qquad
        s_L = \min\left(\mu_L^{-1/2}, \max(10, \min(r, 4000))\right)

R likewise, all of them with the old s.

Source: arXiv 2509.03378 and the authors' code, yorkerlin/KL-Methods.

Departures from the authors' code: those of ``optimiz.soap``, but that theirs has all of the state in bfloat16;
long sides are left as they are; vectors, which theirs refuses, are as in SOAP; what theirs takes as tensors of
three axes are matrices.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from optimiz import checks, groups, numerics
from optimiz.groups.routing import Routing
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate
from optimiz.primitives.scale_in_eigenbases import Form, scale_in_eigenbases


def scale_by_kl_soap(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.98,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: jax.typing.ArrayLike = 10,
    max_precond_dim: int = 10_000,
    init_factor: jax.typing.ArrayLike = 0.1,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale matrices by moments in the eigenbases of KL-Shampoo's factors, and others by moments.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        shampoo_beta: β in [0, 1), decay rate of the factors; None for β₂.
        precondition_frequency: number f ≥ 1 of updates from one step of the bases to the next.
        max_precond_dim: length, ≥ 0, of the longest side that is rotated.
        init_factor: first eigenvalue, > 0, of all factors.
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
        >>> tx = scale_by_kl_soap(0.0, 0.0, 0.0)
        >>> g = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> _, state = tx.update(g, tx.init(g))
        >>> updates, _ = tx.update(g, state)
        >>> updates.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    checks.number("init_factor", init_factor, gt=0)
    return scale_in_eigenbases(
        Form(_Step, sort=False, bias_correction=False, first_eigenvalue=init_factor),
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


def kl_soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.98,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    shampoo_beta: jax.typing.ArrayLike | None = None,
    precondition_frequency: jax.typing.ArrayLike = 10,
    max_precond_dim: int = 10_000,
    init_factor: jax.typing.ArrayLike = 0.1,
    weight_decay: optax.ScalarOrSchedule = 0.01,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SOAP with KL-Shampoo's factors, each of which leaves out the scale of the other side.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; the authors' is
            1e-4.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        shampoo_beta: β in [0, 1), decay rate of the factors; None for β₂.
        precondition_frequency: number f ≥ 1 of updates from one step of the bases to the next.
        max_precond_dim: length, ≥ 0, of the longest side that is rotated.
        init_factor: first eigenvalue, > 0, of all factors.
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
        >>> tx = kl_soap(0.5, 0.0, 0.0, 0.0, weight_decay=0.0)
        >>> params = jnp.zeros((2, 2))
        >>> g = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> _, state = tx.update(g, tx.init(params), params)
        >>> updates, _ = tx.update(g, state, params)
        >>> updates.tolist()
        [[-0.5, -0.0], [-0.0, -0.5]]
    """
    return optax.chain(
        scale_by_kl_soap(
            b1,
            b2,
            eps,
            shampoo_beta=shampoo_beta,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
            init_factor=init_factor,
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
    """The direction of a stack of matrices, their moments, factors and the inverse roots of the eigenvalues."""

    sides: tuple[int, ...]

    def __call__(self, g: jax.Array, m: jax.Array, v: jax.Array, *rest: Any) -> tuple[jax.Array, ...]:
        n = len(self.sides)
        factors, roots, bases, (rates,) = rest[:n], rest[n : 2 * n], rest[2 * n : 3 * n], rest[3 * n :]
        dtype, wide = g.dtype, numerics.limited(g, m.dtype, self.sides, _LARGEST_ROOT)
        y = numerics.rotated(wide, bases, self.sides)
        direction, m, v = numerics.moments_in_bases(y, m, v, bases, self.sides, rates)
        new_factors, new_roots = [], []
        for i, side in enumerate(self.sides):
            others = [j for j in range(n) if j != i]  # none, if the other side is not rotated
            x, z = numerics.rotated(wide, [bases[j] for j in others], [self.sides[j] for j in others]), y
            for j in others:
                x, z = x * roots[j], z * roots[j]
            x = jnp.where(rates.started, x, wide)
            new_factors.append(
                numerics.average(rates.beta, factors[i], numerics.gram(x, side) / x.shape[-3 - side])
            )
            mean = jnp.mean(jnp.square(z), axis=-3 - side, keepdims=True)
            eigenvalue = numerics.average(rates.beta, 1 / jnp.square(roots[i]), mean)
            largest = max(_SMALLEST_BOUND, min(x.shape[side], _LARGEST_ROOT))
            new = jnp.minimum(jax.lax.rsqrt(eigenvalue), largest)
            new_roots.append(jnp.where(rates.started, new, roots[i]))
        return direction.astype(dtype), m, v, *new_factors, *new_roots


# The authors' bounds of the inverse roots.
_SMALLEST_BOUND, _LARGEST_ROOT = 10, 4000
