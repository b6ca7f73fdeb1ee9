"""Keep an optimizer's statistics in eight or sixteen bits, whatever the optimizer.

Around any transformation: before its update what it keeps of each parameter is decoded to float32, after it
the new state is encoded, array by array, and XLA fuses the three: no float32 copy of the state is ever in
memory. How numbers are stored is the format's page, ``optimiz.numerics.quantisation``. Nothing is known of the
optimizer. What is stored in few bits is decided at ``init``; all else stays as it is:

- Arrays that belong to parameters, have a parameter's shape and hold real floats, ``min_size`` of them or more.
  So biases, norms and factored moments, which together weigh next to nothing, stay in float32.
- Of these, arrays whose start does not depend on the parameters' values. Averages and sums start at a constant.
  What starts as a copy of the parameters (the iterates of schedule-free, the origin of DoG or Prodigy) is a
  point in their space, to which eight bits would do what they do to the parameters. It is found by following
  the values through ``init``.

Whether an array is a first or a second moment makes a difference to how it is stored, but is not decided here,
where names would have to tell: each block is stored by its own signs.

The optimizer within is initialised as for float32 parameters, so that its statistics are float32 during the
update also where the parameters are bfloat16; its updates leave in the dtype in which the gradients came, or in
the parameters'. Put this around the optimizer, and ``optimiz.accumulate`` or ``optax.MultiSteps`` around this:
a mean of gradients would be rounded at each micro-batch. Call ``init`` under ``jax.jit`` where the state would
not fit in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class LowBitState(NamedTuple):
    """State of :func:`low_bit`."""

    salt: jax.Array  # int32 scalar: updates made so far, from which the rounding has its noise
    scales: tuple[Any, ...]  # for each tree of the inner state that is like the parameters, one of scales
    inner_state: Any  # of the optimizer, with codes in place of its statistics


def low_bit(
    tx: optax.GradientTransformation,
    fmt: numerics.Int8 | numerics.Float8 | numerics.BFloat16,
    *,
    min_size: int = 4096,
) -> optax.GradientTransformationExtraArgs:
    """Store an optimizer's parameter-shaped statistics in few bits.

    Args:
        tx: any transformation.
        fmt: ``Int8(block=256)``, ``Float8(block=256)`` or ``BFloat16()``.
        min_size: ≥ 1, entries that an array has at the least to be stored in few bits.

    Returns:
        A transformation that passes extra arguments on.

    Raises:
        TypeError: ``tx`` is not a transformation, ``fmt`` is none of these, or ``min_size`` is not an integer.
        ValueError: ``min_size`` is less than 1; or, in ``init``, the state is in few bits already, or what
            of it belongs to parameters cannot be told.

    Example:
        >>> tx = low_bit(optax.trace(0.5), numerics.Int8(), min_size=16)
        >>> state = tx.init(jnp.zeros(16))
        >>> state.inner_state.trace.dtype, state.scales[0].shape
        (dtype('int8'), (1,))
        >>> for _ in range(2):  # 2, then 0.5 × 2 + 2: the largest of a block is stored exactly
        ...     updates, state = tx.update(jnp.full(16, 2.0), state)
        >>> updates[0].tolist()
        3.0
    """
    checks.transformation("tx", tx)
    checks.uncalled("fmt", fmt)
    if not isinstance(fmt, numerics.Int8 | numerics.Float8 | numerics.BFloat16):
        raise TypeError(f"fmt must be an Int8, a Float8 or a BFloat16, got {fmt!r}")
    checks.integer("min_size", min_size, ge=1)
    tx = optax.with_extra_args_support(tx)
    encode, decode = jax.jit(fmt.encode), jax.jit(fmt.decode)  # traced once for all arrays of a shape

    def init_fn(params):
        params = jax.tree.map(_widened, params)
        shapes = {p.shape for p in jax.tree.leaves(params)}
        inner_state = tx.init(params)
        leaves, structure = jax.tree.flatten(inner_state)
        belong = _belong_to_parameters(tx, inner_state)
        copies = _depend_on_values(tx.init, params)

        def stored(x, belongs, is_copy):
            if belongs and x.dtype == fmt.dtype != jnp.bfloat16:
                raise ValueError(f"low_bit goes around an optimizer once; its state holds {x.dtype} already")
            statistic = belongs and not is_copy and jnp.issubdtype(x.dtype, jnp.floating)
            if statistic and x.shape in shapes and x.size >= min_size and fmt.suits(x.shape):
                # Most are zeros, which XLA would otherwise encode while it compiles: that takes minutes.
                return encode(numerics.rematerialise(x), jnp.int32(0))
            return x, numerics.no_scales(x)

        pairs = [stored(*row) for row in zip(leaves, jax.tree.leaves(belong), copies, strict=True)]
        codes, scales = (structure.unflatten([pair[i] for pair in pairs]) for i in range(2))
        return LowBitState(jnp.zeros([], jnp.int32), _of_parameters(tx, scales), codes)

    def update_fn(updates, state, params=None, **extra_args):
        codes, structure = jax.tree.flatten(state.inner_state)
        scales = _beside(tx, state.inner_state, state.scales)
        coded = [s is not None and c.dtype == fmt.dtype for c, s in zip(codes, scales, strict=True)]
        rows = list(zip(codes, scales, coded, strict=True))
        inner_state = structure.unflatten([decode(c, s) if few else c for c, s, few in rows])

        proposed, inner_state = tx.update(updates, inner_state, params, **extra_args)

        # As without this wrapper, around which the optimizer would have its state in the parameters' dtype.
        like = updates if params is None else params
        proposed = jax.tree.map(
            lambda u, g, p: u if u.dtype == p.dtype else u.astype(g.dtype), proposed, updates, like
        )
        salt = numerics.increment(state.salt)
        # Far apart for two arrays: in all the updates of a run no two meet.
        salts = salt.astype(jnp.uint32) + jnp.arange(len(rows), dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
        pairs = [
            encode(x, salts[i]) if few else (x, s)
            for i, (x, (_, s, few)) in enumerate(zip(structure.flatten_up_to(inner_state), rows, strict=True))
        ]
        codes = structure.unflatten([pair[0] for pair in pairs])
        scales = structure.unflatten([jnp.zeros([]) if s is None else s for _, s in pairs])
        return proposed, LowBitState(salt, _of_parameters(tx, scales), codes)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _widened(p: Any) -> Any:
    """A parameter in float32 at the least; of what is only a shape, that shape."""
    if not jnp.issubdtype(p.dtype, jnp.floating):
        return p
    if isinstance(p, jax.ShapeDtypeStruct):
        return p.update(dtype=numerics.compute_dtype(p.dtype))
    return numerics.widen(p)


def _belong_to_parameters(tx: optax.GradientTransformation, state: Any) -> Any:
    """For each array of a state whether it belongs to a parameter."""
    try:
        return optax.tree_map_params(tx, lambda _: True, state, transform_non_params=lambda _: False)
    except Exception as error:
        raise ValueError(
            "low_bit cannot tell what of this optimizer's state belongs to parameters, because "
            "optax.tree_map_params cannot, as with optax.lbfgs and Optax's line searches: put low_bit around "
            "the other parts of the chain"
        ) from error


def _of_parameters(tx: optax.GradientTransformation, state: Any) -> tuple[Any, ...]:
    """The trees of a state that are like the parameters, in order."""
    found: list[Any] = []
    optax.tree_map_params(tx, found.append, state, is_leaf=lambda _: True)
    return tuple(found)


def _beside(tx: optax.GradientTransformation, state: Any, trees: tuple[Any, ...]) -> list[Any]:
    """For each leaf of a state the leaf of ``trees`` that belongs to it, or None."""
    waiting = iter(trees)
    placed = optax.tree_map_params(
        tx, lambda _: next(waiting), state, transform_non_params=lambda _: False, is_leaf=lambda _: True
    )
    return [None if leaf is False else leaf for leaf in jax.tree.leaves(placed)]


def _depend_on_values(function: Callable[[Any], Any], tree: Any) -> list[bool]:
    """For each leaf of the result, whether the values of the argument enter it, and not its shapes alone."""
    traced = jax.make_jaxpr(function)(tree).jaxpr
    return _reached(traced, [True] * len(traced.invars))


def _reached(jaxpr: Any, marks: list[bool]) -> list[bool]:
    """Which outputs a jaxpr makes of its marked inputs."""
    marked = {id(v) for v, mark in zip(jaxpr.invars, marks, strict=True) if mark}
    for equation in jaxpr.eqns:
        entering = [id(v) in marked for v in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            leaving = _reached(equation.params["jaxpr"].jaxpr, entering)
        else:
            leaving = [any(entering)] * len(equation.outvars)
        marked |= {id(v) for v, mark in zip(equation.outvars, leaving, strict=True) if mark}
    return [id(v) in marked for v in jaxpr.outvars]
