"""Promises about an optimizer's state."""

import itertools

import jax
import jax.numpy as jnp

from optimiz.testing import expect
from optimiz.testing.promise import NotApplicable, promise
from optimiz.testing.subject import Subject
from optimiz.testing.trees import DTYPES, gradients, params

_LAST = 2**31 - 1


@promise("state keeps its tree, shapes, dtypes and weak types")
def keeps_its_types(subject: Subject) -> None:
    """Otherwise the second step is compiled again, and lax.scan, lax.cond and checkpoints refuse the state.

    The usual causes are Python numbers, and statistics in the parameters' dtype that meet gradients of another
    dtype.
    """
    for dtype, gradient in itertools.product(DTYPES, (jnp.bfloat16, jnp.float32)):
        with expect.at(step=1, parameters=dtype, gradients=gradient):
            p = params(dtype)
            state = jax.eval_shape(subject.tx.init, p)
            expect.strong(state, "state")
            g = jax.tree.map(lambda x, d=gradient: x.astype(d), gradients(0, p))
            _, after = jax.eval_shape(subject.tx.update, g, state, p)
            expect.same_types(after, state, "state")


@promise("counters are int32 and saturate")
def counters_saturate(subject: Subject) -> None:
    """A counter that overflows becomes negative, and bias corrections and schedules become wrong."""
    p = params()
    state = subject.init(p)
    counters = [
        (path, x)
        for path, x in jax.tree_util.tree_leaves_with_path(state)
        if jnp.issubdtype(x.dtype, jnp.signedinteger) and x.dtype != jnp.int8
    ]
    if not counters:
        raise NotApplicable("its state has no counter")
    for path, x in counters:
        assert x.dtype == jnp.int32, f"state{jax.tree_util.keystr(path)} is {x.dtype}, expected int32"
    last = jax.tree.map(lambda x: jnp.full_like(x, _LAST) if x.dtype == jnp.int32 else x, state)
    updates, after = subject.update(gradients(0, p), last, p)
    with expect.at(step=_LAST):
        expect.finite(updates, "updates")
        for path, x in jax.tree_util.tree_leaves_with_path(after):
            if x.dtype == jnp.int32:
                assert bool(jnp.all(x == _LAST)), f"state{jax.tree_util.keystr(path)} goes on to {x}"


@promise("init can be evaluated for shapes")
def init_for_shapes(subject: Subject) -> None:
    """Sharded training lays out the state before it exists, with jax.eval_shape(tx.init, params)."""
    p = params()
    expect.same_types(jax.eval_shape(subject.tx.init, p), subject.tx.init(p), "state")


@promise("init takes shapes in place of arrays", convention=True)
def init_takes_shapes(subject: Subject) -> None:
    """It makes a state for parameters that are not in memory yet, such as to restore a checkpoint."""
    p = params()
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), p)
    expect.same_types(subject.tx.init(structs), subject.tx.init(p), "state")
