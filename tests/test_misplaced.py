"""One thing given where another is meant is refused before anything is trained, with what was meant."""

import dataclasses
import inspect
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz import checks, diagnostics, groups, schedules
from optimiz.primitives import scale_by_armijo

SHAPES = {
    "constant": schedules.constant(0.1),
    "cosine": schedules.cosine(0.1),
    "exponential": schedules.exponential(0.1, 0.5),
    "inverse_sqrt": schedules.inverse_sqrt(0.1, 0.5),
    "linear": schedules.linear(0.1),
    "one_cycle": schedules.one_cycle(0.1),
    "one_minus_sqrt": schedules.one_minus_sqrt(0.1),
    "step": schedules.step(0.1, {0.5: 0.5}),
    "warm_up": schedules.warm_up(lambda x: 1 - x, 0.5),
    "warmup_constant": schedules.warmup_constant(0.1),
    "warmup_cosine": schedules.warmup_cosine(0.1),
    "warmup_linear": schedules.warmup_linear(0.1),
    "wsd": schedules.wsd(0.1),
}
SHAPE = SHAPES["cosine"]
PARAMS = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}

MAKERS = {
    name: value
    for name, value in {**vars(schedules), **vars(optimiz)}.items()
    if inspect.isfunction(value)
    and name not in ("hyperparams", "mean_over", "peak", "spending", "over_steps", "over_budget", "warm_up")
}
# What must be given although it has a default.
BESIDE = {name: {"adam_learning_rate": 0.1} for name in ("adamh", "muon", "muonh", "normuon")}
# What an argument without a default is, other than a number.
NEEDED: dict[str, Any] = {
    "c": 0.5,
    "classes": 2,
    "direction": optax.identity(),
    "every": 1,
    "factors": {0.5: 0.5},
    "fmt": optimiz.Int8(),
    "growth": lambda sizes, due: sizes,
    "hessian_diagonal_fn": optax.identity(),
    "key": 0,
    "max_trials": 2,
    "multipliers": 1.0,
    "newton_schulz": optimiz.newton_schulz.KELLER,
    "params": PARAMS,
    "search_due": lambda state: True,
    "steps": 2,
    "tx": optax.identity(),
    "update_interval": 1,
}
NO_NUMBERS = {"key", "multipliers", "tx", "params", "fmt", "growth", "search_due", "min_dim_size_to_factor"}


def scalars(maker):
    """Arguments that are numbers, or may be."""
    for name, parameter in inspect.signature(maker).parameters.items():
        kind = str(parameter.annotation).replace(str(optax.ScalarOrSchedule), "ArrayLike")
        is_number = re.search(r"ArrayLike|float|int\b", kind) and not re.search(r"DType|Mapping|Callable", kind)
        if is_number and name not in NO_NUMBERS:
            yield name


