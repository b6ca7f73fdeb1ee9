"""Optimizers that are broken on purpose, one for each promise.

Each is :func:`sound` but for one defect. Some defects are found in the wild; others are contrived, so that they
break one promise and no other.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

import optimiz
from optimiz.testing.trees import Pair


def sound(learning_rate, **kwargs):
    """Momentum, which keeps every promise."""
    return optimiz.sgd(learning_rate, momentum=0.9, **kwargs)


SOUND = {"rate": 0.02, "bad": {"momentum": 1.0, "weight_decay": -1.0}}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """An optimizer with one defect.

    Attributes:
        factory: of the optimizer.
        options: further fields of the subject.
        also: promises that the defect breaks by necessity.
    """

    factory: Callable[..., Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    also: tuple[str, ...] = ()


MUTANTS: dict[str, Mutant] = {}
DEVICE_MUTANTS: dict[str, Mutant] = {}


def breaks(name, *also, into=MUTANTS, **options):
    """Register a factory as the mutant that breaks a promise."""

    def register(factory):
        assert name not in into
        into[name] = Mutant(factory, SOUND | options, also)
        return factory

    return register


class Noted(NamedTuple):
    """The state of an optimizer, and more."""

    inner: Any
    note: Any


def with_update(alter, make=sound):
    """A factory whose updates are altered: updates, gradients, parameters → updates."""

    def factory(learning_rate, **kwargs):
        tx = optax.with_extra_args_support(make(learning_rate, **kwargs))

        def update_fn(g, state, p=None, **extra):
            u, state = tx.update(g, state, p, **extra)
            return alter(u, g, p), state

        return optax.GradientTransformationExtraArgs(tx.init, update_fn)

    return factory


def with_note(first, following, alter=lambda u, note: u):
    """A factory with something more in its state.

    Args:
        first: parameters → the note at first.
        following: note, gradients, parameters → the note after an update.
        alter: updates, note before the update → updates.
    """

    def factory(learning_rate, **kwargs):
        tx = sound(learning_rate, **kwargs)

        def init_fn(p):
            return Noted(tx.init(p), first(p))

        def update_fn(g, state, p=None, **extra):
            u, inner = tx.update(g, state.inner, p, **extra)
            return alter(u, state.note), Noted(inner, following(state.note, g, p))

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return factory


def scaled(tree, factor):
    return jax.tree.map(lambda x: x * jnp.asarray(factor, x.dtype), tree)


def norm(tree):
    return jnp.sqrt(sum((jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(tree)), jnp.float32(0)))


def traced(tree):
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))


def dtype(tree):
    return next((x.dtype for x in jax.tree.leaves(tree)), jnp.float32)


def count(note, g, p):
    return jnp.where(note == 2**31 - 1, note, note + 1)


def no_count(p):
    return jnp.zeros([], jnp.int32)


# --- state ---------------------------------------------------------------------------------------


breaks("state keeps its tree, shapes, dtypes and weak types")(
    with_note(lambda p: jnp.zeros([], dtype(p)), lambda note, g, p: jnp.zeros([], dtype(g)))
)
breaks("counters are int32 and saturate")(with_note(no_count, lambda note, g, p: note + 1))
breaks("init can be evaluated for shapes")(
    with_note(lambda p: jnp.zeros([1] if traced(p) else [2]), lambda note, g, p: note)
)
breaks("init takes shapes in place of arrays")(
    with_note(lambda p: jax.tree.map(lambda x: x * 0, p), lambda note, g, p: note)
)


# --- dtypes --------------------------------------------------------------------------------------


@breaks("updates have the dtype of the parameters whatever the learning rate is")
def numpy_rate_widens(learning_rate, **kwargs):
    if not isinstance(learning_rate, np.float64):
        return sound(learning_rate, **kwargs)

    def widened(u, g, p):
        return jax.tree.map(lambda x, like: x.astype(jnp.float32) if dtype(g) == like.dtype else x, u, p)

    return with_update(widened)(learning_rate, **kwargs)


breaks("updates have the dtype of the parameters for gradients of another dtype too")(
    with_update(lambda u, g, p: jax.tree.map(lambda x, like: x.astype(like.dtype), u, g))
)
breaks("float64, bfloat16 and float32 parameters work in one tree")(
    with_update(
        lambda u, g, p: jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, u)
    )
)
breaks("x64 mode changes nothing for float32 parameters")(
    with_note(lambda p: jnp.zeros([], float), lambda note, g, p: note)
)


def slow_average(note, g, p):
    return jax.tree.map(lambda m, g: (m + (g - m) * 2**-12).astype(m.dtype), note, g)


breaks("statistics of low-precision parameters are accurate")(
    with_note(
        lambda p: jax.tree.map(jnp.zeros_like, p),
        slow_average,
        lambda u, note: jax.tree.map(lambda u, m: u - (8 * m).astype(u.dtype), u, note),
    )
)


# --- transformations -----------------------------------------------------------------------------


breaks("jit equals eager")(
    with_note(no_count, count, lambda u, note: u if traced((u, note)) or int(note) < 3 else scaled(u, 1.01))
)


def every_other_trace():
    traces = []

    def alter(u, note):
        traces.append(traced(u))
        return scaled(u, jnp.where(note == 0, 1 + 5e-7 * (sum(traces) % 2), 1)) if traced(u) else u

    return alter


breaks("repeats bit for bit")(with_note(no_count, count, every_other_trace()))


@breaks("scan equals a loop")
def counts_traces(learning_rate, **kwargs):
    traces = []

    def alter(u, g, p):
        traces.append(traced(u) and callable(learning_rate))
        return scaled(u, 1.0 + 0.1 * (sum(traces) > 1))

    return with_update(alter)(learning_rate, **kwargs)


@breaks("the update is traced once")
def forgets_a_type(learning_rate, **kwargs):
    weak = callable(learning_rate)
    factory = with_note(
        lambda p: jnp.zeros([], jnp.float32), lambda note, g, p: jnp.asarray(0.0) if weak else note
    )
    return factory(learning_rate, **kwargs)


@breaks("vmap over learning rates equals each alone")
def batched_rates(learning_rate, **kwargs):
    batched = type(learning_rate).__name__ == "BatchTracer"
    return with_update(lambda u, g, p: scaled(u, 1.01) if batched else u)(learning_rate, **kwargs)


@breaks("cond takes the update")
def needs_a_traced_state(learning_rate, **kwargs):
    tx = sound(learning_rate, **kwargs)

    def update_fn(g, state, p=None, **extra):
        if traced(g) and not traced(state):
            raise TypeError("the branches of cond differ")
        return tx.update(g, state, p, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def calls_back(u, g, p):
    jax.debug.callback(lambda: None)
    return u


breaks("the compiled update calls no host")(with_update(calls_back))


def the_same_twice(p):
    zero = jnp.zeros([3])
    return zero, zero


breaks("the state may be donated")(with_note(the_same_twice, lambda note, g, p: note))
breaks("the update can be differentiated")(
    with_update(lambda u, g, p: jax.tree.map(lambda u, p: u + jnp.sqrt(0 * p), u, p))
)


# --- composition ---------------------------------------------------------------------------------


def differs_when_clipped():
    made = []

    def factory(learning_rate, **kwargs):
        made.append(learning_rate)
        factor = 1.0 + 0.01 * len(made)
        return with_update(lambda u, g, p: scaled(u, jnp.where(norm(g) <= 1.001, factor, 1)))(
            learning_rate, **kwargs
        )

    return factory


breaks("chain takes it")(differs_when_clipped())


def holes(tree):
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    return sum(isinstance(x, optax.MaskedNode) for x in leaves)


def refuses_several_holes(u, g, p):
    if holes(g) > 1:
        raise TypeError("MaskedNode is not an array")
    return u


breaks("masked leaves other parameters alone", "partition equals it alone")(with_update(refuses_several_holes))
breaks("partition equals it alone")(with_update(lambda u, g, p: scaled(u, 1.0 + 0.01 * (holes(g) > 1))))


@breaks("inject_hyperparams reads and sets the learning rate")
def traced_rates(learning_rate, **kwargs):
    factor = 1.01 if isinstance(learning_rate, Tracer) else 1.0
    return with_update(lambda u, g, p: scaled(u, factor))(learning_rate, **kwargs)


@breaks("the first update is proportional to the learning rate")
def power_of_the_rate(learning_rate, **kwargs):
    sound(learning_rate, **kwargs)  # refuses what is bad
    if callable(learning_rate):
        return sound(lambda step: learning_rate(step) ** 1.1, **kwargs)
    return sound(learning_rate**1.1, **kwargs)


@breaks("a schedule that is constant equals the constant")
def scheduled(learning_rate, **kwargs):
    factor = 1.001 if callable(learning_rate) else 1.0
    return with_update(lambda u, g, p: scaled(u, factor))(learning_rate, **kwargs)


def not_a_number_within(u, note):
    """NaN at first for norms that only means of several gradients of the checks have."""
    return scaled(u, jnp.where((note == 0) & (norm(u) > 0.44) & (norm(u) < 0.53), jnp.nan, 1))


breaks("MultiSteps emits exact zeros in between")(with_note(no_count, count, not_a_number_within))


@breaks("apply_if_finite leaves its state alone")
def refuses_a_branch(learning_rate, **kwargs):
    tx = sound(learning_rate, **kwargs)

    def update_fn(g, state, p=None, **extra):
        u, after = tx.update(g, state, p, **extra)
        if traced(u) and not traced((g, state, p)):
            raise TypeError("the branches of cond differ")
        return u, after

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


breaks("tree_map_params finds what belongs to parameters")(
    with_note(lambda p: [jnp.zeros(x.shape, x.dtype) for x in jax.tree.leaves(p)], lambda note, g, p: note)
)


@breaks("extra arguments of others are ignored")
def takes_no_extra_arguments(learning_rate, **kwargs):
    tx = sound(learning_rate, **kwargs)
    return optax.GradientTransformationExtraArgs(tx.init, lambda g, state, p=None: tx.update(g, state, p))


# --- numbers -------------------------------------------------------------------------------------


breaks("a gradient of zero is harmless")(
    with_update(lambda u, g, p: jax.tree.map(lambda u, g: u * (g / g) if g.dtype == jnp.bfloat16 else u, u, g))
)


def divides_by_a_square(u, g):
    square = g.astype(jnp.float32) ** 2
    return u * jnp.where(g == 0, 1, square / square).astype(u.dtype)


breaks("a tiny gradient is harmless")(with_update(lambda u, g, p: jax.tree.map(divides_by_a_square, u, g)))
breaks("a huge gradient does no lasting harm")(
    with_note(
        lambda p: jnp.zeros([], jnp.float32),
        lambda note, g, p: 0.9 * note + (norm(g) / 10) ** 2,
    )
)


def with_gradients(alter):
    """A factory that alters the gradients first."""

    def factory(learning_rate, **kwargs):
        return optax.chain(optax.stateless(lambda g, p: jax.tree.map(alter, g)), sound(learning_rate, **kwargs))

    return factory


breaks("a gradient that is not finite is seen in the update")(
    with_gradients(lambda g: jnp.where(jnp.isfinite(g), g, 0))
)
breaks("it minimizes a quadratic")(with_gradients(jnp.negative))


# --- weight decay --------------------------------------------------------------------------------


@breaks("with a gradient of zero weight decay only shrinks")
def decay_grows(learning_rate, **kwargs):
    decaying = sound(learning_rate, **kwargs)
    plain = sound(learning_rate)

    def update_fn(g, state, p=None, **extra):
        u, first = decaying.update(g, state[0], p)
        v, second = plain.update(g, state[1], p)
        return jax.tree.map(lambda u, v: 2 * v - u, u, v), (first, second)

    return optax.GradientTransformationExtraArgs(lambda p: (decaying.init(p), plain.init(p)), update_fn)


@breaks("weight decay spares what its mask names")
def ignores_the_mask(learning_rate, weight_decay_mask=None, **kwargs):
    return sound(learning_rate, **kwargs)


# --- containers ----------------------------------------------------------------------------------


breaks("lists, tuples, NamedTuples and dataclasses come back as they are")(
    with_update(lambda u, g, p: tuple(u) if isinstance(u, Pair) else u)
)


def refuses_bare_arrays(u, g, p):
    if isinstance(g, jax.Array):
        raise TypeError("an array is not a tree")
    return u


breaks("a bare array and a scalar are trees")(with_update(refuses_bare_arrays))


def largest(u, g, p):
    return scaled(u, 1 if max(x.size for x in jax.tree.leaves(u)) < 10**9 else 0)


breaks("an empty tree is a tree")(with_update(largest))
breaks("None and MaskedNode stay where they are")(
    with_update(lambda u, g, p: jax.tree.map(lambda x: x * 1, u, is_leaf=lambda x: x is None))
)


def mean_of_means(u, g, p):
    mean = sum((jnp.mean(x.astype(jnp.float32)) for x in jax.tree.leaves(g)), jnp.float32(0))
    return jax.tree.map(lambda x: x + (0 * mean).astype(x.dtype), u)


breaks("an array without entries is harmless")(with_update(mean_of_means))


def by_joined_names(u, g, p):
    paths, structure = jax.tree_util.tree_flatten_with_path(u)
    names = ["/".join(str(getattr(key, "key", key)) for key in path) for path, _ in paths]
    by_name = dict(zip(names, (x for _, x in paths), strict=True))
    return structure.unflatten([by_name[name] for name in names])


breaks("names of parameters may be anything")(with_update(by_joined_names))


def refuses_a_table(u, g, p):
    if isinstance(g, dict) and "table" in g:
        raise TypeError("a table is not a kernel")
    return u


breaks("the given trees come back as they are", trees={"a table": lambda: {"table": jnp.ones(3)}})(
    with_update(refuses_a_table)
)


@breaks("a gradient that does not fit is refused with its path")
def broadcasts(learning_rate, **kwargs):
    tx = sound(learning_rate, **kwargs)

    def update_fn(g, state, p=None, **extra):
        wide = jax.tree.map(lambda g, p: jnp.broadcast_to(g, p.shape), g, p)
        return tx.update(wide, state, p, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


# --- persistence ---------------------------------------------------------------------------------


@breaks("a state that is saved and restored goes on bit for bit")
def remembers_outside_of_its_state(learning_rate, **kwargs):
    tx = with_note(no_count, count)(learning_rate, **kwargs)
    initialised = []

    def init_fn(p):
        initialised.append(True)
        return tx.init(p)

    def update_fn(g, state, p=None, **extra):
        u, after = tx.update(g, state, p, **extra)
        return scaled(u, 1 if initialised else jnp.where(state.note < 2, 1, 1.01)), after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@breaks("the state can be pickled")
def hides_its_class(learning_rate, **kwargs):
    class Hidden(NamedTuple):
        inner: Any

    tx = sound(learning_rate, **kwargs)

    def update_fn(g, state, p=None, **extra):
        u, inner = tx.update(g, state.inner, p, **extra)
        return u, Hidden(inner)

    return optax.GradientTransformationExtraArgs(lambda p: Hidden(tx.init(p)), update_fn)


# --- arguments -----------------------------------------------------------------------------------


@breaks("refuses a bad learning rate by name")
def takes_any_number(learning_rate, **kwargs):
    outside = isinstance(learning_rate, float) and not 0 <= learning_rate < float("inf")
    return sound(0.1 if outside else learning_rate, **kwargs)


@breaks("refuses a learning rate that is not a number")
def takes_strings(learning_rate, **kwargs):
    return sound(float(learning_rate) if isinstance(learning_rate, str) else learning_rate, **kwargs)


@breaks("refuses every other bad argument")
def takes_any_momentum(learning_rate, momentum=0.9, **kwargs):
    return sound(learning_rate, **kwargs)


@breaks("refuses an argument that it does not know")
def swallows_arguments(learning_rate, learning_rat=None, **kwargs):
    return sound(learning_rate, **kwargs)


# --- devices -------------------------------------------------------------------------------------


def many_devices(p):
    """1.01 for parameters that lie on several devices."""
    spread = not traced(p) and any(len(x.sharding.device_set) > 1 for x in jax.tree.leaves(p))
    return jnp.float32(1.01 if spread else 1)


breaks("parameters and state spread over devices give the updates of one", into=DEVICE_MUTANTS)(
    with_note(many_devices, lambda note, g, p: note, scaled)
)


@breaks(
    "replicas under pmap agree with each other and with one device",
    "parameters and state spread over devices give the updates of one",
    into=DEVICE_MUTANTS,
)
def is_traced_twice(learning_rate, **kwargs):
    traces = []

    def alter(u, g, p):
        traces.append(traced(u))
        return scaled(u, 1.0 + 0.1 * (sum(traces) > 1))

    return with_update(alter)(learning_rate, **kwargs)
