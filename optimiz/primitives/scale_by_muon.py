r"""Muon's direction: momentum whose singular values are brought near 1, matrix by matrix.

.. math::
    m &\leftarrow \mu m + (1 - \mu) g, \qquad u = \mu m + (1 - \mu) g \\
    d &= \kappa X, \qquad X = \operatorname{orth}(u)

orth(u) is u with its singular values brought near 1 by Newton-Schulz (``optimiz.newton_schulz``), and κ is a
factor for the shape of the matrix (``optimiz.matrix_scales``). Without Nesterov's momentum u is m. With
``b2`` (NorMuon) all outputs of a matrix move equally far, while its Frobenius norm stays that of X:

.. math::
    v \leftarrow \beta_2 v + (1 - \beta_2)\, \operatorname{mean}_{\text{in}}(X^2), \qquad
        Y = X / (\sqrt v + \epsilon), \qquad d = \kappa\, \frac{\|X\|_F}{\|Y\|_F + \epsilon}\, Y

v is one number for each output, from 0 and without bias correction.

Source: KellerJordan/Muon; arXiv 2510.05491 (NorMuon) and its authors' code, zichongli5/NorMuon.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from optimiz import checks, groups, numerics
from optimiz.groups.routing import Routing, axes_by_leaf, matrices_alone
from optimiz.numerics import matrix_scales


class ScaleByMuonState(NamedTuple):
    """State of :func:`scale_by_muon`."""

    mu: optax.Updates  # m; like the parameters that are matrices


class ScaleByNormuonState(NamedTuple):
    """State of :func:`scale_by_muon` with ``b2``."""

    mu: optax.Updates  # m; like the parameters that are matrices
    nu: optax.Updates  # v; like them, with axes of the reduction of length 1


def scale_by_muon(
    momentum: jax.typing.ArrayLike,
    nesterov: bool = False,
    *,
    newton_schulz: numerics.NewtonSchulz,
    b2: jax.typing.ArrayLike | None = None,
    eps: jax.typing.ArrayLike = 0.0,
    scale: numerics.Scale | None = None,
    ns_dtype: jax.typing.DTypeLike | None = None,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalise the momentum of the hidden matrices. Other updates pass through.

    Args:
        momentum: μ in [0, 1), decay rate of the momentum, an average.
        nesterov: whether to use Nesterov's momentum, looked up from the new average.
        newton_schulz: polynomials that orthogonalise, see ``optimiz.newton_schulz``.
        b2: β₂ in [0, 1), decay rate of the second moment of each output; None for no second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        scale: factor of a step by the matrix's numbers of inputs and outputs, see ``optimiz.matrix_scales``;
            None for 1.
        ns_dtype: dtype of the products of Newton-Schulz, bfloat16, float32 or float64; None for float64 where
            the parameters are, and else bfloat16.
        matrices: which parameters are matrices: axes, or None, by pattern of path where those of
            ``groups.matrices`` do not fit, or a function of the parameters to the tree of both.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own.
        mesh: mesh whose devices share the matrices; None for that of ``jax.set_mesh``, if there is one.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type; or, in ``update``, a matrix is complex.
        ValueError: an argument is outside its domain; a gradient has another shape than its parameter; or, in
            ``init``, as for ``groups.matrices``.

    Example:
        >>> tx = scale_by_muon(0.0, newton_schulz=numerics.newton_schulz.CONVERGED, ns_dtype=jnp.float32)
        >>> w = jnp.zeros((2, 2))
        >>> updates, _ = tx.update(jnp.array([[0.0, 5.0], [5.0, 0.0]]), tx.init(w))
        >>> updates.round(4).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    checks.number("momentum", momentum, ge=0, lt=1)
    numerics.check_newton_schulz(newton_schulz, ns_dtype)
    matrix_scales.check(scale)
    if b2 is not None:
        checks.number("b2", b2, ge=0, lt=1)
    checks.number("eps", eps, ge=0)
    direction = (_Orthogonalised if b2 is None else _Normalised)(newton_schulz, scale)
    scalars = () if b2 is None else (b2, eps)
    axes_of = axes_by_leaf(matrices, scanned)

    def init_fn(params):
        axes = axes_of(params)
        chosen = matrices_alone(params, axes)
        mu = jax.tree.map(lambda p: numerics.zero_moment(p, mu_dtype), chosen)
        if b2 is None:
            return ScaleByMuonState(mu)
        leaves, structure = jax.tree.flatten(chosen)
        nu = [_zeros(p, a.reduction) for p, a in zip(leaves, _known(axes), strict=True)]
        return ScaleByNormuonState(mu, structure.unflatten(nu))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        axes = axes_of(updates)
        chosen = matrices_alone(updates, axes)
        checks.same_shapes("gradient", chosen, "parameter", state.mu)

        def leaf(g, mu):
            wide = numerics.widen(g)
            m = momentum * mu.astype(wide.dtype) + (1 - momentum) * wide
            u = momentum * m + (1 - momentum) * wide if nesterov else m
            return u.astype(numerics.product_dtype(u.dtype, ns_dtype)), m.astype(mu.dtype)

        u, mu = numerics.map_many(leaf, 2, chosen, state.mu)
        columns = [u] if b2 is None else [u, state.nu]
        found = numerics.map_matrices(
            direction, _known(axes), *map(jax.tree.leaves, columns), scalars=scalars, mesh=mesh
        )

        directions = iter(x for x, *_ in found)
        leaves, structure = jax.tree.flatten(updates)
        leaves = [
            g if a is None else next(directions).astype(g.dtype) for g, a in zip(leaves, axes, strict=True)
        ]
        updates = structure.unflatten(leaves)
        if b2 is None:
            return updates, ScaleByMuonState(mu)
        return updates, ScaleByNormuonState(mu, jax.tree.structure(mu).unflatten([v for _, v in found]))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@dataclasses.dataclass(frozen=True)
class _Orthogonalised:
    """The direction of a stack of matrices."""

    polynomials: numerics.NewtonSchulz
    scale: numerics.Scale | None

    def __call__(self, u: jax.Array) -> tuple[jax.Array]:
        return (numerics.orthogonalise(u, self.polynomials, u.dtype) * self.factor(u),)

    def factor(self, u: jax.Array) -> float:
        return 1.0 if self.scale is None else matrix_scales.factor_of(self.scale, *u.shape[-2:])


class _Normalised(_Orthogonalised):
    """The direction of a stack of matrices, and their second moments."""

    def __call__(
        self, u: jax.Array, v: jax.Array, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        x = numerics.widen(numerics.orthogonalise(u, self.polynomials, u.dtype))
        b2 = jnp.asarray(b2, v.dtype)
        v = jnp.asarray(b2 * v + (1 - b2) * jnp.mean(jnp.square(x), axis=-2, keepdims=True))
        y = x / (jnp.sqrt(numerics.nonzero_divisor(v)) + eps)
        y = y * (_norm(x) / (_norm(y) + eps))
        return (y * self.factor(u)).astype(u.dtype), v


def _known(axes: tuple[groups.Matrix | None, ...]) -> list[groups.Matrix]:
    return [a for a in axes if a is not None]


def _zeros(p: jax.Array, reduction: tuple[int, ...]) -> jax.Array:
    """One number for each output, laid out as the parameter."""
    like = jax.eval_shape(lambda x: jnp.sum(x, axis=reduction, keepdims=True), p)
    return jnp.zeros_like(like, dtype=numerics.real_dtype(p.dtype))


def _norm(x: jax.Array) -> jax.Array:
    """The Frobenius norm of each matrix; 1 of zeros."""
    return jnp.sqrt(numerics.nonzero_divisor(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True)))
