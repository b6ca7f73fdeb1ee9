"""Store the statistics of any optimizer in four, eight or sixteen bits.

Before the optimizer's update its state is decoded to float32, and after it the new state is encoded, array by
array. No statistic is held in float32: what the optimizer computes entry by entry is computed twice, first to
find the scales and then to write the codes. Within ``optimiz.update_and_apply``, a TPU or a GPU computes it
once, in a kernel. The formats are ``optimiz.Int8``, ``optimiz.Int4``, ``optimiz.Float8`` and
``optimiz.BFloat16``. ``init`` decides, without knowing the optimizer, what is stored in few bits; everything
else stays as it is:

- Arrays that belong to parameters, have a parameter's shape and hold at least ``min_size`` real floats. So
  biases, norms and factored moments, which take little memory, stay in float32.
- Of these, arrays whose initial value does not depend on the values of the parameters. Averages and sums start
  at a constant. What starts as a copy of the parameters (the iterates of schedule-free, the origin of DoG or
  Prodigy) needs the parameters' precision. ``init`` finds it by tracing which values it depends on.
- Of these, arrays that their optimizer does not mark as needed as they are: SOAP's bases would not be
  orthogonal in few bits.

First and second moments are stored differently, by the signs in each block, not by their names.

The optimizer is initialized as for float32 parameters, so that its statistics are float32 during the update
even if the parameters are bfloat16. Updates keep the dtype of the gradients, or of the parameters. Put
``low_bit`` around the optimizer, and ``optimiz.accumulate`` or ``optax.MultiSteps`` around ``low_bit``, or the
mean of the gradients is rounded at each micro-batch. Call ``init`` under ``jax.jit`` if the state would not fit
in float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class LowBitState(NamedTuple):
    """State of :func:`low_bit`."""

    salt: jax.Array  # int32 scalar: number of updates so far, the seed of the rounding noise
    scales: tuple[Any, ...]  # one tree of scales per parameter-like tree of the inner state
    inner_state: Any  # state of the optimizer, with codes instead of statistics


def low_bit(
    tx: optax.GradientTransformation,
    fmt: numerics.Int8 | numerics.Int4 | numerics.Float8 | numerics.BFloat16,
    *,
    min_size: int = 4096,
) -> optax.GradientTransformationExtraArgs:
    """Store an optimizer's parameter-shaped statistics in few bits.

    Args:
        tx: any transformation.
        fmt: storage format, ``Int8(block=256)``, ``Int4(block=128)``, ``Float8(block=256)`` or ``BFloat16()``.
        min_size: smallest number of entries, ≥ 1, of an array that is stored in few bits.

    Returns:
        A transformation that passes extra arguments on.

    Raises:
        TypeError: ``tx`` is not a transformation, ``fmt`` is none of these, or ``min_size`` is not an integer.
        ValueError: ``min_size`` is less than 1; or, in ``init``, the state is stored in few bits already, or it
            is unknown which arrays of the state belong to parameters.

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
    if not isinstance(fmt, numerics.Int8 | numerics.Int4 | numerics.Float8 | numerics.BFloat16):
        raise TypeError(f"fmt must be an Int8, an Int4, a Float8 or a BFloat16, got {fmt!r}")
    checks.integer("min_size", min_size, ge=1)
    tx = optax.with_extra_args_support(tx)
    # Traced once for all arrays of a shape.
    encode, scales_of, codes_of = map(jax.jit, (fmt.encode, fmt.scales, fmt.codes))
    decode = jax.jit(fmt.decode, static_argnums=2)

    def decode_operation(codes, scales, like):
        return numerics.decoded(fmt, codes, scales, codes.shape if like is None else like.shape)

    def codes_of_several(*args):
        *statistics, scales, salts = args
        return [codes_of(*row) for row in zip(statistics, scales, salts, strict=True)]

    def init_fn(params):
        params = jax.tree.map(_widened, params)
        shapes = {p.shape for p in jax.tree.leaves(params)}
        inner_state = tx.init(params)
        leaves, structure = jax.tree.flatten(inner_state)
        belong = _belong_to_parameters(tx, inner_state)
        copies = _depend_on_values(tx.init, params)
        exact = _exact(inner_state)

        def stored(x, belongs, is_copy, is_exact):
            if belongs and x.dtype == fmt.dtype != jnp.bfloat16:
                raise ValueError(f"low_bit goes around an optimizer once; its state holds {x.dtype} already")
            statistic = belongs and not (is_copy or is_exact) and jnp.issubdtype(x.dtype, jnp.floating)
            if statistic and x.shape in shapes and x.size >= min_size and fmt.suits(x.shape):
                # Not shared with what makes x: XLA would encode constant zeros while it compiles, which takes
                # minutes.
                return encode(numerics.rematerialise(x), jnp.int32(0))
            return x, numerics.no_scales(x)

        pairs = [stored(*row) for row in zip(leaves, jax.tree.leaves(belong), copies, exact, strict=True)]
        codes, scales = (structure.unflatten([pair[i] for pair in pairs]) for i in range(2))
        return LowBitState(jnp.zeros([], jnp.int32), _of_parameters(tx, scales), codes)

    def update_fn(updates, state, params=None, **extra_args):
        codes, structure = jax.tree.flatten(state.inner_state)
        scales = _scales_of(tx, state.inner_state, state.scales)
        coded = [s is not None and c.dtype == fmt.dtype for c, s in zip(codes, scales, strict=True)]
        like = updates if params is None else params
        shapes = [None] * len(codes)
        if fmt.packed:
            shapes = jax.tree.leaves(jax.eval_shape(tx.init, jax.tree.map(_widened, like)))

        def inner_update(updates, codes, scales, params):
            rows = zip(codes, scales, shapes, coded, strict=True)
            inner_state = structure.unflatten([of_code(c, s, x) if few else c for c, s, x, few in rows])
            return tx.update(updates, inner_state, params, **extra_args)

        # Within numerics.update_and_apply, which computes scales, codes and parameters in one kernel.
        in_kernels = numerics.is_traced() and not isinstance(fmt, numerics.BFloat16)
        of_code = decode_operation if in_kernels else decode
        follow = (lambda function: function) if in_kernels else numerics.deferred
        proposed, inner_state = follow(inner_update)(updates, codes, scales, params)
        values = dict(enumerate(structure.flatten_up_to(inner_state)))
        few = [i for i, each in enumerate(coded) if each]
        statistics = [values[i] for i in few]
        salt = numerics.increment(state.salt)
        own_salts = _own_salts(salt, tuple(few))
        if in_kernels:
            pairs = [numerics.encoded(fmt, *row) for row in zip(statistics, own_salts, strict=True)]
            new_codes, new_scales = ([pair[i] for pair in pairs] for i in range(2))
        else:
            # First the scales, from statistics that are computed for them alone; then these with the codes.
            new_scales = numerics.reduced(scales_of, statistics)
            new_codes = None
            if fmt.packed:
                # Codes of another shape than the updates are made in another loop, for which XLA would hold
                # the statistics.
                new_codes = numerics.reduced(codes_of_several, statistics, new_scales, own_salts)
                values = {i: x for i, x in values.items() if not coded[i]}
            proposed, values = numerics.materialise((proposed, values))
            if new_codes is None:
                new_codes = codes_of_several(*(values[i] for i in few), new_scales, own_salts)
        values |= zip(few, new_codes, strict=True)

        # The dtypes that the optimizer would return without this wrapper.
        proposed = jax.tree.map(
            lambda u, g, p: u if u.dtype == p.dtype else u.astype(g.dtype), proposed, updates, like
        )
        for i, found in zip(few, new_scales, strict=True):
            scales[i] = found
        scales = structure.unflatten([jnp.zeros([]) if s is None else s for s in scales])
        codes = structure.unflatten([values[i] for i in range(len(coded))])
        return proposed, LowBitState(salt, _of_parameters(tx, scales), codes)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@functools.partial(numerics.dispatched_once, static=("places",))
