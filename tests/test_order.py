"""The order of a chain: what comes last says so where it does not, in whatever chain and around whatever."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training import train_state

import optimiz
from optimiz import groups

PARAMS = {"bias": jnp.ones(2, jnp.bfloat16), "kernel": jnp.ones((2, 2), jnp.bfloat16)}
LAST = {"stochastic_rounding": lambda: optimiz.stochastic_rounding(0), "kahan": optimiz.kahan}
each = pytest.mark.parametrize("name, last", LAST.items(), ids=LAST)

AFTER = {
    "scale_by_groups": optimiz.scale_by_groups(0.5),
    "scale": optax.scale(0.5),
    "scale_by_schedule": optax.scale_by_schedule(lambda count: 0.5),
    "clip_by_global_norm": optax.clip_by_global_norm(1.0),
    "masked": optax.masked(optax.scale(0.5), {"bias": True, "kernel": False}),
    "partition": optax.partition({0: optax.scale(0.5)}, 0),
    "chain": optax.chain(optax.identity(), optax.scale(0.5)),
    "named_chain": optax.named_chain(("half", optax.scale(0.5))),
    "kahan": optimiz.kahan(),
    "probe": optimiz.diagnostics.probe(every=1),
}

AROUND = {
    "nothing": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.identity(), tx),
    "named_chain": lambda tx: optax.named_chain(("a", optax.scale(1.0)), ("b", tx)),
    "guard": lambda tx: optimiz.guard(tx, 2),
    "accumulate": lambda tx: optimiz.accumulate(tx, 1),
    "low_bit": lambda tx: optimiz.low_bit(tx, optimiz.Int8()),
    "low_memory_update": optimiz.low_memory_update,
    "partition": lambda tx: optax.partition({"a": tx, "b": optax.sgd(0.1)}, {"bias": "a", "kernel": "b"}),
    "masked": lambda tx: optax.masked(tx, {"bias": True, "kernel": False}),
    "freeze": lambda tx: groups.freeze(tx, groups.biases),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda rate: optax.chain(optax.scale(rate), tx))(
        0.1
    ),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 1),
}


def update(tx, eager=False):
    step = tx.update if eager else lambda *args: jax.eval_shape(tx.update, *args)
    return step(PARAMS, tx.init(PARAMS), PARAMS)


@each
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("eager", [False, True], ids=["traced", "eager"])
def test_what_must_come_last_says_what_comes_after_it(name, last, after, eager):
    for tx in (
        optax.chain(optax.sgd(0.1), last(), AFTER[after]),
        optax.chain(optax.chain(optax.sgd(0.1), last()), AFTER[after]),
        optax.named_chain(("sgd", optax.sgd(0.1)), ("last", last()), ("after", AFTER[after])),
    ):
        with pytest.raises(ValueError, match=f"{name} must be the last of a chain, .* here comes {after}"):
            update(tx, eager)


@each
def test_an_optimizer_after_it_is_named(name, last):
    with pytest.raises(ValueError, match=f"{name} must be the last of a chain"):
        update(optax.chain(last(), optimiz.adamw(0.1)))


@each
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_it_is_seen_inside_of_every_wrapper_and_works_there_when_it_is_last(name, last, around):
    with pytest.raises(ValueError, match=f"{name} must be the last of a chain, .* here comes scale_by_groups"):
        update(around(optax.chain(optax.sgd(0.1), last(), optimiz.scale_by_groups(0.5))))
    update(around(optax.chain(optax.sgd(0.1), optimiz.scale_by_groups(0.5), last())))


@each
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_wrapper_that_something_comes_after_is_seen_from_within(name, last, around):
    wrapped = around(optax.chain(optax.sgd(0.1), last()))
    wrapped = optax.GradientTransformationExtraArgs(wrapped.init, wrapped.update)
    with pytest.raises(ValueError, match=f"{name} must be the last of a chain, .* here comes scale"):
        update(optax.chain(wrapped, optax.scale(0.5)))


@each
def test_wrappers_that_make_another_update_are_named(name, last):
    inner = optax.chain(optax.sgd(0.1), last())
    for tx in (optax.contrib.schedule_free(inner, 0.1, weight_lr_power=0.0), optax.contrib.mechanize(inner)):
        with pytest.raises(
            ValueError, match=f"{name} must come last, and optax's (schedule_free|mechanize) is around"
        ):
            update(tx)
    lookahead, params = optax.lookahead(inner, 5, 0.5), optax.LookaheadParams(PARAMS, PARAMS)
    with pytest.raises(ValueError, match=f"{name} must come last, and optax's lookahead is around it"):
        lookahead.update(PARAMS, lookahead.init(params), params)
    update(optax.chain(optax.contrib.schedule_free(optax.sgd(0.1), 0.1, weight_lr_power=0.0), last()))


@each
def test_what_changes_nothing_may_come_after(name, last):
    no_decay = optimiz.decoupled_weight_decay(0.0)
    update(optax.chain(optax.sgd(0.1), last(), optax.identity(), optax.chain(optax.identity(), no_decay)))


@each
def test_what_comes_after_may_be_of_other_parameters(name, last):
    mine, others = {"bias": True, "kernel": False}, {"bias": False, "kernel": True}
    rounded = optax.masked(optax.chain(optimiz.sgd(0.1), last()), mine)
    update(optax.chain(rounded, optax.masked(optimiz.sgd(0.1), others)))


@each
def test_trainers_of_flax(name, last):
    right = optax.chain(optimiz.adamw(0.1), last())
    wrong = optax.chain(last(), optimiz.adamw(0.1))
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    grads = nnx.grad(lambda m: m(jnp.ones((1, 2), jnp.bfloat16)).sum())(model)
    nnx.Optimizer(model, right, wrt=nnx.Param).update(model, grads)
    with pytest.raises(ValueError, match=f"{name} must be the last"):
        nnx.Optimizer(model, wrong, wrt=nnx.Param).update(model, grads)
    make = lambda tx: train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=tx)  # noqa: E731
    make(right).apply_gradients(grads=PARAMS)
    with pytest.raises(ValueError, match=f"{name} must be the last"):
        jax.jit(lambda state: state.apply_gradients(grads=PARAMS))(make(wrong))


@each
def test_rounding_that_is_last_arrives_and_one_that_is_not_never_runs(name, last):
    p = jnp.ones(256, jnp.bfloat16)
    tx = optax.chain(optax.sgd(1e-4), optimiz.scale_by_groups(1.0), last())
    state = tx.init(p)
    step = jax.jit(tx.update)
    for _ in range(100):
        updates, state = step(jnp.ones(256, jnp.bfloat16), state, p)
        p = optax.apply_updates(p, updates)
    assert abs(float(p.astype(jnp.float32).mean()) - 0.99) < 0.003


# --- the step comes last, alone ------------------------------------------------------------------------------


STEPS = {
    "sgd": optimiz.sgd(0.1),
    "adamw": optimiz.adamw(0.1),
    "guard": optimiz.guard(optimiz.adamw(0.1), 2),
    "accumulate": optimiz.accumulate(optimiz.sgd(0.1), 1),
    "low_bit": optimiz.low_bit(optimiz.adamw(0.1), optimiz.Int8()),
    "inject": optax.inject_hyperparams(optimiz.sgd)(0.1),
    "chain": optax.chain(optimiz.sgd(0.1), optimiz.scale_by_groups(0.5)),
    "named": optax.named_chain(("sgd", optimiz.sgd(0.1))),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_second_step_and_a_decay_after_the_step_are_refused(step):
    with pytest.raises(
        ValueError, match="scale_by_learning_rate comes after a step in its chain: a second minus"
    ):
        update(optax.chain(step, optimiz.scale_by_learning_rate(0.1)))
    with pytest.raises(ValueError, match="comes after a step in its chain"):
        update(optax.chain(step, optimiz.adamw(0.1, weight_decay=0.0)))
    with pytest.raises(ValueError, match=r"decoupled_weight_decay comes after a step .* parameters would grow"):
        update(optax.chain(step, optimiz.decoupled_weight_decay(0.1)))
    with pytest.raises(ValueError, match="decoupled_weight_decay comes after a step"):
        update(optax.named_chain(("step", step), ("decay", optimiz.decoupled_weight_decay(0.1))))


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_decay_of_optax_after_the_step_is_refused(step):
    for decay in (
        optax.add_decayed_weights(0.1),
        optax.add_decayed_weights(0.1, {"bias": False, "kernel": True}),
        optax.add_decayed_weights(jnp.float32(0.1)),
        optax.masked(optax.add_decayed_weights(0.1), {"bias": False, "kernel": True}),
    ):
        with pytest.raises(
            ValueError, match=r"add_decayed_weights comes after a step, .*parameters would grow"
        ):
            update(optax.chain(step, decay))
    update(optax.chain(optax.add_decayed_weights(0.1), step))
    update(optax.chain(step, optax.add_decayed_weights(-0.1)))


def test_a_search_is_a_step():
    loss = lambda p: sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(p))  # noqa: E731
    extra = {"value": loss(PARAMS), "grad": PARAMS, "value_fn": loss}
    for tx in (
        optax.chain(optimiz.sgd(0.1), optimiz.armijo_sgd()),
        optax.chain(optimiz.armijo_sgd(), optimiz.scale_by_learning_rate(0.1)),
    ):
        with pytest.raises(ValueError, match="comes after a step in its chain: a second minus"):
            tx.update(PARAMS, tx.init(PARAMS), PARAMS, **extra)
    tx = optax.chain(optimiz.salsa(), optimiz.stochastic_rounding(0))
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, **extra)


def test_steps_of_different_parameters_may_follow_each_other():
    first, second = {"bias": True, "kernel": False}, {"bias": False, "kernel": True}
    update(optax.chain(optax.masked(optimiz.adamw(0.1), first), optax.masked(optimiz.sgd(0.1), second)))
    update(optax.partition({"a": optimiz.adamw(0.1), "b": optimiz.sgd(0.1)}, {"bias": "a", "kernel": "b"}))


def test_what_may_follow_a_step():
    update(
        optax.chain(
            optimiz.adamw(0.1),
            optimiz.scale_by_groups(0.5),
            optax.scale_by_schedule(lambda count: 0.5),
            optimiz.clip_by_global_norm(1.0),
            optimiz.kahan(),
        )
    )
    update(optimiz.lars(0.1, weight_decay=0.1))  # its momentum comes after its step


OPTAX_STEPS = {
    "sgd": optax.sgd(0.1),
    "adam of a schedule": optax.adam(optax.constant_schedule(0.1)),
    "scale_by_learning_rate": optax.scale_by_learning_rate(0.1),
    "named": optax.named_chain(("sgd", optax.sgd(0.1))),
    "masked": optax.masked(optax.sgd(0.1), {"bias": True, "kernel": False}),
    "partition": optax.partition({0: optax.sgd(0.1)}, 0),
}


@pytest.mark.parametrize("step", OPTAX_STEPS.values(), ids=OPTAX_STEPS)
def test_a_step_of_optax_beside_one_of_ours_is_refused(step):
    with pytest.raises(ValueError, match="comes after a step in its chain: a second minus"):
        update(optax.chain(step, optimiz.sgd(0.1)))
    with pytest.raises(ValueError, match="decoupled_weight_decay comes after a step"):
        update(optax.chain(step, optimiz.decoupled_weight_decay(0.1)))
    with pytest.raises(ValueError, match="a step of Optax comes after a step, scale_by_learning_rate"):
        update(optax.chain(optimiz.sgd(0.1), step))


@pytest.mark.parametrize("mask", [{"bias": True, "kernel": False}, lambda tree: groups.biases(tree), True])
def test_a_step_of_all_parameters_after_one_of_some_is_refused(mask):
    for some in (
        optax.masked(optimiz.sgd(0.1), mask),
        optax.partition({0: optimiz.sgd(0.1)}, 0),
        groups.freeze(optimiz.sgd(0.1), groups.biases),
    ):
        with pytest.raises(ValueError, match="scale_by_learning_rate comes after a step"):
            update(optax.chain(some, optimiz.sgd(0.1)))


def test_a_step_that_had_no_parameters_is_none():
    nothing, everything = {"bias": False, "kernel": False}, {"bias": True, "kernel": True}
    update(optax.chain(optax.masked(optimiz.sgd(0.1), nothing), optax.masked(optimiz.sgd(0.1), everything)))


def test_going_uphill_on_purpose_is_not_refused():
    update(optax.chain(optax.scale(-1.0), optimiz.adamw(0.1)))
    update(optax.chain(optimiz.adamw(0.1), optax.scale(-1.0)))


@each
@pytest.mark.parametrize(
    "after",
    [
        optax.masked(optax.set_to_zero(), {"bias": True, "kernel": False}),
        optax.freeze({"bias": True, "kernel": False}),
        optax.partition({0: optax.identity(), 1: optax.set_to_zero()}, {"bias": 0, "kernel": 1}),
        optax.snapshot("norm", optax.tree.norm),
    ],
    ids=["set_to_zero", "freeze", "partition", "snapshot"],
)
def test_what_freezes_or_measures_may_come_after(name, last, after):
    update(optax.chain(optax.sgd(0.1), last(), after))


NEGATIVE = [-0.1, jnp.float32(-0.1), jnp.array(-0.1), lambda count: -0.1 * count, optax.constant_schedule(-0.1)]
POSITIVE = [0.1, jnp.array(0.1), lambda count: 0.1 * count]


@pytest.mark.parametrize("eager", [False, True], ids=["traced", "eager"])
def test_a_negative_decay_of_optax_may_come_after_the_step_and_no_other(eager):
    for decay in NEGATIVE:
        update(optax.chain(optimiz.sgd(0.1), optax.add_decayed_weights(decay)), eager)
    for decay in POSITIVE:
        decays = optax.add_decayed_weights(decay)
        for tx in (
            decays,
            optax.chain(decays),
            optax.masked(optax.chain(decays), True),
            optax.partition({0: decays}, 0),
        ):
            with pytest.raises(ValueError, match="add_decayed_weights comes after a step"):
                update(optax.chain(optimiz.sgd(0.1), tx), eager)


# Prodigy's estimate counts on its own step


@pytest.mark.parametrize(
    ("after", "here"),
    [
        (optax.scale(0.1), "scale"),
        (optimiz.scale_by_groups(0.1), "scale_by_groups"),
        (optax.clip_by_global_norm(1.0), "clip_by_global_norm"),
        (optax.add_decayed_weights(0.1), "add_decayed_weights"),
        (optax.chain(optax.scale_by_learning_rate(1.0), optax.scale(0.1)), "chain"),
    ],
)
def test_what_changes_prodigy_s_step_is_refused(after, here):
    for tx in (optimiz.prodigy(), optimiz.scale_by_prodigy()):
        with pytest.raises(ValueError, match=f"scale_by_prodigy counts on .* here comes {here} after it"):
            update(optax.chain(tx, after))


def test_a_wrapper_that_changes_prodigy_s_step_is_refused():
    tx = optax.chain(optimiz.cautious(optimiz.scale_by_prodigy()), optimiz.scale_by_learning_rate(1.0))
    with pytest.raises(ValueError, match=r"counts on .*, and optimiz's cautious is around it"):
        update(tx)


def test_what_leaves_prodigy_s_step_is_taken():
    for after in (
        optax.scale_by_learning_rate(1.0),
        optimiz.scale_by_learning_rate(1.0),
        optax.chain(optimiz.scale_by_learning_rate(1.0), optimiz.stochastic_rounding(0)),
    ):
        update(optax.chain(optax.clip(1.0), optimiz.scale_by_prodigy(), after))
    update(optimiz.guard(optimiz.average(optimiz.low_bit(optimiz.prodigy(), optimiz.Int8()), 0.9), 2))
    rest = optax.masked(optimiz.adamw(0.1), {name: i == 0 for i, name in enumerate(PARAMS)})
    first = optax.masked(optimiz.prodigy(), {name: i > 0 for i, name in enumerate(PARAMS)})
    update(optax.chain(first, rest))
