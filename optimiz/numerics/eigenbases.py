"""Eigenbases of the factors of a matrix's covariance, and rotation into them, as SOAP has it.

A gradient G of inputs × outputs has the factors G Gᵀ and Gᵀ G. A side is the axis of a matrix that is rotated:
-2 for the inputs, whose factor is the first, or -1 for the outputs. All functions take stacks of real matrices
[..., n, n] or [..., in, out], and treat each alone.

Products have all bits of their factors, which accelerators would otherwise round: an orthogonal Q of fewer bits
does not lead back to where it came from. Factors are scaled before they are decomposed, as squares of small
gradients are below what QR on some devices can square again.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from optimiz.numerics.blocked_qr import orthogonal_factor
from optimiz.numerics.moments import abs_sq, nonzero_divisor, squarable
from optimiz.numerics.precision import product, real_dtype

_SMALL = 256
"""Largest side of matrices whose QR a TPU's compiler is left to unroll, within seconds."""


def gram(x: jax.Array, side: int) -> jax.Array:
    """The Gram matrix of a side, x xᵀ or xᵀ x.

    Args:
        x: matrices [..., in, out].
        side: -2 or -1.

    Example:
        >>> gram(jnp.array([[3.0, 4.0]]), -2).tolist(), gram(jnp.array([[3.0, 4.0]]), -1).tolist()
        ([[25.0]], [[9.0, 12.0], [12.0, 16.0]])
    """
    return product(x, x.mT) if side == -2 else product(x.mT, x)


def rotated(x: jax.Array, bases: Sequence[jax.Array], sides: Sequence[int]) -> jax.Array:
    """The coordinates of matrices in bases: Q_Lᵀ x Q_R.

    Args:
        x: matrices [..., in, out].
        bases: for each side an orthogonal Q, whose columns are the basis.
        sides: the sides that are rotated, -2 and -1 or one of them.

    Example:
        >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> rotated(jnp.array([[1.0, 2.0]]), [swap], [-1]).tolist()
        [[2.0, 1.0]]
    """
    for q, side in zip(bases, sides, strict=True):
        x = product(q.mT, x) if side == -2 else product(x, q)
    return x


def rotated_back(x: jax.Array, bases: Sequence[jax.Array], sides: Sequence[int]) -> jax.Array:
    """The matrices of these coordinates: Q_L x Q_Rᵀ, the inverse of :func:`rotated`."""
    return rotated(x, [q.mT for q in bases], sides)


def limited(g: jax.Array, dtype: jax.typing.DTypeLike, sides: Sequence[int], factor: float = 1) -> jax.Array:
    """Gradients in a dtype, limited so that factors, and squares in a basis times a factor², are finite.

    Args:
        g: matrices [..., in, out]; or any array, if there are no sides.
        dtype: a compute dtype.
        sides: the sides that are rotated.
        factor: of the squares.

    Example:
        >>> bool(jnp.isfinite(gram(limited(jnp.full((2, 2), 1e30), jnp.float32, [-1]), -1)).all())
        True
    """
    entries = math.prod(g.shape[-2:]) if sides else 1
    return squarable(g.astype(dtype), max(entries, 1) * factor**2)


class Rates(NamedTuple):
    """What moments and factors of an update have in common.

    Attributes:
        b1: β₁, decay rate of the first moment.
        b2: β₂, decay rate of the second moment.
        beta: β, decay rate of the factors.
        eps: ε ≥ 0, added to the root of the second moment.
        started: bool scalar, whether the bases are known; until then coordinates are zero.
        correction: factor of the direction, a scalar, by the name of the dtype of the second moment.
    """

    b1: jax.typing.ArrayLike
    b2: jax.typing.ArrayLike
    beta: jax.typing.ArrayLike
    eps: jax.typing.ArrayLike
    started: jax.Array
    correction: Mapping[str, jax.Array]


