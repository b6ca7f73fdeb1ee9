"""An update outside of ``jit`` compiles nothing once its kind was seen, and keeps nothing."""

import functools
import gc

import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz import diagnostics, numerics
from tests.contract.table import ONLY_LONG, TABLE, gradients, params

_WARM = 4  # updates, within which each of a period of two is seen

_compiled: list[str] = []


@functools.cache
def _listen():
    def heard(event, seconds, **about):
        if event.endswith("backend_compile_duration"):  # also where a stored program was found
            _compiled.append(about.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(heard)


@jax.jit
def _loss(p, x):
    return sum(jnp.sum((leaf.astype(jnp.float32) - 0.3) ** 2) for leaf in jax.tree.leaves(p)) * jnp.mean(x)


@jax.jit
def _logits(p, x):
    total = _loss(p, jnp.ones(1))
    return jnp.stack([total * x, -total * x], -1)


def _units(p):
    return {"kernel": 0, "layer": jax.tree.map(lambda _: 1, p["layer"])}


def _optimizer(name):
    if name == "pla_sls":
        return optimiz.pla_sls(units=_units)
    if TABLE[name].rate_name == "init_step":
        return getattr(optimiz, name)()
    if name == "sophia_g":
        return optimiz.sophia_g(0.1, classes=2, update_interval=2)
    if name == "sophia_h":
        return optimiz.sophia_h(0.1, update_interval=2)
    return TABLE[name].make(0.1)


_CLIP, _KAHAN = optimiz.clip_by_global_norm(0.1), optimiz.kahan()
_SCHEDULE = optimiz.schedules.over_steps(optimiz.schedules.warmup_cosine(1e-3), 100)
_MASK, _MULTIPLIERS = {"layer": True, "kernel": False}, {"layer": 0.5, "kernel": 1.0}
_INT8, _INT4, _FLOAT8, _BF16 = numerics.Int8(), numerics.Int4(), numerics.Float8(), numerics.BFloat16()

WRAPPERS = {
    "guard": lambda: optimiz.guard(optimiz.adamw(0.1), 3),
    "guard(lamb)": lambda: optimiz.guard(optimiz.lamb(0.1), 3),
    "guard(accumulate(lars))": lambda: optimiz.guard(optimiz.accumulate(optimiz.lars(0.1), 2), 3),
    "accumulate": lambda: optimiz.accumulate(optimiz.sgd_sai(0.1), 2),
    "accumulate(salsa)": lambda: optimiz.accumulate(optimiz.salsa(), 2),
    "low_memory_update": lambda: optimiz.low_memory_update(optax.lamb(0.1)),
    "low_bit(Int8)": lambda: optimiz.low_bit(optimiz.adamw(0.1), _INT8, min_size=4),
    "low_bit(Int4)": lambda: optimiz.low_bit(optimiz.adamw(0.1), _INT4, min_size=4),
    "low_bit(Float8)": lambda: optimiz.low_bit(optimiz.lamb(0.1), _FLOAT8, min_size=4),
    "low_bit(BFloat16)": lambda: optimiz.low_bit(optimiz.sophia_h(0.1, update_interval=2), _BF16, min_size=4),
    "cautious": lambda: optimiz.cautious(optimiz.scale_by_adam(0.9, 0.999, 1e-8)),
    "average": lambda: optimiz.average(optimiz.adamw(0.1)),
    "kahan": lambda: optax.chain(optimiz.adamw(0.1), _KAHAN),
    "stochastic_rounding": lambda: optax.chain(optimiz.adamw(0.1), optimiz.stochastic_rounding(0)),
    "clip": lambda: optax.chain(_CLIP, optimiz.sgd(0.1)),
    "scale_by_groups": lambda: optax.chain(optimiz.sgd(0.1), optimiz.scale_by_groups(_MULTIPLIERS)),
    "scale_by_groups and search": lambda: optimiz.salsa(multipliers=_MULTIPLIERS),
    "freeze": lambda: optimiz.groups.freeze(optimiz.lamb(0.1), optimiz.groups.path("layer")),
    "masked": lambda: optax.masked(optimiz.lars(0.1), _MASK),
    "a schedule": lambda: optimiz.adamw(_SCHEDULE, weight_decay=_SCHEDULE, decay_coupling="independent"),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optimiz.lamb)(learning_rate=_SCHEDULE),
    "probe": lambda: optax.chain(diagnostics.probe(every=2), optimiz.sgd(0.1)),
    "gsnr, as the paper": lambda: optimiz.scale_by_gsnr(1e-8, normalize="max"),
    "gauss_newton_bartlett": lambda: optimiz.gauss_newton_bartlett(2, 0),
    "a chain": lambda: optax.chain(_CLIP, WRAPPERS["guard(accumulate(lars))"](), _KAHAN),
}
CASES = {name: functools.partial(_optimizer, name) for name in TABLE} | WRAPPERS


