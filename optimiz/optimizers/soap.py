r"""SOAP: Adam in the eigenbases of Shampoo's factors; and KL-SOAP, with the factors of KL-Shampoo.

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

KL-SOAP, with s the inverse roots of the eigenvalues μ that a side has in its basis, for r inputs and c outputs:

.. math::
    L &\leftarrow \beta L + (1 - \beta)\, X X^\top / c, \qquad X = G\, Q_R \operatorname{diag}(s_R) \\
    \mu_L &\leftarrow \beta s_L^{-2} + (1 - \beta) \operatorname{mean}_\text{out}
        \left( Y \operatorname{diag}(s_R) \right)^2, \qquad
        s_L = \min\left(\mu_L^{-1/2}, \max(10, \min(r, 4000))\right)

R likewise, all of them with the old s. Its moments have no bias correction, and its bases are not sorted.

Source: arXiv 2409.11321 and the authors' code, nikhilvyas/SOAP; for KL-SOAP arXiv 2509.03378 and the authors'
code, yorkerlin/KL-Methods.

Departures from the authors' code: weight decay is of the parameters before the step, and of the first update
too; a parameter of several axes is the matrix, or the stack of matrices, of ``optimiz.groups.matrices``, or
else Adam's, while theirs rotates each axis alone or, with ``merge_dims``, merges neighbours with a short
product, layers and heads among them; m, v, factors and bases are at least float32, where the factors of SOAP
have the default dtype and all of KL-SOAP is in bfloat16; entries that are too large are limited, so that
factors are finite; equal matrices are one stack, which the devices of a mesh share; KL-SOAP leaves long sides
as they are, has vectors as SOAP has them, which theirs refuses, and makes matrices of what theirs takes as
tensors of three axes; ``normalize_grads`` and ``precondition_1d`` are left out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh

from optimiz import checks, groups, numerics
from optimiz.groups.routing import Routing, axes_by_leaf, matrices_alone
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleBySoapState(NamedTuple):
    """State of :func:`scale_by_soap` and :func:`scale_by_kl_soap`.

    What belongs to sides is a pair of trees like the parameters, of the inputs and of the outputs, with
    ``optax.MaskedNode`` where a side is not rotated. ``numerics.Exact`` keeps it out of ``low_bit``.
    """

    count: jax.Array  # int32 scalar: updates made so far
    mu: optax.Updates  # m; like the parameters, of matrices in the bases
    nu: optax.Updates  # v; likewise, real
    factors: numerics.Exact  # L and R; the batch axes of the parameter, then [n, n]
    bases: numerics.Exact  # Q of each; zero until the first update
    inverse_roots: numerics.Exact  # s of KL-SOAP, like the parameter with the other side's axes of length 1


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
        >>> tx = scale_by_soap(0.0, 0.0, 0.0)
        >>> g = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> first, state = tx.update(g, tx.init(g))
        >>> second, _ = tx.update(g, state)  # in the eigenbasis, the sign of the gradient
        >>> first.tolist(), second.tolist()
        ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    """
    return _in_eigenbases(
        _Form(_Step, sort=True, bias_correction=True, init_factor=None),
        _Hyperparameters(b1, b2, eps, shampoo_beta, precondition_frequency, max_precond_dim),
        axes_by_leaf(matrices, scanned, whole=True),
        mesh,
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
    return _in_eigenbases(
        _Form(_KlStep, sort=False, bias_correction=False, init_factor=init_factor),
        _Hyperparameters(b1, b2, eps, shampoo_beta, precondition_frequency, max_precond_dim),
        axes_by_leaf(matrices, scanned, whole=True),
        mesh,
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
class _Hyperparameters:
    """What the two have in common."""

    b1: jax.typing.ArrayLike
    b2: jax.typing.ArrayLike
    eps: jax.typing.ArrayLike
    shampoo_beta: jax.typing.ArrayLike | None
    precondition_frequency: jax.typing.ArrayLike
    max_precond_dim: int

    def __post_init__(self):
        checks.number("b1", self.b1, ge=0, lt=1)
        checks.number("b2", self.b2, ge=0, lt=1, typical=0.95)
        checks.number("eps", self.eps, ge=0, typical=1e-8)
        if self.shampoo_beta is not None:
            checks.number("shampoo_beta", self.shampoo_beta, ge=0, lt=1, typical=0.95)
        checks.integer("precondition_frequency", self.precondition_frequency, ge=1)
        if isinstance(self.max_precond_dim, Tracer):
            checks.static("max_precond_dim", self.max_precond_dim)
        checks.integer("max_precond_dim", self.max_precond_dim, ge=0)


class _Numbers(NamedTuple):
    """The hyperparameters of an update, and what follows from its count."""

    b1: jax.typing.ArrayLike
    b2: jax.typing.ArrayLike
    beta: jax.typing.ArrayLike
    eps: jax.typing.ArrayLike
    started: jax.Array  # bool scalar: whether the bases are known
    correction: Mapping[str, jax.Array]  # of the direction, by the name of the dtype of v


@dataclasses.dataclass(frozen=True)
class _Step:
    """The direction of a stack of matrices, their moments and factors."""

    sides: tuple[int, ...]

    def __call__(self, g: jax.Array, m: jax.Array, v: jax.Array, *rest: Any) -> tuple[jax.Array, ...]:
        n = len(self.sides)
        factors, bases, (numbers,) = rest[:n], rest[n : 2 * n], rest[2 * n :]
        dtype, wide = g.dtype, _limited(g, m.dtype, self.sides)
        y = numerics.rotated(wide, bases, self.sides)
        direction, m, v = _moments(y, m, v, bases, self.sides, numbers)
        factors = [
            _average(numbers.beta, x, numerics.gram(wide, side))
            for x, side in zip(factors, self.sides, strict=True)
        ]
        return direction.astype(dtype), m, v, *factors


@dataclasses.dataclass(frozen=True)
class _KlStep:
    """The direction of a stack of matrices, their moments, factors and the inverse roots of the eigenvalues."""

    sides: tuple[int, ...]

    def __call__(self, g: jax.Array, m: jax.Array, v: jax.Array, *rest: Any) -> tuple[jax.Array, ...]:
        n = len(self.sides)
        factors, roots, bases, (numbers,) = rest[:n], rest[n : 2 * n], rest[2 * n : 3 * n], rest[3 * n :]
        dtype, wide = g.dtype, _limited(g, m.dtype, self.sides, _LARGEST_ROOT)
        y = numerics.rotated(wide, bases, self.sides)
        direction, m, v = _moments(y, m, v, bases, self.sides, numbers)
        new_factors, new_roots = [], []
        for i, side in enumerate(self.sides):
            others = [j for j in range(n) if j != i]  # none, if the other side is not rotated
            x, z = numerics.rotated(wide, [bases[j] for j in others], [self.sides[j] for j in others]), y
            for j in others:
                x, z = x * roots[j], z * roots[j]
            x = jnp.where(numbers.started, x, wide)
            new_factors.append(_average(numbers.beta, factors[i], numerics.gram(x, side) / x.shape[-3 - side]))
            mean = jnp.mean(jnp.square(z), axis=-3 - side, keepdims=True)
            eigenvalue = _average(numbers.beta, 1 / jnp.square(roots[i]), mean)
            largest = max(_SMALLEST_BOUND, min(x.shape[side], _LARGEST_ROOT))
            new = jnp.minimum(jax.lax.rsqrt(eigenvalue), largest)
            new_roots.append(jnp.where(numbers.started, new, roots[i]))
        return direction.astype(dtype), m, v, *new_factors, *new_roots


# The authors' bounds of the inverse roots.
_SMALLEST_BOUND, _LARGEST_ROOT = 10, 4000


def _limited(g: jax.Array, dtype: jnp.dtype, sides: Sequence[int], factor: float = 1) -> jax.Array:
    """The gradient in a dtype, limited so that factors, and squares in a basis times a factor², are finite."""
    entries = math.prod(g.shape[-2:]) if sides else 1
    return numerics.squarable(g.astype(dtype), max(entries, 1) * factor**2)


def _moments(
    y: jax.Array,
    m: jax.Array,
    v: jax.Array,
    bases: Sequence[jax.Array],
    sides: Sequence[int],
    numbers: _Numbers,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The direction, and both moments of the coordinates y."""
    y = y * numbers.started  # also of what has no bases
    m = _average(numbers.b1, m, y)
    v = _average(numbers.b2, v, numerics.abs_sq(y))
    # Of 0 the root is 0, and so is its derivative.
    root = jnp.sign(v) * jnp.sqrt(numerics.nonzero_divisor(v)) + jnp.asarray(numbers.eps, v.dtype)
    direction = numerics.rotated_back(m / numerics.nonzero_divisor(root), bases, sides)
    return direction * numbers.correction[v.dtype.name], m, v


def _average(decay: jax.typing.ArrayLike, old: jax.Array, new: jax.Array) -> jax.Array:
    decay = jnp.asarray(decay, numerics.real_dtype(old.dtype))
    return decay * old + (1 - decay) * new


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


@dataclasses.dataclass(frozen=True)
class _Form:
    """What tells SOAP from KL-SOAP.

    Attributes:
        step: from the sides that are rotated to the update of a stack of matrices.
        sort: whether bases are sorted when they are refreshed.
        bias_correction: whether the direction is corrected for the bias of the moments.
        init_factor: first eigenvalue of KL-SOAP's factors; None for SOAP.
    """

    step: type[_Step] | type[_KlStep]
    sort: bool
    bias_correction: bool
    init_factor: jax.typing.ArrayLike | None


@dataclasses.dataclass(frozen=True)
class _Members:
    """Leaves whose matrices are rotated along the same sides.

    Attributes:
        sides: -2 for the inputs, -1 for the outputs.
        leaves: indices of the leaves.
        axes: axes of each as a matrix.
    """

    sides: tuple[int, ...]
    leaves: list[int]
    axes: list[groups.Matrix]

    def map(self, function: Callable[..., Any], *columns: "_Column", **given: Any) -> None:
        """Map a function of stacks; its results take the place of the first columns."""
        found = numerics.map_matrices(
            function,
            [tuple(column.axes(a) for column in columns) for a in self.axes],
            *([column.arrays[i] for i in self.leaves] for column in columns),
            **given,
        )
        for results, column in zip(zip(*found, strict=True), columns, strict=False):
            for i, x in zip(self.leaves, results, strict=True):
                column.arrays[i] = x

    def like_parameter(self, *trees: list[Any]) -> list["_Column"]:
        """The columns of lists of arrays that are laid out as the parameters."""
        return [_Column(arrays, lambda a: a) for arrays in trees]

    def of_sides(self, pair: Sequence[list[Any]], square: bool = True) -> list["_Column"]:
        """The columns of a pair of lists, of the inputs and of the outputs; none if there are no lists."""
        return [_Column(pair[side + 2], _square if square else lambda a: a) for side in self.sides if pair]


class _Column(NamedTuple):
    """Arrays by the index of their leaf, and the axes of one, from those of the parameter."""

    arrays: list[Any]
    axes: Callable[[groups.Matrix], groups.Matrix]


def _in_eigenbases(
    form: _Form,
    given: _Hyperparameters,
    axes_of: Callable[[Any], tuple[groups.Matrix | None, ...]],
    mesh: Mesh | AbstractMesh | None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale by moments in bases; see the module docstring."""

    def init_fn(params):
        leaves, structure = jax.tree.flatten(params)
        members = _members(params, axes_of(params), given)

        def pair(new: Callable[[Any, groups.Matrix, int], jax.Array]) -> tuple[Any, ...]:
            trees: list[list[Any]] = [[optax.MaskedNode()] * len(leaves) for _ in range(2)]
            for each in members:
                for i, a in zip(each.leaves, each.axes, strict=True):
                    for side in each.sides:
                        trees[side + 2][i] = new(leaves[i], a, side)
            return tuple(map(structure.unflatten, trees))

        return ScaleBySoapState(
            jnp.zeros([], jnp.int32),
            jax.tree.map(lambda p: numerics.zero_moment(p, None), params),
            jax.tree.map(lambda p: numerics.real_moment(p, None), params),
            numerics.Exact(pair(_zeros)),
            numerics.Exact(pair(_zeros)),
            numerics.Exact(
                () if form.init_factor is None else pair(functools.partial(_first_roots, form.init_factor))
            ),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        structure = jax.tree.structure(updates)
        flat = structure.flatten_up_to
        direction, mu, nu = flat(updates), flat(state.mu), flat(state.nu)
        sided = state.factors, state.inverse_roots, state.bases
        factors, roots, bases = ([flat(tree) for tree in part.value] for part in sided)
        members = _members(updates, axes_of(updates), given)
        numbers = _numbers(form, given, state.count, nu)

        for each in members:
            each.map(
                form.step(each.sides),
                *each.like_parameter(direction, mu, nu),
                *each.of_sides(factors),
                *each.of_sides(roots, square=False),
                *each.of_sides(bases),
                scalars=(numbers,),
                mesh=mesh,
            )
        rotated = {i for each in members for i in each.leaves}
        alone = numerics.traced_once(lambda g, m, v: form.step(())(g, m, v, numbers), direction)
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
                state.count % given.precondition_frequency == 0,
                lambda: numerics.cond(state.count == 0, begun, refreshed),
                lambda: (mu, nu, bases),
            )
        mu, nu = structure.unflatten(mu), structure.unflatten(nu)
        sided = (numerics.Exact(tuple(map(structure.unflatten, pair))) for pair in (factors, bases, roots))
        count = numerics.increment(state.count)
        return structure.unflatten(direction), ScaleBySoapState(count, mu, nu, *sided)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _members(tree: Any, axes: tuple[groups.Matrix | None, ...], given: _Hyperparameters) -> list[_Members]:
    """The leaves that are rotated, by their sides."""
    matrices_alone(tree, axes)  # complex ones are refused
    found: dict[tuple[int, ...], _Members] = {}
    for i, (leaf, a) in enumerate(zip(jax.tree.leaves(tree), axes, strict=True)):
        sides = () if a is None else _rotated_sides(leaf.shape, a, int(given.max_precond_dim))
        if a is not None and sides:
            members = found.setdefault(sides, _Members(sides, [], []))
            members.leaves.append(i)
            members.axes.append(a)
    return list(found.values())


def _numbers(form: _Form, given: _Hyperparameters, count: jax.Array, nu: list[jax.Array]) -> _Numbers:
    """What the steps of all leaves need; the first update has no k."""
    beta = given.b2 if given.shampoo_beta is None else given.shampoo_beta
    k = jnp.maximum(count, 1)
    of_m, of_v = (numerics.bias_corrections(b, k, nu) for b in (given.b1, given.b2))
    correction = {
        real.name: jnp.sqrt(of_v[real]) / of_m[real] if form.bias_correction else jnp.ones([], real)
        for real in of_v
    }
    return _Numbers(given.b1, given.b2, beta, given.eps, count > 0, correction)


def _rotated_sides(shape: tuple[int, ...], axes: groups.Matrix, longest: int) -> tuple[int, ...]:
    """The sides of a matrix that are not too long."""
    if axes.sizes is not None:
        raise ValueError(
            f"sizes must be None, as what is fused is rotated as one matrix, got {axes.sizes}: leave them out, "
            "or take groups.matrices(whole=True)"
        )
    lengths = (math.prod(shape[i] for i in side) for side in (axes.reduction, axes.output))
    return tuple(side for side, n in zip((-2, -1), lengths, strict=True) if 0 < n <= longest)


def _square(axes: groups.Matrix) -> groups.Matrix:
    """The axes of a parameter's factor: its batch axes in their order, and two more."""
    order, n = sorted(axes.batch), len(axes.batch)
    return groups.Matrix(tuple(order.index(i) for i in axes.batch), (n,), (n + 1,))


def _zeros(p: jax.Array, axes: groups.Matrix, side: int) -> jax.Array:
    """A factor of a parameter, laid out along the batch axes as the parameter is."""
    n = math.prod(p.shape[i] for i in (axes.reduction if side == -2 else axes.output))

    def factor(x: jax.Array) -> jax.Array:
        batch = jnp.sum(x, axis=axes.reduction + axes.output)[..., None, None]
        return jnp.broadcast_to(batch, (*batch.shape[:-2], n, n))

    return jnp.zeros_like(jax.eval_shape(factor, p), dtype=numerics.real_dtype(p.dtype))


def _first_roots(eigenvalue: jax.typing.ArrayLike, p: jax.Array, axes: groups.Matrix, side: int) -> jax.Array:
    """The inverse root of the first eigenvalue for each entry of a side, laid out as the parameter."""
    others = axes.output if side == -2 else axes.reduction
    like = jax.eval_shape(lambda x: jnp.sum(x, axis=others, keepdims=True), p)
    dtype = numerics.real_dtype(p.dtype)
    return jnp.full_like(like, jax.lax.rsqrt(jnp.asarray(eigenvalue, dtype)), dtype=dtype)
