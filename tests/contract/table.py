"""Every method and wrapper as the contract sees it, and the parameters and gradients of its tests.

The table is ``optimiz.methods.METHODS``: a new method is a row there.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optimiz
import optimiz.testing as ot
from optimiz import methods


@dataclasses.dataclass(frozen=True)
class Row:
    """One optimizer as the contract sees it.

    Attributes:
        method: its row in ``optimiz.methods``.
        make: learning rate, and any of the method's keyword arguments → the optimizer.
    """

    method: methods.Method
    make: Callable[..., optax.GradientTransformationExtraArgs]

    @property
    def rate_name(self):
        return self.method.rate_argument


def _logits(p):
    total = sum((jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(p)), jnp.float32(0))
    return jnp.stack([total, -total])


def _with_curvature(make):
    """The optimizer, offered the function whose curvature it asks for."""

    def made(*args, **kwargs):
        tx = make(*args, **kwargs)
        offered = {"logits_fn": _logits, "obj_fn": lambda p: _logits(p)[0]}
        return optax.GradientTransformationExtraArgs(
            tx.init, lambda g, state, params=None, **extra: tx.update(g, state, params, **extra | offered)
        )

    return made


def _with_search(make):
    """The line search, offered a loss that every step lowers enough: it keeps its first step size."""

    def made(learning_rate, **kwargs):
        scheduled = callable(learning_rate)
        tx = make(init_step=1.0 if scheduled else learning_rate, **{"growth": 1.0} | kwargs)

        def update_fn(g, state, params=None, **extra):
            value_fn = lambda p: jnp.float32(-1e38)  # noqa: E731
            value_fn.fills_in_masked = True
            return tx.update(
                g, state, params, **extra | {"value": jnp.float32(0), "grad": g, "value_fn": value_fn}
            )

        searching = optax.GradientTransformationExtraArgs(tx.init, update_fn)
        return optax.chain(searching, optax.scale_by_schedule(learning_rate)) if scheduled else searching

    return made


def _two_units(p):
    structure = jax.tree.structure(p)
    return structure.unflatten([i % 2 for i in range(structure.num_leaves)])


def _matrices(p):
    """Arrays of rank 2, which may be none: groups.matrices refuses a tree without a hidden matrix."""
    return jax.tree.map(lambda x: optimiz.groups.Matrix() if x.ndim == 2 and x.size else None, p)


def _row(method):
    required = {name: {"classes": 2, "units": _two_units}[name] for name in method.required}
    required |= {"matrices": _matrices} if method.takes("matrices") else {}
    factory = method.at if method.beside else method.factory
    make = functools.partial(factory, **method.solving_settings | required)
    if method.kind == "line search":
        make = _with_search(make)
    elif method.kind == "second order":
        make = _with_curvature(make)
    return Row(method, functools.update_wrapper(make, method.factory))


# What reproduces an author's code without weight decay, growth and all, is held to that code alone.
TABLE = {name: _row(method) for name, method in methods.METHODS.items() if method.takes("weight_decay")}

# In a quick run, adamw, salsa, low_bit(adamw) and what is new stand for these.
ONLY_LONG = {
    *("adam", "nadam", "nadamw", "adamax", "adamaxw", "amsgrad", "adan", "adafactor", "rmsprop", "adagrad"),
    *("adam_atan2", "ademamix", "mars", "stable_adamw"),
    *("schedule_free_adamw", "schedule_free_sgd", "average(adamw)", "cautious(adam)"),
    *("sgd", "sgd_sai", "sqrt_size_sgd", "sign_sgd", "signum", "lion", "lamb", "lars", "sophia_g", "sophia_h"),
    *("adam_mini", "adam_sls", "armijo_sgd", "momentum_sls", "muon", "normuon", "pla_sls", "prodigy"),
    *("adamh", "kl_soap", "muonh", "soap"),
    *("chain(clip, adamw)", "guard(adamw)", "accumulate(adamw, 4)", "low_memory_update(lamb)"),
}


def quick(cases):
    """Name → case as parameters of a test; some are long."""
    return [
        pytest.param(case, id=name, marks=[pytest.mark.long] if name.partition("-")[0] in ONLY_LONG else [])
        for name, case in cases.items()
    ]


each = pytest.mark.parametrize("row", quick(TABLE))


# --- as subjects of optimiz.testing ----------------------------------------------------------------


# Containers of Flax, which optimiz.testing does not import.
_TREES = {
    "FrozenDict": lambda: flax.core.freeze({"a": {"b": jnp.ones(3)}}),
    "nnx.State": lambda: nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param),
}
_IN_THE_STATE = "the step size of a line search is in its state"
_REFUSED_AFTER_IT = {"chain takes it": "what comes after it is refused"}
_ON_A_SPHERE = "its matrices keep their norms"
_EXEMPT = {  # by page
    "hyperball": {
        "it minimizes a quadratic": _ON_A_SPHERE,
        "the first update is proportional to the learning rate": _ON_A_SPHERE,
        "with a gradient of zero weight decay only shrinks": _ON_A_SPHERE,
        "weight decay spares what its mask names": _ON_A_SPHERE,
    },
    "prodigy": {
        "statistics of low-precision parameters are accurate": "its steps grow without end where the gradient "
        "stays the same"
    },
    "schedule_free": _REFUSED_AFTER_IT
    | {
        "statistics of low-precision parameters are accurate": "its update leads from the parameters, which "
        "that test does not move, to those it should have",
    },
}


def _subject(row):
    searches = row.method.kind == "line search"
    return ot.Subject(
        row.make,
        rate=row.method.solving_rate,
        learning_rate_name=row.rate_name,
        bad=row.method.bad_arguments,
        period=2 if row.method.page in ("soap", "kl_soap") else 1,  # its first update finds the bases
        trees=_TREES,
        exempt=_EXEMPT.get(row.method.page, {})
        | ({"inject_hyperparams reads and sets the learning rate": _IN_THE_STATE} if searches else {}),
    )


def _wrapped(wrapper, factory=optimiz.adamw, rate=0.02, **options):
    @functools.wraps(factory)
    def make(learning_rate, **kwargs):
        return wrapper(factory(learning_rate, **kwargs))

    bad = {"weight_decay": -1.0}
    return ot.Subject(make, rate=rate, bad=bad, trees=_TREES, **options)


def _cautious_adam(learning_rate, weight_decay=0.0, weight_decay_mask=None):
    return optax.chain(
        optimiz.cautious(optimiz.scale_by_adam(0.9, 0.999, 1e-8)),
        optimiz.decoupled_weight_decay(weight_decay, weight_decay_mask, cautious=True),
        optimiz.scale_by_learning_rate(learning_rate),
    )


WRAPPERS = {
    "low_bit(adamw)": _wrapped(lambda tx: optimiz.low_bit(tx, optimiz.Int8(block=16), min_size=16)),
    "guard(adamw)": _wrapped(
        lambda tx: optimiz.guard(tx, give_up_after=3),
        exempt={
            "a gradient that is not finite is seen in the update": "it skips the step",
            "counters are int32 and saturate": "its count of bad steps in a row begins anew",
        },
    ),
    "average(adamw)": _wrapped(optimiz.average, exempt=_REFUSED_AFTER_IT),
    "cautious(adam)": _wrapped(lambda tx: tx, _cautious_adam),
    "accumulate(adamw, 4)": _wrapped(
        lambda tx: optimiz.accumulate(tx, every=4),
        period=4,
        exempt={"counters are int32 and saturate": "its counter of micro-batches is less than k"},
    ),
    "low_memory_update(lamb)": _wrapped(optimiz.low_memory_update, optimiz.lamb, 0.1),
    "chain(clip, adamw)": _wrapped(lambda tx: optax.chain(optimiz.clip_by_global_norm(1.0), tx), rate=0.05),
}
"""Wrappers around a method: a chain, and what goes around a chain."""

SUBJECTS = {name: _subject(row) for name, row in TABLE.items()} | WRAPPERS


# --- fixtures ------------------------------------------------------------------------------------


def params(dtype=jnp.float32):
    return {
        "kernel": jnp.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3),
        "layer": {"bias": jnp.array([0.5, -0.25, 0.125], dtype), "scale": jnp.ones((), dtype)},
    }


def gradients(step, like):
    keys = jax.random.split(jax.random.key(step), len(jax.tree.leaves(like)))
    leaves = [
        jax.random.normal(k, p.shape).astype(p.dtype) for k, p in zip(keys, jax.tree.leaves(like), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def run(tx, start, steps=5, update=None):
    update = update or tx.update
    p, state = start, tx.init(start)
    for i in range(steps):
        updates, state = update(gradients(i, p), state, p)
        p = optax.apply_updates(p, updates)
    return p, state


def avals(tree):
    return [(x.shape, x.dtype, jax.typeof(x).weak_type) for x in map(jnp.asarray, jax.tree.leaves(tree))]


def assert_all_finite(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), jax.tree_util.keystr(path)