def _own_salts(salt: jax.Array, places: tuple[int, ...]) -> list[jax.Array]:
    """One salt for each place in the state, so far apart that no two arrays share one within a run."""
    return [salt.astype(jnp.uint32) + numerics.operand(i * 0x9E3779B1 % 2**32, jnp.uint32) for i in places]


def _widened(p: Any) -> Any:
    """A parameter, or its shape, in at least float32."""
    if not jnp.issubdtype(p.dtype, jnp.floating):
        return p
    if isinstance(p, jax.ShapeDtypeStruct):
        return p.update(dtype=numerics.compute_dtype(p.dtype))
    return numerics.widen(p)


def _belong_to_parameters(tx: optax.GradientTransformation, state: Any) -> Any:
    """For each array of a state, whether it belongs to a parameter."""
    try:
        return optax.tree_map_params(tx, lambda _: True, state, transform_non_params=lambda _: False)
    except Exception as error:
        raise ValueError(
            "low_bit cannot find out which arrays of this optimizer's state belong to parameters, because "
            "optax.tree_map_params cannot, as with optax.lbfgs and Optax's line searches: put low_bit around "
            "the other parts of the chain"
        ) from error


def _exact(state: Any) -> list[bool]:
    """For each leaf of a state, whether it is within ``numerics.Exact``."""

    def is_exact(node: Any) -> bool:
        return isinstance(node, numerics.Exact)

    marked = jax.tree.map(lambda node: jax.tree.map(lambda _: is_exact(node), node), state, is_leaf=is_exact)
    return jax.tree.leaves(marked)


def _of_parameters(tx: optax.GradientTransformation, state: Any) -> tuple[Any, ...]:
    """The trees of a state that are like the parameters, in order."""
    found: list[Any] = []
    optax.tree_map_params(tx, found.append, state, is_leaf=lambda _: True)
    return tuple(found)


def _scales_of(tx: optax.GradientTransformation, state: Any, trees: tuple[Any, ...]) -> list[Any]:
    """For each leaf of a state, the leaf of ``trees`` at its place, or None."""
    waiting = iter(trees)
    placed = optax.tree_map_params(
        tx, lambda _: next(waiting), state, transform_non_params=lambda _: False, is_leaf=lambda _: True
    )
    return [None if leaf is False else leaf for leaf in jax.tree.leaves(placed)]


def _depend_on_values(function: Callable[[Any], Any], tree: Any) -> list[bool]:
    """For each leaf of the result, whether it depends on the values of the argument."""
    traced = jax.make_jaxpr(function)(tree).jaxpr
    return _reached(traced, [True] * len(traced.invars))


def _reached(jaxpr: Any, marks: list[bool]) -> list[bool]:
    """Which outputs of a jaxpr depend on its marked inputs."""
    marked = {id(v) for v, mark in zip(jaxpr.invars, marks, strict=True) if mark}
    for equation in jaxpr.eqns:
        entering = [id(v) in marked for v in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            leaving = _reached(equation.params["jaxpr"].jaxpr, entering)
        else:
            leaving = [any(entering)] * len(equation.outvars)
        marked |= {id(v) for v, mark in zip(equation.outvars, leaving, strict=True) if mark}
    return [id(v) in marked for v in jaxpr.outvars]