def moments_in_bases(
    y: jax.Array,
    m: jax.Array,
    v: jax.Array,
    bases: Sequence[jax.Array],
    sides: Sequence[int],
    rates: Rates,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Adam's direction in bases, rotated back, and both moments.

    Args:
        y: coordinates of gradients in the bases, [..., in, out]; or any array, if there are no sides.
        m: their first moment.
        v: their second moment.
        bases: for each side an orthogonal Q, whose columns are the basis.
        sides: the sides that are rotated.
        rates: decay rates, and what else the direction needs.
    """
    y = y * rates.started  # also of what has no bases
    m = average(rates.b1, m, y)
    v = average(rates.b2, v, abs_sq(y))
    # Of 0 the root is 0, and so is its derivative.
    root = jnp.sign(v) * jnp.sqrt(nonzero_divisor(v)) + jnp.asarray(rates.eps, v.dtype)
    direction = rotated_back(m / nonzero_divisor(root), bases, sides)
    return direction * rates.correction[v.dtype.name], m, v


def average(decay: jax.typing.ArrayLike, old: jax.Array, new: jax.Array) -> jax.Array:
    """An exponential moving average, in the real dtype of the old one.

    Example:
        >>> average(0.75, jnp.array(8.0), jnp.array(4.0)).item()
        7.0
    """
    decay = jnp.asarray(decay, real_dtype(old.dtype))
    return decay * old + (1 - decay) * new


def eigenbasis(matrix: jax.Array) -> jax.Array:
    """The eigenvectors of symmetric matrices as columns, that of the largest eigenvalue first.

    Example:
        >>> jnp.abs(eigenbasis(jnp.diag(jnp.array([1.0, 3.0])))).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    return _alone(_eigenvectors, _scaled(matrix))[..., ::-1]


def power_iteration(matrix: jax.Array, basis: jax.Array, *, sort: bool) -> tuple[jax.Array, jax.Array]:
    """A step of the orthogonal iteration from a basis to the eigenbasis: the Q of the QR of matrix × basis.

    Q is orthogonal also where the matrix is singular.

    Args:
        matrix: symmetric and not negative definite.
        basis: orthogonal.
        sort: whether the columns of the basis are first put in the order of their Rayleigh quotients, the
            largest first.

    Returns:
        Q, and the order [..., n] in which the columns were taken.

    Example:
        >>> q, order = power_iteration(jnp.diag(jnp.array([1.0, 3.0])), jnp.eye(2), sort=True)
        >>> jnp.abs(q).tolist(), order.tolist()
        ([[0.0, 1.0], [1.0, 0.0]], [1, 0])
    """
    applied = product(_scaled(matrix), basis)
    order = jnp.broadcast_to(jnp.arange(basis.shape[-1]), basis.shape[:-1])
    if sort:
        order = jnp.argsort(jnp.sum(basis * applied, axis=-2), axis=-1, descending=True)
        applied = in_order(applied, order, -1)
    return _alone(_orthogonal, applied), order


def in_order(x: jax.Array, order: jax.Array, side: int) -> jax.Array:
    """Matrices whose rows (side -2) or columns (-1) are taken in an order [..., n].

    Example:
        >>> in_order(jnp.array([[1.0, 2.0]]), jnp.array([1, 0]), -1).tolist()
        [[2.0, 1.0]]
    """
    return jnp.take_along_axis(x, jnp.expand_dims(order, -3 - side), axis=side)


def _scaled(matrix: jax.Array) -> jax.Array:
    """The matrix over its largest entry, which is on the diagonal."""
    # An eigenvector has no derivative where eigenvalues are equal, as those of zeros are.
    matrix = jax.lax.stop_gradient(matrix)
    largest = jnp.max(jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)
    return matrix / jnp.maximum(largest, jnp.finfo(matrix.dtype).tiny)[..., None, None]


def _eigenvectors(x: jax.Array) -> jax.Array:
    """Eigenvectors as columns, that of the least eigenvalue first.

    On a TPU by Jacobi's rotations, a loop, where JAX would divide the spectrum of more than 256 eigenvalues: a
    program for each size on the way, which takes many minutes to compile for a thousand of them.
    """
    linalg = jax.lax.linalg

    def of(implementation: Any) -> Callable[[jax.Array], jax.Array]:
        return lambda x: linalg.eigh(x, implementation=implementation)[0]

    return jax.lax.platform_dependent(x, tpu=of(linalg.EighImplementation.JACOBI), default=of(None))


def _orthogonal(x: jax.Array) -> jax.Array:
    """The Q of the QR; on a TPU, unless it is small, from a program that its compiler does not unroll."""

    def by_jax(x: jax.Array) -> jax.Array:
        return jax.lax.linalg.qr(x, full_matrices=False)[0]

    if x.shape[-1] <= _SMALL:
        return by_jax(x)
    return jax.lax.platform_dependent(x, tpu=orthogonal_factor, default=by_jax)


def _alone(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The function of the stack on each device, where JAX's QR does not know of explicit axes."""
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:
        spec = P(*sharding.spec)
        of_stack = functools.partial(_of_stack, function)
        mesh = sharding.mesh
        # Unchecked, as loops begin with what is equal on all devices.
        return jax.shard_map(of_stack, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(x)
    # Of automatic axes only the compiler knows which part of the stack a device has.
    return function(x) if AxisType.Auto in sharding.mesh.axis_types else _of_stack(function, x)


def _of_stack(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The function of a stack; on a CPU of one matrix after the other.

    There jaxlib before 0.11.2 divides a stack among XLA's threads and waits for them: once all of these wait,
    each for a stack of its own, none is left to do the work, and the program hangs.
    """
    if x.ndim == 2:
        return function(x)

    def one_by_one(x: jax.Array) -> jax.Array:
        return jax.lax.map(function, x.reshape(-1, *x.shape[-2:])).reshape(x.shape)

    return jax.lax.platform_dependent(x, cpu=one_by_one, default=function)
