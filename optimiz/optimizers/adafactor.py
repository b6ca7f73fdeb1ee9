r"""Adafactor: RMS-scaled steps whose second moment is kept, for a matrix, as one row and one column.

.. math::
    G &= |g|^2 + \epsilon_1, \qquad \beta_t = \min(1 - t^{-c}, \beta_\text{cap}) \\
    R &\leftarrow \beta_t R + (1 - \beta_t)\, \text{mean}_\text{columns}(G), \qquad
    C \leftarrow \beta_t C + (1 - \beta_t)\, \text{mean}_\text{rows}(G), \qquad
    V = R\, C \,/\, \text{mean}(R) \\
    U &= g \,/ \sqrt V, \qquad \hat U = U \,/ \max(1, \text{RMS}(U) / d) \\
    m &\leftarrow \mu\, m + (1 - \mu) \max(\epsilon_2, \text{RMS}(\theta))\, \hat U, \qquad
    \theta \leftarrow \theta - \eta_t (m + \lambda\, \theta)

A parameter with fewer than two long axes keeps V whole. Statistics and RMS are per block: one parameter tensor,
or one layer of a tensor that ``nn.scan`` has stacked. The first β is 0, so that V needs no bias correction.

Source: arXiv 1804.04235 (Shazeer and Stern), Algorithms 4 and 5; ε₂ is its 1e-3. The relative step is its
:math:`\eta_t = \min(10^{-2}, 1 / \sqrt t)`. The decay is that of PyTorch; the cap on β is that of Big Vision
(arXiv 2106.04560), 0.999 there, and 0.95 for some models. ``floor`` is the ε₁ of ``torch.optim.Adafactor``,
which is no part of the averages: V is at least its square, and mean(R) in the denominator at least it.

Departures from ``optax.adafactor``: the decay is scaled by the learning rate (``decay_coupling="independent"``
undoes it); the learning rate multiplies the momentum and is not averaged with it; ``decay_offset`` does not
make a fresh state NaN; the axis along which layers are stacked is never factored (``scanned``); statistics are
float32 for bfloat16 parameters, β is float64 for float64 ones, and a gradient too large to be squared does no
lasting harm; with ε₁ = 0 a gradient of zero moves nothing, instead of 0/0; updates in the parameter's dtype;
validation of arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from optimiz import checks, groups, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.momentum import ema
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByFactoredRmsState(NamedTuple):
    """State of :func:`scale_by_factored_rms`."""

    count: jax.Array  # int32 scalar: number of updates so far
    v_row: optax.Params  # per leaf: R, with the longer factored axis at length 1; a scalar if V is whole
    v_col: optax.Params  # per leaf: C, with the shorter factored axis at length 1; a scalar if V is whole
    v: optax.Params  # per leaf: V, like the parameter; a scalar if it is factored


def scale_by_factored_rms(
    decay_rate: jax.typing.ArrayLike,
    decay_offset: jax.typing.ArrayLike = 0,
    eps: jax.typing.ArrayLike = 0.0,
    *,
    min_dim_size_to_factor: int = 1,
    factored: bool = True,
    scanned: Mapping[str, int] | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
    clipping_threshold: jax.typing.ArrayLike | None = None,
    beta2_cap: jax.typing.ArrayLike | None = None,
    floor: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Divide updates by the root of their factored second moment.

    Args:
        decay_rate: c > 0; at update t the squared gradient enters the mean with weight t to the power of -c.
        decay_offset: update count, ≥ 0, at which t starts again from 1, such as the count of a restored state
            that fine-tuning starts from.
        eps: ε₁ ≥ 0, added to the squared gradient.
        min_dim_size_to_factor: length, ≥ 1, that the two longest axes of a parameter must have for V to be
            factored along them. It determines shapes: name it in ``static_args`` of
            ``optax.inject_hyperparams``.
        factored: whether to factor V at all.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; it is
            never factored.
        nu_dtype: dtype of R, C and V; None for the parameters' dtype, at least float32.
        clipping_threshold: d > 0, largest RMS of a block's update; None for no clipping. It is part of this
            transformation because U is computed twice, not held for its RMS.
        beta2_cap: largest β, in (0, 1), so that the mean spans at most about 1 / (1 - β) updates; None for no
            cap.
        floor: ≥ 0, least root of V, and least mean(R) to divide by.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_factored_rms(0.8)
        >>> g = jnp.array([[1.0, -1.0], [3.0, 3.0]])
        >>> updates, _ = tx.update(g, tx.init(g))  # R = [1, 9], C = [5, 5], V = [[1, 1], [9, 9]]
        >>> updates.round(6).tolist()
        [[1.0, -1.0], [1.0, 1.0]]
    """
    checks.number("decay_rate", decay_rate, gt=0)
    checks.number("decay_offset", decay_offset, ge=0)
    checks.number("eps", eps, ge=0)
    if isinstance(min_dim_size_to_factor, Tracer):
        checks.static("min_dim_size_to_factor", min_dim_size_to_factor)
    checks.number("min_dim_size_to_factor", min_dim_size_to_factor, ge=1)
    if clipping_threshold is not None:
        checks.number("clipping_threshold", clipping_threshold, gt=0)
    if beta2_cap is not None:
        checks.number("beta2_cap", beta2_cap, gt=0, lt=1)
    checks.number("floor", floor, ge=0)
    checks.floating("nu_dtype", nu_dtype)

    def factored_axes(shape: tuple[int, ...], scanned_axis: int | None) -> tuple[int, int] | None:
        """The shorter and the longer axis to factor, or None to keep V whole."""
        axes = sorted(numerics.block_axes(len(shape), scanned_axis), key=lambda axis: shape[axis])
        if not factored or len(axes) < 2 or shape[axes[-2]] < min_dim_size_to_factor:
            return None
        return axes[-2], axes[-1]

    def map_leaves(leaf: Callable[..., tuple[Any, ...]], outputs: int, tree: Any, *others: Any) -> list[Any]:
        """Call ``leaf(array, *others, scanned_axis=...)`` for each leaf; one tree per output."""
        leaves, structure = jax.tree.flatten(tree)
        columns = leaves, *map(structure.flatten_up_to, others)
        leaf = numerics.traced_once(leaf, columns, static=("scanned_axis",))
        axes = groups.scanned_axes(tree, scanned)
        rows = [leaf(*row, scanned_axis=axis) for *row, axis in zip(*columns, axes, strict=True)]
        return [structure.unflatten([row[i] for row in rows]) for i in range(outputs)]

    def init_fn(params):
        def leaf(p, *, scanned_axis):
            dtype = numerics.real_dtype(p.dtype) if nu_dtype is None else nu_dtype

            def zeros(*axes):
                like = jax.eval_shape(lambda x: jnp.sum(x, axis=axes, keepdims=True), p)
                return jnp.zeros_like(like, dtype=dtype)

            axes = factored_axes(p.shape, scanned_axis)
            if axes is None:
                return jnp.zeros([], dtype), jnp.zeros([], dtype), zeros()
            shorter, longer = axes
            return zeros(longer), zeros(shorter), jnp.zeros([], dtype)

        return ScaleByFactoredRmsState(jnp.zeros([], jnp.int32), *map_leaves(leaf, 3, params))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        count, *moments = state
        checks.same_shapes("gradient", updates, "parameter", jax.tree.map(_whole, *moments))
        steps_before = jnp.where(count >= decay_offset, count - decay_offset, count)

        def leaf(g, *old, scanned_axis):
            axes = factored_axes(g.shape, scanned_axis)
            weight = 1 / (steps_before.astype(numerics.real_dtype(g.dtype)) + 1) ** decay_rate
            if beta2_cap is not None:
                weight = jnp.maximum(weight, jnp.asarray(1 - beta2_cap, weight.dtype))
            new = _averages(g, axes, weight, eps, *old)
            direction = _direction(numerics.squarable(numerics.widen(g)), axes, floor, *new)
            if clipping_threshold is not None:
                # Of the gradient as it is, which can only make the RMS larger; numerics.fusion, rule 1.
                again, of_new = numerics.rematerialise((g, new))
                rms = jnp.sqrt(
                    _mean_square(
                        _direction(numerics.widen(again), axes, floor, *of_new),
                        numerics.block_axes(g.ndim, scanned_axis),
                    )
                )
                direction = direction / jnp.maximum(1, rms / clipping_threshold)
            stored = (x.astype(before.dtype) for x, before in zip(new, old, strict=True))
            return direction.astype(g.dtype), *stored

        direction, *moments = map_leaves(leaf, 4, updates, *moments)
        return direction, ScaleByFactoredRmsState(numerics.increment(count), *moments)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _averages(
    g: jax.Array,
    axes: tuple[int, int] | None,
    weight: jax.Array,
    eps: jax.typing.ArrayLike,
    v_row: jax.Array,
    v_col: jax.Array,
    v: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """R, C and V with the squares of a gradient of the given weight; what is not in use stays."""

    def average(moment, square):
        return (1 - weight) * moment.astype(square.dtype) + weight * (square + eps)

    if axes is None:
        return v_row, v_col, average(v, numerics.limited_square(numerics.widen(g)))
    shorter, longer = axes
    again = numerics.rematerialise(g)
    of_row = _mean_square(again, (longer,))
    of_col = _mean_square(numerics.rematerialise(again), (shorter,))
    return average(v_row, of_row), average(v_col, of_col), v


def _direction(
    g: jax.Array,
    axes: tuple[int, int] | None,
    floor: jax.typing.ArrayLike,
    v_row: jax.Array,
    v_col: jax.Array,
    v: jax.Array,
) -> jax.Array:
    """U = g / √V, of V whole or of R C / mean(R)."""
    if axes is None:
        return g / _root(v if checks.is_zero(floor) else jnp.maximum(v, jnp.square(floor)))
    mean = _mean(v_row, axes[0])
    if not checks.is_zero(floor):
        whole = v_row / jnp.maximum(mean, floor) * v_col
        return g / _root(jnp.maximum(whole, jnp.square(floor)))
    return g * (1 / _root(v_row / jnp.where(mean == 0, 1, mean))) * (1 / _root(v_col))


def adafactor(
    learning_rate: optax.ScalarOrSchedule | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: jax.typing.ArrayLike = 0.8,
    decay_offset: jax.typing.ArrayLike = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: jax.typing.ArrayLike | None = 1.0,
    momentum: jax.typing.ArrayLike | None = None,
    dtype_momentum: jax.typing.DTypeLike = jnp.float32,
    weight_decay_rate: optax.ScalarOrSchedule | None = None,
    eps: jax.typing.ArrayLike = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    relative_step: bool = False,
    weight_decay: optax.ScalarOrSchedule | None = None,
    decay_coupling: Coupling = "learning_rate",
    scanned: Mapping[str, int] | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
    beta2_cap: jax.typing.ArrayLike | None = None,
    eps2: jax.typing.ArrayLike = 1e-3,
    floor: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Adaptive steps with sublinear memory.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; in units of the
            parameter's RMS, unless ``multiply_by_parameter_scale`` is off. None for 1, or for the relative
            step.
        min_dim_size_to_factor: length, ≥ 1, that two axes must have to be factored, see
            :func:`scale_by_factored_rms`.
        decay_rate: c > 0, exponent of the second moment's decay.
        decay_offset: update count, ≥ 0, at which that decay starts again.
        multiply_by_parameter_scale: whether to multiply the step by the parameter's RMS, or by ``eps2`` where
            that is larger.
        clipping_threshold: d > 0, largest RMS of U; None for no clipping.
        momentum: μ in [0, 1), decay rate of the momentum; None for no momentum and no state.
        dtype_momentum: dtype of the momentum. Name it in ``static_args`` of ``optax.inject_hyperparams``, which
            takes it for a schedule otherwise.
        weight_decay_rate: decoupled weight decay λ ≥ 0, a number or a schedule, not scaled by the parameter's
            RMS. None for no decay.
        eps: ε₁ ≥ 0, added to the squared gradient.
        factored: whether to factor the second moments at all.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        relative_step: whether to use the paper's learning rate, min(0.01, 1 / √t).
        weight_decay: alias of ``weight_decay_rate``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a block of its own.
        nu_dtype: dtype of the second moments; None for the parameters' dtype, at least float32.
        beta2_cap: largest decay rate of the second moments, in (0, 1), such as Big Vision's 0.999; None for no
            cap, as in the paper.
        eps2: ε₂ ≥ 0, lower bound of a parameter's RMS, so that a parameter at zero can move.
        floor: ε₁ ≥ 0 as PyTorch has it, where its default is the machine epsilon of the parameters' dtype: the
            least root of V, and the least mean(R) to divide by. Give ``eps=0`` with it.

    Returns:
        A transformation whose ``update`` needs the parameters, unless there is neither decay nor
        ``multiply_by_parameter_scale``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; ``relative_step`` and a learning rate are both given; or
            a gradient has another shape than its parameter.

    Example:
        >>> tx = adafactor(0.5)
        >>> params = jnp.array([2.0])
        >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # U = 3 / √9, RMS(θ) = 2
        [-1.0]
    """
    if relative_step and learning_rate is not None:
        raise ValueError("relative_step is a learning rate of its own; give no learning_rate with it")
    if learning_rate is not None:
        rate = learning_rate
    else:
        rate = _relative_step if relative_step else 1.0
    if momentum is not None:
        checks.number("momentum", momentum, ge=0, lt=1)
    checks.number("eps2", eps2, ge=0)
    decay = checks.either("weight_decay_rate", weight_decay_rate, "weight_decay", weight_decay)
    return optax.chain(
        scale_by_factored_rms(
            decay_rate,
            decay_offset,
            eps,
            min_dim_size_to_factor=min_dim_size_to_factor,
            factored=factored,
            scanned=scanned,
            nu_dtype=nu_dtype,
            clipping_threshold=clipping_threshold,
            beta2_cap=beta2_cap,
            floor=floor,
        ),
        _scale_by_param_block_rms(scanned, eps2) if multiply_by_parameter_scale else optax.identity(),
        optax.identity() if momentum is None else ema(momentum, dtype_momentum),
        decoupled_weight_decay(
            0.0 if decay is None else decay,
            weight_decay_mask,
            coupling=decay_coupling,
            learning_rate=rate,
        ),
        scale_by_learning_rate(rate, counted_elsewhere=True),
    )


def _relative_step(count: jax.typing.ArrayLike) -> jax.Array:
    steps = jnp.asarray(count, jnp.result_type(float)) + 1  # of a schedule's dtype, and not weakly typed
    return jnp.minimum(1e-2, steps**-0.5)


def _scale_by_param_block_rms(
    scanned: Mapping[str, int] | None, least: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    def update(updates, params):
        checks.needs_params(params)

        def scale(u, p, *, scanned_axis):
            rms = jnp.sqrt(_mean_square(numerics.rematerialise(p), numerics.block_axes(p.ndim, scanned_axis)))
            return (numerics.widen(u) * jnp.maximum(jnp.asarray(least, rms.dtype), rms)).astype(u.dtype)

        scale = numerics.traced_once(scale, updates, params, static=("scanned_axis",))
        leaves, structure = jax.tree.flatten(updates)
        each = zip(leaves, jax.tree.leaves(params), groups.scanned_axes(updates, scanned), strict=True)
        return structure.unflatten([scale(u, p, scanned_axis=axis) for u, p, axis in each])

    return optax.stateless(update)


def _mean_square(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mean over some axes, which are kept at length 1, limited to the largest square; NaN stays."""
    square = jnp.mean(numerics.abs_sq(numerics.widen(x)), axis=axes, keepdims=True)
    # Clipped on both sides, which ends XLA's loop of the sum here; otherwise a single core computes what
    # follows.
    return jnp.clip(square, 0, numerics.largest_square(square.dtype))


def _root(square: jax.Array) -> jax.Array:
    # Where it is 0, all gradients were 0.
    return jnp.sqrt(numerics.nonzero_divisor(square))


def _mean(x: jax.Array, axis: int) -> jax.Array:
    # Divided before they are summed: the sum of squares may overflow where their mean does not.
    return jnp.sum(x / x.shape[axis], axis=axis, keepdims=True)


def _whole(v_row: jax.Array, v_col: jax.Array, v: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.broadcast_shapes(v_row.shape, v_col.shape, v.shape), v.dtype)
