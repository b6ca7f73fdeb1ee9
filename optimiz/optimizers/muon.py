r"""Muon: momentum, orthogonalised, for the hidden matrices; AdamW for the other parameters.

.. math::
    m &\leftarrow \mu m + (1 - \mu) g, \qquad u = \mu m + (1 - \mu) g \\
    W &\leftarrow W - \eta_t \left( \kappa\, \operatorname{orth}(u) + \lambda\, W \right)

orth(u) is u with its singular values brought near 1 by Newton-Schulz (``optimiz.newton_schulz``), and κ is a
factor for the shape of the matrix (``optimiz.matrix_scales``). Without Nesterov's momentum u is m. AdamW has a
learning rate of its own.

Source: KellerJordan/Muon; arXiv 2502.16982 (Moonlight) for the scale by which one learning rate suits all
parameters.

Departures from the authors' code: which parameters are matrices is read off the tree
(``optimiz.groups.matrices``); a convolution's factor is that of its matrix, where theirs is of the filter's
sides; m is at least float32; the norm neither overflows nor underflows; equal matrices are one stack, which the
devices of a mesh share.

Departures from ``optax.contrib.muon``: kernels of attention and of scanned layers are matrices, and embeddings,
heads, biases and norms are not, where Optax takes every array of rank 2; the momentum is the authors', not
NAdam's; AdamW has β₂ = 0.95, decays, and is given a learning rate of its own, where Optax takes that of the
matrices; a set of polynomials has its number of steps and its safety; zeros in float16 give 0, not NaN;
matrices move between devices once on the way in and once on the way out; updates in the parameter's dtype;
validation of arguments.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from optimiz import checks, groups, numerics
from optimiz.groups.by_matrix import Routing, axes_by_leaf, by_matrix, matrices_alone
from optimiz.numerics import matrix_scales, newton_schulz
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByMuonState(NamedTuple):
    """State of :func:`scale_by_muon`."""

    mu: optax.Updates  # m; like the parameters that are matrices


def scale_by_muon(
    momentum: jax.typing.ArrayLike = 0.95,
    nesterov: bool = True,
    *,
    scale: numerics.Scale | None = None,
    newton_schulz: numerics.NewtonSchulz = newton_schulz.KELLER,
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
        scale: factor of a step by the matrix's numbers of inputs and outputs, see ``optimiz.matrix_scales``;
            None for ``keller``.
        newton_schulz: polynomials that orthogonalise, see ``optimiz.newton_schulz``.
        ns_dtype: dtype of their products, bfloat16, float32 or float64; None for float64 where the parameters
            are, and else bfloat16.
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
        >>> import jax.numpy as jnp
        >>> tx = scale_by_muon(0.0, newton_schulz=newton_schulz.CONVERGED, ns_dtype=jnp.float32)
        >>> w = jnp.zeros((2, 2))
        >>> updates, _ = tx.update(jnp.array([[0.0, 5.0], [5.0, 0.0]]), tx.init(w))
        >>> updates.round(4).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    checks.number("momentum", momentum, ge=0, lt=1)
    numerics.check_newton_schulz(newton_schulz, ns_dtype)
    matrix_scales.check(scale)
    direction = _Orthogonalised(newton_schulz, matrix_scales.keller if scale is None else scale)
    axes_of = axes_by_leaf(matrices, scanned)

    def init_fn(params):
        chosen = matrices_alone(params, axes_of(params))
        return ScaleByMuonState(jax.tree.map(lambda p: numerics.zero_moment(p, mu_dtype), chosen))

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
        of_matrices = numerics.map_matrices(
            direction, [a for a in axes if a is not None], jax.tree.leaves(u), mesh=mesh
        )
        directions = iter(x for (x,) in of_matrices)
        leaves, structure = jax.tree.flatten(updates)
        leaves = [
            g if a is None else next(directions).astype(g.dtype) for g, a in zip(leaves, axes, strict=True)
        ]
        return structure.unflatten(leaves), ScaleByMuonState(mu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: jax.typing.ArrayLike = 0.95,
    nesterov: bool = True,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    scale: numerics.Scale | None = None,
    newton_schulz: numerics.NewtonSchulz = newton_schulz.KELLER,
    ns_dtype: jax.typing.DTypeLike | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.95,
    adam_eps: jax.typing.ArrayLike = 1e-10,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """_Orthogonalised momentum for hidden matrices, AdamW for the rest.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count, of the matrices.
        adam_learning_rate: that of AdamW; None for ``learning_rate``, which suits both with ``match_adam``.
        momentum: μ in [0, 1), decay rate of the momentum, an average.
        nesterov: whether to use Nesterov's momentum, looked up from the new average.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, of all parameters, each at its rate.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        scale: factor of a step by the matrix's numbers of inputs and outputs, see ``optimiz.matrix_scales``;
            None for ``keller``.
        newton_schulz: polynomials that orthogonalise, see ``optimiz.newton_schulz``.
        ns_dtype: dtype of their products, bfloat16, float32 or float64; None for float64 where the parameters
            are, and else bfloat16.
        adam_b1: β₁ in [0, 1), decay rate of AdamW's first moment.
        adam_b2: β₂ in [0, 1), decay rate of its second moment.
        adam_eps: ε ≥ 0, added to the root of that.
        matrices: which parameters are matrices: axes, or None, by pattern of path where those of
            ``groups.matrices`` do not fit, or a function of the parameters to the tree of both.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own.
        mesh: mesh whose devices share the matrices; None for that of ``jax.set_mesh``, if there is one.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type; or, in ``update``, a matrix is complex.
        ValueError: an argument is outside its domain; ``adam_learning_rate`` is missing where one rate does not
            suit both; or a gradient has another shape than its parameter; or, in ``init``, as for
            ``groups.matrices``.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = muon(0.5, adam_learning_rate=0.25, newton_schulz=newton_schulz.CONVERGED, ns_dtype=jnp.float32)
        >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((2, 2))}
        >>> grads = {"bias": jnp.array([3.0, -4.0]), "kernel": jnp.array([[0.0, 5.0], [5.0, 0.0]])}
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> updates["kernel"].round(4).tolist(), updates["bias"].round(4).tolist()
        ([[-0.0, -0.5], [-0.5, -0.0]], [-0.25, 0.25])
    """

    def of_matrices(axes: tuple[groups.Matrix, ...]) -> optax.GradientTransformation:
        return optax.chain(
            scale_by_muon(
                momentum,
                nesterov,
                scale=scale,
                newton_schulz=newton_schulz,
                ns_dtype=ns_dtype,
                matrices=lambda tree: jax.tree.structure(tree).unflatten(axes),
                mesh=mesh,
                mu_dtype=mu_dtype,
            ),
            decoupled_weight_decay(
                weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
            ),
            scale_by_learning_rate(learning_rate),
        )

    adam_learning_rate = matrix_scales.adam_rate(learning_rate, adam_learning_rate, scale)
    checks.number("adam_b1", adam_b1, ge=0, lt=1)
    checks.number("adam_b2", adam_b2, ge=0, lt=1, typical=0.95)
    checks.number("adam_eps", adam_eps, ge=0, typical=1e-10)
    rest = optax.chain(
        scale_by_adam(adam_b1, adam_b2, adam_eps),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=adam_learning_rate
        ),
        scale_by_learning_rate(adam_learning_rate, counted_elsewhere=True),
    )
    return by_matrix("muon", of_matrices, rest, axes_by_leaf(matrices, scanned), weight_decay_mask)


@dataclasses.dataclass(frozen=True)
class _Orthogonalised:
    """The direction of a stack of matrices."""

    polynomials: numerics.NewtonSchulz
    scale: numerics.Scale

    def __call__(self, u: jax.Array) -> tuple[jax.Array]:
        factor = self.scale(*u.shape[-2:])
        return (numerics.orthogonalise(u, self.polynomials, u.dtype) * factor,)