class _Training:
    """Updates outside of ``jit``, on another batch and with other functions at each."""

    def __init__(self, tx, dtype=jnp.float32):
        self.tx, self.params, self.step = optax.with_extra_args_support(tx), params(dtype), 0
        self.state = self.tx.init(self.params)

    def update(self):
        self.step += 1
        x = jnp.linspace(1.0, 2.0, 8) / self.step
        value_fn = lambda p: _loss(p, x)  # noqa: E731
        value_fn.fills_in_masked = True
        value, grad = jax.value_and_grad(value_fn)(self.params)
        grad = jax.tree.map(jnp.add, grad, gradients(self.step, self.params))
        before = len(_compiled)
        updates, self.state = self.tx.update(
            grad,
            self.state,
            self.params,
            value=value,
            grad=grad,
            value_fn=value_fn,
            obj_fn=lambda p: _loss(p, x),
            logits_fn=lambda p: _logits(p, x),
        )
        compiled = _compiled[before:]
        self.params = optax.apply_updates(self.params, updates)
        return compiled


# Each is of parts that another case has too.
_TOGETHER = {
    "guard(lamb)",
    "guard(accumulate(lars))",
    "accumulate(salsa)",
    "low_bit(Int4)",
    "low_bit(Float8)",
    "low_bit(BFloat16)",
}
_TOGETHER |= {"low_bit(Float8)", "low_bit(BFloat16)", "scale_by_groups and search"}


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.long] * (case in _TOGETHER | ONLY_LONG)) for case in CASES]
)
def test_after_the_first_updates_nothing_is_compiled(case):
    _listen()
    training = _Training(CASES[case]())
    for _ in range(_WARM):
        training.update()
    assert [training.update() for _ in range(4)] == [[]] * 4


@pytest.mark.long
@pytest.mark.parametrize("case", ["kahan", "stochastic_rounding", "lamb", "low_bit(Int8)"])
def test_after_the_first_updates_nothing_is_compiled_for_bfloat16_parameters(case):
    _listen()
    training = _Training(CASES[case](), jnp.bfloat16)
    for _ in range(_WARM):
        training.update()
    assert [training.update() for _ in range(2)] == [[]] * 2


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    ["salsa", "a chain"]
    + [
        pytest.param(case, marks=pytest.mark.long)
        for case in ("lamb", "pla_sls", "sophia_g", "low_bit(Int8)", "probe")
    ],
)
def test_twenty_updates_leave_nothing_in_memory(case):
    training = _Training(CASES[case]())
    for _ in range(_WARM):
        training.update()

    def kept():
        gc.collect()
        return len(jax.devices()[0].client.live_executables()), len(gc.get_objects()), len(jax.live_arrays())

    before = kept()
    for _ in range(20):
        training.update()
    programs, objects, arrays = (b - a for a, b in zip(before, kept(), strict=True))
    assert programs == arrays == 0
    assert objects < 20  # fewer than one an update


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    [
        "guard",
        "clip",
        pytest.param("lamb", marks=pytest.mark.long),
        pytest.param("accumulate", marks=pytest.mark.long),
        pytest.param("sophia_h", marks=pytest.mark.long),
        pytest.param("probe", marks=pytest.mark.long),
    ],
)
def test_nothing_is_compiled_under_vmap_or_grad_alone(case):
    _listen()
    training = _Training(CASES[case]())
    tx, p, state = training.tx, training.params, training.state
    one = jnp.ones(1)
    several = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), (gradients(0, p), state, p))

    def total(g, state, p):
        extra = {"obj_fn": lambda p: _loss(p, one)}
        return sum(jnp.sum(u) for u in jax.tree.leaves(tx.update(g, state, p, **extra)[0]))

    def both():
        jax.vmap(lambda g, state, p: total(g, state, p))(*several)
        return jax.grad(lambda g: total(g, state, p))(gradients(0, p))

    for leaf in jax.tree.leaves(both()):
        assert jnp.isfinite(leaf).all()
    before = len(_compiled)
    both()
    assert _compiled[before:] == []


@pytest.mark.quick(1)
@pytest.mark.parametrize("case", ["salsa", "accumulate"])
def test_a_branch_of_python_is_that_of_the_program(case):
    def trained(jit):
        training = _Training(CASES[case]())
        update = training.tx.update

        def jitted(*args, **extra):
            return jax.jit(lambda *args: update(*args, **extra))(*args)

        if jit:
            training.tx = training.tx._replace(update=jitted)
        for _ in range(3):
            training.update()
        return training.params

    for a, b in zip(*map(jax.tree.leaves, map(trained, (False, True))), strict=True):
        assert jnp.allclose(a, b, rtol=1e-4, atol=1e-5)
