r"""Adam's moments in bases of a matrix's sides, which are refreshed now and then.

For a matrix of inputs × outputs with the gradient G, factors L and R, and their eigenbases Q:

.. math::
    Y = Q_L^\top G\, Q_R, \qquad m \leftarrow \beta_1 m + (1 - \beta_1) Y, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) Y^2, \qquad
        d = c_k\, Q_L \frac{m}{\sqrt v + \epsilon}\, Q_R^\top

A :class:`Form` says what L and R are: ``optimiz.soap`` has Shampoo's, ``optimiz.kl_soap`` KL-Shampoo's. The
first update finds the bases, as eigenvectors of L and R; its direction is zero, and k counts the later ones.
After every f-th of these, Q becomes the orthogonal factor of the QR of L Q, a step of the power iteration; m is
rotated into the new basis. A side longer than ``max_precond_dim`` is not rotated. Parameters that are no
matrices have the same update without Q.

Equal matrices are one stack, which the devices of a mesh share.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh

from optimiz import checks, groups, numerics
from optimiz.groups.routing import Routing, axes_by_leaf, matrices_alone


class ScaleInEigenbasesState(NamedTuple):
    """State of :func:`scale_in_eigenbases`.

    What belongs to sides is a pair of trees like the parameters, of the inputs and of the outputs, with
    ``optax.MaskedNode`` where a side is not rotated. ``numerics.Exact`` keeps it out of ``low_bit``.
    """

    count: jax.Array  # int32 scalar: updates made so far
    mu: optax.Updates  # m; like the parameters, of matrices in the bases
    nu: optax.Updates  # v; likewise, real
    factors: numerics.Exact  # L and R; the batch axes of the parameter, then [n, n]
    bases: numerics.Exact  # Q of each; zero until the first update
    inverse_roots: numerics.Exact  # s of a form with roots; like the parameter, but for axes of the other side


@dataclasses.dataclass(frozen=True)
class Form:
    """What tells one method from another.

    Attributes:
        step: from the sides that are rotated to the update of a stack of matrices: a hashable function of the
            gradients, m, v, then for each side the factors, inverse roots if there are any, and bases, and last
            ``numerics.Rates``; to the directions, m, v, factors and inverse roots.
        sort: whether bases, and v with them, are sorted by the diagonal of QᵀLQ before they are refreshed.
        bias_correction: whether the direction is corrected for the bias of the moments.
        first_eigenvalue: of a method with inverse roots of eigenvalues, the first one; None for no roots.
    """

    step: Callable[[tuple[int, ...]], Callable[..., tuple[jax.Array, ...]]]
    sort: bool
    bias_correction: bool
    first_eigenvalue: jax.typing.ArrayLike | None = None


def scale_in_eigenbases(
    form: Form,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    *,
    shampoo_beta: jax.typing.ArrayLike | None,
    precondition_frequency: jax.typing.ArrayLike,
    max_precond_dim: int,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None,
    scanned: Mapping[str, int] | None,
    mesh: Mesh | AbstractMesh | None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale matrices by moments in eigenbases, and others by moments.

    Args:
        form: the method.
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
    """
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.95)
    checks.number("eps", eps, ge=0, typical=1e-8)
    if shampoo_beta is not None:
        checks.number("shampoo_beta", shampoo_beta, ge=0, lt=1, typical=0.95)
    checks.integer("precondition_frequency", precondition_frequency, ge=1)
    if isinstance(max_precond_dim, Tracer):
        checks.static("max_precond_dim", max_precond_dim)
    checks.integer("max_precond_dim", max_precond_dim, ge=0)
    axes_of = axes_by_leaf(matrices, scanned, whole=True)

    def sided(tree):
        """The leaves that are rotated, by their sides."""
        axes = axes_of(tree)
        matrices_alone(tree, axes)  # complex ones are refused
        return numerics.by_sides([jnp.shape(x) for x in jax.tree.leaves(tree)], axes, int(max_precond_dim))

    def rates_at(count, nu):
        """What the steps of all leaves need; the first update has no k."""
        k = jnp.maximum(count, 1)
        of_m, of_v = (numerics.bias_corrections(b, k, nu) for b in (b1, b2))
        correction = {
            real.name: jnp.sqrt(of_v[real]) / of_m[real] if form.bias_correction else jnp.ones([], real)
            for real in of_v
        }
        return numerics.Rates(b1, b2, b2 if shampoo_beta is None else shampoo_beta, eps, count > 0, correction)

    def first_roots(p, axes, side):
        root = jax.lax.rsqrt(jnp.asarray(form.first_eigenvalue, numerics.real_dtype(p.dtype)))
        return numerics.full_vector(root, p, axes, side)

    def init_fn(params):
        leaves, structure = jax.tree.flatten(params)
        members = sided(params)

        def pair(new: Callable[[Any, Any, int], jax.Array]) -> tuple[Any, ...]:
            trees: list[list[Any]] = [[optax.MaskedNode()] * len(leaves) for _ in range(2)]
            for each in members:
                for i, a in zip(each.leaves, each.axes, strict=True):
                    for side in each.sides:
                        trees[side + 2][i] = new(leaves[i], a, side)
            return tuple(map(structure.unflatten, trees))

        return ScaleInEigenbasesState(
            jnp.zeros([], jnp.int32),
            jax.tree.map(lambda p: numerics.zero_moment(p, None), params),
            jax.tree.map(lambda p: numerics.real_moment(p, None), params),
            numerics.Exact(pair(numerics.zero_square)),
            numerics.Exact(pair(numerics.zero_square)),
            numerics.Exact(() if form.first_eigenvalue is None else pair(first_roots)),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        structure = jax.tree.structure(updates)
        flat = structure.flatten_up_to
        direction, mu, nu = flat(updates), flat(state.mu), flat(state.nu)
        of_sides = state.factors, state.inverse_roots, state.bases
        factors, roots, bases = ([flat(tree) for tree in part.value] for part in of_sides)
        members = sided(updates)
        rates = rates_at(state.count, nu)

        for each in members:
            each.map(
                form.step(each.sides),
                *each.like_parameter(direction, mu, nu),
                *each.of_sides(factors),
                *each.of_sides(roots, square=False),
                *each.of_sides(bases),
                scalars=(rates,),
                mesh=mesh,
            )
        rotated = {i for each in members for i in each.leaves}
        alone = numerics.traced_once(lambda g, m, v: form.step(())(g, m, v, rates), direction)
        for i in set(range(len(direction))) - rotated:
            direction[i], mu[i], nu[i] = alone(direction[i], mu[i], nu[i])

        def begun():
            first = [list(arrays) for arrays in bases]
            for each in members:
                each.map(_Begun(each.sides), *each.of_sides(first), *each.of_sides(factors), mesh=mesh)
            return mu, nu, first

        def refreshed():
            m, v, *next_bases = map(list, (mu, nu, *bases))
            for each in members:
                each.map(
                    _Refreshed(each.sides, form.sort),
                    *each.like_parameter(m, v),
                    *each.of_sides(next_bases),
                    *each.of_sides(factors),
                    mesh=mesh,
                )
            return m, v, next_bases

        if members:  # one branch, whose predicate is the same for all, or vmap would take both
            mu, nu, bases = numerics.cond(
                state.count % precondition_frequency == 0,
                lambda: numerics.cond(state.count == 0, begun, refreshed),
                lambda: (mu, nu, bases),
            )
        mu, nu = structure.unflatten(mu), structure.unflatten(nu)
        of_sides = (numerics.Exact(tuple(map(structure.unflatten, pair))) for pair in (factors, bases, roots))
        count = numerics.increment(state.count)
        return structure.unflatten(direction), ScaleInEigenbasesState(count, mu, nu, *of_sides)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@dataclasses.dataclass(frozen=True)
class _Begun:
    """The first bases of a stack of matrices, of their factors."""

    sides: tuple[int, ...]

    def __call__(self, *stacks: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(numerics.eigenbasis(x) for x in stacks[len(self.sides) :])


@dataclasses.dataclass(frozen=True)
class _Refreshed:
    """The next bases of a stack of matrices, and their moments in these."""

    sides: tuple[int, ...]
    sort: bool

    def __call__(self, m: jax.Array, v: jax.Array, *stacks: jax.Array) -> tuple[jax.Array, ...]:
        n, bases = len(self.sides), []
        for side, q, factor in zip(self.sides, stacks[:n], stacks[n:], strict=True):
            new, order = numerics.power_iteration(factor, q, sort=self.sort)
            m = numerics.rotated(m, [numerics.rotated(q.mT, [new], [-1])], [side])
            v = numerics.in_order(v, order, side) if self.sort else v
            bases.append(new)
        return m, v, *bases