def given(maker):
    parameters = inspect.signature(maker).parameters.values()
    return {
        p.name: NEEDED.get(p.name, 0.1)
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


@pytest.mark.parametrize("name", MAKERS)
def test_an_unbound_shape_is_refused_wherever_a_number_or_a_schedule_is_expected(name):
    maker = MAKERS[name]
    for argument in scalars(maker):
        with pytest.raises(TypeError, match=rf"{argument}.* got a shape, .*over_steps\(shape, steps=…\)"):
            needed = {"momentum": 0.9} if (name, argument) == ("sgd", "dampening") else BESIDE.get(name, {})
            maker(**given(maker) | needed | {argument: SHAPE})


def test_the_sweep_sees_the_arguments_that_it_is_for():
    assert {"learning_rate", "b1", "b2", "eps", "weight_decay"} <= set(scalars(optimiz.adamw))
    assert set(scalars(optimiz.guard)) == {"give_up_after"}
    assert len(MAKERS) > 50


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_is_one_and_no_rate_before_it_is_bound(shape):
    with pytest.raises(
        TypeError, match=r"learning_rate must be .* Bind it: schedules.over_steps\(shape, steps=…\)"
    ):
        optimiz.adamw(shape)
    optimiz.adamw(schedules.over_steps(shape, 10)).init(PARAMS)


@pytest.mark.parametrize(
    "count", [jnp.int32(0), jnp.int32(7), jnp.zeros([], jnp.uint32), 7, -1], ids=lambda c: f"{c}"
)
def test_a_shape_refuses_a_count(count):
    with pytest.raises(TypeError, match=r"a function of the progress.*over_steps\(shape, steps=…\)"):
        SHAPE(count)


def test_a_shape_takes_a_progress_of_any_kind():
    ends = [SHAPE(0), SHAPE(0.0), SHAPE(jnp.float32(0)), jax.jit(SHAPE)(0.0), SHAPE(jnp.bfloat16(0))]
    assert len({float(x) for x in ends}) == 1
    assert float(SHAPE(1)) == 0


@pytest.mark.parametrize(
    "make",
    [
        optax.adam,
        optax.adamw,
        optax.adafactor,
        optax.lion,
        optax.inject_hyperparams(optax.adamw),
        optax.inject_hyperparams(optimiz.adamw),
        lambda shape: optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(shape)),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_optax_fails_loudly_with_an_unbound_shape(make, jit):
    tx = make(SHAPE)
    run = lambda: tx.update(PARAMS, tx.init(PARAMS), PARAMS)  # noqa: E731
    with pytest.raises(TypeError, match="over_steps"):
        (jax.jit(run) if jit else run)()


@pytest.mark.parametrize("make", [schedules.cosine, schedules.over_steps, optax.cosine_decay_schedule])
@pytest.mark.parametrize("argument", ["learning_rate", "weight_decay", "b1"])
def test_what_makes_a_schedule_is_no_schedule(make, argument):
    with pytest.raises(TypeError, match=f"{argument} .*call it"):
        optimiz.adamw(**{"learning_rate": 0.1, argument: make})


def test_a_function_that_returns_a_schedule_is_none():
    with pytest.raises(
        TypeError, match="learning_rate must be a schedule, a function of the update count; it returned"
    ):
        optimiz.adamw(lambda count: optax.constant_schedule(0.1)).init(PARAMS)


@pytest.mark.parametrize(
    "schedule", [optax.constant_schedule(0.1), schedules.over_steps(SHAPE, 10), lambda count: 0.1]
)
def test_a_schedule_is_refused_where_only_a_number_is_allowed(schedule):
    with pytest.raises(TypeError, match=r"b1 must be a number, got a function; optax.inject_hyperparams"):
        optimiz.adamw(0.1, b1=schedule)
    with pytest.raises(TypeError, match="every must be an integer"):
        optimiz.accumulate(optax.sgd(0.1), schedule)


@pytest.mark.parametrize(
    "schedule",
    [
        optax.cosine_decay_schedule(0.1, 10),
        optax.warmup_cosine_decay_schedule(0, 0.1, 2, 10),
        schedules.over_steps(SHAPE, 10),
        schedules.over_budget(SHAPE),
    ],
)
@pytest.mark.parametrize(
    "bind",
    [
        lambda s: schedules.over_steps(s, 10),
        schedules.over_budget,
        lambda s: schedules.warm_up(s, 0.5),
        lambda s: schedules.wsd(0.1, cooldown=s),
        lambda s: schedules.one_cycle(0.1, anneal=s),
    ],
)
def test_a_schedule_is_refused_where_a_shape_is_meant(schedule, bind):
    with pytest.raises(TypeError, match="must be a function of the progress x, got a schedule"):
        bind(schedule)


def test_what_makes_a_shape_is_no_shape():
    with pytest.raises(TypeError, match=r"shape got the function linear itself; call it: linear\(…\)"):
        schedules.over_steps(schedules.linear, 10)


# --- optimizers and formats ------------------------------------------------------------------------------


AROUND = {
    "accumulate": lambda tx: optimiz.accumulate(tx, 2),
    "guard": lambda tx: optimiz.guard(tx, 2),
    "low_memory_update": optimiz.low_memory_update,
    "low_bit": lambda tx: optimiz.low_bit(tx, optimiz.Int8()),
    "on_step": optimiz.on_step,
    "freeze": lambda tx: groups.freeze(tx, groups.biases),
    "state_bytes": lambda tx: optimiz.state_bytes(tx, PARAMS),
    "hessian_diagonal_fn": lambda tx: optimiz.scale_by_sophia(
        0.9, 0.9, 1e-8, 1.0, update_interval=1, hessian_diagonal_fn=tx
    ),
    "decay": lambda tx: optimiz.scale_by_trust_ratio(decay=tx),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(
    "tx, shown",
    [
        (optimiz.adamw, r"the function adamw itself; call it: adamw\(…\)"),
        (optax.adamw, r"the function adamw itself; call it: adamw\(…\)"),
        (optimiz.kahan, r"call it: kahan\(\)"),
        (optax.MultiSteps, r"the class MultiSteps itself; call it: MultiSteps\(…\)"),
        ("adamw", "'adamw' of type str"),
        (optimiz.Int8(), "Int8"),
    ],
)
def test_what_makes_a_transformation_is_none(around, tx, shown):
    with pytest.raises(
        TypeError, match=f"must be an optimizer or another optax.GradientTransformation, got .*{shown}"
    ):
        around(tx)


def test_what_only_looks_like_a_transformation_is_one():
    steps = optax.MultiSteps(optax.sgd(0.1), 2)
    optimiz.guard(steps, 1).init(PARAMS)  # pyright: ignore


@pytest.mark.parametrize("fmt", [optimiz.Int8, optimiz.Int4, optimiz.Float8, optimiz.BFloat16])
def test_a_format_is_an_instance(fmt):
    with pytest.raises(
        TypeError, match=rf"fmt got the class {fmt.__name__} itself; call it: {fmt.__name__}\(\)"
    ):
        optimiz.low_bit(optax.sgd(0.1), fmt)


# --- trees and rules ------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Net:
    """Parameters whose class is called with a batch, as an Equinox module is."""

    bias: Any
    kernel: Any

    def __call__(self, x):
        return x @ self.kernel + self.bias


NET = Net(jnp.array([3.0, 4.0]), jnp.ones((2, 2)))
MASK = jax.tree.map(lambda p: p.ndim > 1, NET)
DICT = {"bias": NET.bias, "kernel": NET.kernel}


def updated(tx, params):
    grads = jax.tree.map(lambda p: p / 2, params)
    loss = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)) / 4  # noqa: E731
    extra = {"value": loss(params), "grad": grads, "value_fn": loss}
    tx = optax.with_extra_args_support(tx)
    return jax.tree.leaves(tx.update(grads, tx.init(params), params, **extra)[0])


WITH_TREES = {
    "lamb ratio": lambda tree: optimiz.lamb(0.1, trust_ratio_mask=tree),
    "lamb decay": lambda tree: optimiz.lamb(0.1, weight_decay=0.1, mask=tree),
    "lars ratio": lambda tree: optimiz.lars(0.1, trust_ratio_mask=tree),
    "lars decay": lambda tree: optimiz.lars(0.1, weight_decay=0.1, weight_decay_mask=tree),
    "adamw": lambda tree: optimiz.adamw(0.1, weight_decay=0.5, mask=tree),
    "decay": lambda tree: optimiz.decoupled_weight_decay(0.5, tree),
    "freeze": lambda tree: groups.freeze(optax.sgd(0.1), tree),
    "freeze rule": lambda tree: groups.freeze(
        optax.sgd(0.1), lambda params: jax.tree.map(lambda p: p.ndim < 2, params)
    ),
    "label": lambda tree: optax.partition(
        {"a": optax.sgd(0.1), "b": optax.sgd(0.2)}, groups.label({"a": tree, "b": groups.everything})
    ),
    "scale_by_groups": lambda tree: optimiz.scale_by_groups(jax.tree.map(lambda yes: 0.5 + yes, tree)),
    "salsa": lambda tree: optimiz.salsa(multipliers=jax.tree.map(lambda yes: 0.5 + yes, tree)),
    "salsa decay": lambda tree: optimiz.salsa(weight_decay=0.5, weight_decay_mask=tree),
    "units": lambda tree: optimiz.pla_sls(units=jax.tree.map(int, tree)),
    "probe": lambda tree: diagnostics.probe(jax.tree.map(str, tree), every=1),
}


@pytest.mark.parametrize("make", WITH_TREES.values(), ids=WITH_TREES)
def test_a_tree_is_a_tree_also_where_its_class_is_called(make):
    got = updated(make(MASK), NET)
    expected = updated(make({"bias": False, "kernel": True}), DICT)
    assert [x.tolist() for x in got] == [x.tolist() for x in expected]


def test_a_tree_that_can_be_called_is_described_and_measured():
    assert groups.describe(NET, MASK) == groups.describe(DICT, {"bias": False, "kernel": True})
    layered = {"layers": [NET, NET]}
    tree = groups.layerwise_decay(0.5)(layered)
    assert isinstance(tree["layers"][0], Net)
    scaled, _ = optimiz.scale_by_groups(tree).update(layered, optax.EmptyState())
    assert scaled["layers"][0].bias.tolist() == [0.75, 1.0]
    labels = Net("a", "b")
    assert diagnostics.block_names(NET, labels) == ("a", "b")
    measured = diagnostics.heterogeneity(NET, labels)
    assert measured.norm.shape == (2,)


def test_a_prefix_that_holds_one_is_a_tree():
    params = {"net": NET, "head": jnp.ones(2)}
    tx = optimiz.scale_by_groups({"net": Net(1.0, 2.0), "head": 3.0})
    scaled, _ = tx.update(params, optax.EmptyState())
    assert float(scaled["net"].kernel[0, 0]) == 2 and float(scaled["head"][0]) == 3


def test_an_error_notes_that_a_callable_tree_of_another_structure_was_called():
    with pytest.raises(TypeError) as caught:
        optimiz.lamb(0.1, trust_ratio_mask=MASK).init({"other": jnp.ones(2)})
    assert "was called with them" in "".join(caught.value.__notes__)


def test_equinox_modules():
    net = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    mask = jax.tree.map(lambda p: p.ndim > 1, net)
    for make in WITH_TREES.values():
        updated(make(mask), net)
    assert "False" in groups.describe(net, mask)


RULE_MAKERS = {
    "no_decay": r"no_decay\(\)",
    "path": r"path\(…\)",
    "rank": r"rank\(\)",
    "layerwise_decay": r"layerwise_decay\(…\)",
    "search_units": r"search_units\(\)",
    "units_by": r"units_by\(\)",
    "label": r"label\(…\)",
}
TAKERS = {
    "adamw": lambda x: optimiz.adamw(0.1, mask=x),
    "sgd": lambda x: optimiz.sgd(0.1, weight_decay=0.1, weight_decay_mask=x),
    "lamb": lambda x: optimiz.lamb(0.1, trust_ratio_mask=x),
    "scale_by_trust_ratio": lambda x: optimiz.scale_by_trust_ratio(mask=x),
    "decoupled_weight_decay": lambda x: optimiz.decoupled_weight_decay(0.1, x),
    "scale_by_groups": optimiz.scale_by_groups,
    "salsa": lambda x: optimiz.salsa(multipliers=x),
    "pla_sls": lambda x: optimiz.pla_sls(units=x),
    "freeze": lambda x: groups.freeze(optax.sgd(0.1), x),
    "label": lambda x: groups.label({"a": x}),
    "units_by": groups.units_by,
    "describe": lambda x: groups.describe(PARAMS, x),
    "embeddings of units": lambda x: groups.search_units(embeddings=x),
    "embeddings": lambda x: groups.layerwise_decay(0.5, embeddings=x),
    "with_last": lambda x: groups.layerwise_decay(0.5, with_last=x),
    "heterogeneity": lambda x: diagnostics.heterogeneity(PARAMS, x),
    "block_names": lambda x: diagnostics.block_names(PARAMS, x),
    "block_curvature": lambda x: diagnostics.block_curvature(lambda p: p["bias"].sum(), PARAMS, x),
    "probe": lambda x: diagnostics.probe(x, every=1),
}


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("name", RULE_MAKERS)
def test_what_makes_a_rule_is_no_rule(taker, name):
    with pytest.raises(TypeError, match=f"the function {name} itself; call it: {RULE_MAKERS[name]}"):
        taker(getattr(groups, name))


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("maker", [diagnostics.by_layer, diagnostics.by_tensor, groups.Rule, Net])
def test_what_makes_labels_and_a_class_are_no_rule(taker, maker):
    with pytest.raises(
        TypeError, match=f"the (function|class) {maker.__name__} itself; call it: {maker.__name__}"
    ):
        taker(maker)


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("given", [SHAPE, schedules.over_steps(SHAPE, 10)], ids=["shape", "schedule"])
def test_a_schedule_is_no_rule(taker, given):
    with pytest.raises(TypeError, match="got a schedule or its shape"):
        taker(given)


def test_a_function_that_returns_a_rule_is_none():
    for use in (
        lambda given: diagnostics.heterogeneity(PARAMS, given(diagnostics.by_layer)),
        lambda given: optimiz.adamw(0.1, mask=given(groups.no_decay)).init(PARAMS),
        lambda given: optimiz.scale_by_groups(given(lambda: groups.layerwise_decay(0.5))).init(PARAMS),
        lambda given: groups.describe(PARAMS, given(groups.no_decay)),
    ):
        with pytest.raises(TypeError, match="must be a function from the parameters to a tree, it returned"):
            use(lambda make: lambda params: make())


def test_rules_that_are_functions_are_used_as_they_stand():
    transformer = {"layer_0": {"attention": {"query": 1.0, "key": 1.0, "value": 1.0, "out": 1.0}}}
    assert groups.describe(transformer, groups.kinds)
    optimiz.pla_sls(units=groups.query_key_value).init(jax.tree.map(jnp.asarray, transformer))


@pytest.mark.parametrize(
    "answer, shown",
    [("no", "'no'"), (0.5, "0.5"), (jnp.ones(2), r"Array\(\[1"), (jnp.zeros((2, 2), bool), "Array")],
)
def test_a_mask_must_be_boolean(answer, shown):
    for make in (optimiz.adamw, optimiz.lion):
        with pytest.raises(
            TypeError, match=f"must say True or False of each parameter, got {shown}(.|\\n)* at \\['bias'\\]"
        ):
            make(0.1, mask={"bias": answer, "kernel": True})
    with pytest.raises(TypeError, match="must say True or False"):
        optimiz.adamw(0.1, mask=lambda p: {"bias": answer, "kernel": True}).init(PARAMS)


def test_a_mask_may_say_it_with_any_kind_of_bool():
    for yes, no in ((True, False), (1, 0), (jnp.array(True), jnp.array(False)), (1.0, 0.0)):
        answers = checks.mask("mask", {"bias": no, "kernel": yes})(PARAMS)
        assert answers == {"bias": False, "kernel": True}


# --- searches --------------------------------------------------------------------------------------------


def test_a_search_says_what_its_functions_must_be():
    with pytest.raises(
        TypeError, match=r"search_due got the function search_every itself; call it: search_every\(…\)"
    ):
        scale_by_armijo(
            0.5,
            init_step=1.0,
            shrink=0.5,
            growth=lambda sizes, due: sizes,
            search_due=optimiz.search_every,  # pyright: ignore
            max_trials=2,
        )
    grads, loss = jax.tree.map(jnp.ones_like, PARAMS), lambda p: jnp.ones(32)
    tx = optimiz.salsa()
    with pytest.raises(ValueError, match=r"value_fn must return a scalar, got shape \(32,\)"):
        tx.update(grads, tx.init(PARAMS), PARAMS, value=jnp.float32(1), grad=grads, value_fn=loss)


def test_a_schedule_that_optax_has_called_says_how_it_is_passed():
    with pytest.raises(TypeError, match=r'name it in static_args=\("decay",\)'):
        optax.inject_hyperparams(optimiz.salsa)(decay=optax.constant_schedule(1.0)).init(PARAMS)
    optax.inject_hyperparams(optimiz.salsa, static_args=("decay",))(decay=optax.constant_schedule(1.0)).init(
        PARAMS
    )


def test_a_beta_that_optax_has_rounded_to_one_is_refused():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    with pytest.raises(ValueError, match=r"b2 must be in .* in bfloat16; .* hyperparam_dtype=jnp.float32"):
        optax.inject_hyperparams(optimiz.adam)(learning_rate=0.1).init(half)
    optax.inject_hyperparams(optimiz.adam, hyperparam_dtype=jnp.float32)(learning_rate=0.1).init(half)


# --- dtypes, axes, labels, states ----------------------------------------------------------------------------

MOMENTS = {
    name: [x for x in inspect.signature(make).parameters if x in ("mu_dtype", "nu_dtype", "accumulator_dtype")]
    for name, make in vars(optimiz).items()
    if inspect.isfunction(make)
}


@pytest.mark.parametrize("dtype", [jnp.int8, "int32", bool])
@pytest.mark.parametrize("name, argument", [(name, x) for name, found in MOMENTS.items() for x in found])
def test_a_moment_is_floating_point(name, argument, dtype):
    make = MAKERS[name]
    needed = {
        "pla_sls": {"units": {"bias": 0, "kernel": 0}},
        "sgd": {"momentum": 0.9},
        "rmsprop": {"momentum": 0.9},
    }.get(name, BESIDE.get(name, {}))
    with pytest.raises(TypeError, match=r"must be floating point, got .*optimiz.low_bit"):
        make(**given(make) | needed | {argument: dtype}).init(PARAMS)
    make(**given(make) | needed | {argument: jnp.bfloat16}).init(PARAMS)


def test_the_axes_of_stacked_layers_are_a_mapping():
    for scanned in ("^layers/", ["^layers/"], 0):
        for use in (
            lambda s: groups.no_decay(scanned=s),
            lambda s: groups.rank(1, scanned=s),
            lambda s: groups.layerwise_decay(0.5, scanned=s)(PARAMS),
            lambda s: diagnostics.block_names(PARAMS, diagnostics.by_layer(s)),
            lambda s: optimiz.lamb(0.1, scanned=s).init(PARAMS),
        ):
            with pytest.raises(
                TypeError, match=r'scanned must be axes by pattern of path, such as {"\^layers/": 0}'
            ):
                use(scanned)


def test_one_label_is_no_tree_of_labels():
    for use in (diagnostics.heterogeneity, diagnostics.block_names):
        with pytest.raises(TypeError, match=r"blocks must be a tree of labels, .* got 'by_layer'"):
            use(PARAMS, "by_layer")


def test_an_optimizer_is_no_state():
    with pytest.raises(TypeError, match="state must be an optimizer's state, got the optimizer"):
        optimiz.hyperparams(optimiz.adamw(0.1))


@pytest.mark.parametrize(
    "schedule, error, said",
    [
        (lambda: 0.1, TypeError, "takes 0 positional arguments"),
        (lambda count, step: 0.1, TypeError, "missing 1 required positional argument"),
        (
            lambda count: None,
            TypeError,
            "learning_rate must be a schedule, a function to a number; it returned None",
        ),
        (lambda count: "0.1", TypeError, "learning_rate must be a schedule, .* it returned '0.1'"),
        (
            lambda count: {"rate": 0.1},
            TypeError,
            "learning_rate must be a schedule, .* it returned {'rate': 0.1}",
        ),
        (lambda count: [0.1, "b"], TypeError, "learning_rate must be a schedule, .* it returned"),
        (lambda count: 0.1 + 0j, TypeError, "learning_rate must be a schedule, .* it returned"),
        (lambda count: -0.1, ValueError, r"learning_rate at the first update must be in \[0, inf\), got -0.1"),
        (lambda count: jnp.nan, ValueError, "learning_rate at the first update must be in"),
    ],
)
def test_a_schedule_that_is_none_is_found_before_the_first_update(schedule, error, said):
    with pytest.raises(error, match=said) as caught:
        optimiz.adamw(schedule).init(PARAMS)
    if "argument" in said:
        assert caught.value.__notes__ == [
            "learning_rate is a schedule, and so is called with the update count alone"
        ]


@pytest.mark.parametrize("value", [-0.1, jnp.nan])
def test_no_schedule_is_negative_at_the_first_update(value):
    for name, tx in {
        "weight_decay": optimiz.adamw(0.1, weight_decay=lambda count: value),
        "decay": optimiz.salsa(decay=lambda count: value),
    }.items():
        with pytest.raises(ValueError, match=rf"{name} at the first update must be in \[0, inf\), got"):
            tx.init(PARAMS)


@pytest.mark.parametrize("loss", [{"loss": 1.0}, None, [1.0]])
def test_a_value_fn_whose_loss_is_no_number_is_named(loss):
    tx = optimiz.armijo_sgd()
    with pytest.raises(TypeError, match="value_fn must return a scalar, or a tuple that begins so, got"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=1.0, grad=PARAMS, value_fn=lambda params: loss)


def test_a_rule_combines_with_rules():
    with pytest.raises(TypeError, match=r"biases & got the function no_decay itself; call it: no_decay\(\)"):
        groups.biases & groups.no_decay  # pyright: ignore
    with pytest.raises(TypeError, match=r"biases \| must be followed by another rule, got"):
        groups.biases | {"bias": True}  # pyright: ignore


def test_the_axis_comes_before_the_loss():
    with pytest.raises(TypeError, match="mean_over takes the name of an axis and then the loss"):
        optimiz.mean_over(lambda params: 0.0, "data")  # pyright: ignore


def test_on_step_is_for_a_search():
    tx = optimiz.on_step(optax.scale(0.5))
    with pytest.raises(
        TypeError, match=r"on_step is for the two directions of a line search, .* got updates of type dict"
    ):
        tx.update(PARAMS, tx.init(PARAMS))


def test_a_gradient_without_a_leaf_is_named_by_its_path():
    for make in (optimiz.sgd_sai, optimiz.adamw, optimiz.sqrt_size_sgd, optimiz.lion, optimiz.lars):
        tx = make(0.1, weight_decay=0.0)
        for rest in ((), (PARAMS,)) if make is optimiz.sgd_sai else ((PARAMS,),):
            with pytest.raises(ValueError, match=r"the gradient has no leaf at \['bias'\]"):
                tx.update(PARAMS | {"bias": None}, tx.init(PARAMS), *rest)
