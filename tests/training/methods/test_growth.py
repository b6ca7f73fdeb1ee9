"""A model grows as planned, and any optimizer with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import training
from optimiz.training import Growth, Methods, Settings, Task
from optimiz.training.budget.milestones import Milestones
from optimiz.training.methods.growth import grow
from optimiz.training.methods.per_generation_counts import own_counts
from tests.training import layered

SCANNED = {"^layers/": 0}
KEEP = {
    "sgd": lambda scanned: optimiz.sgd(0.1, 0.9),
    "adamw": lambda scanned: optimiz.adamw(0.1, weight_decay=0.1),
    "lion": lambda scanned: optimiz.lion(0.1),
    "sgd_sai": lambda scanned: optimiz.sgd_sai(0.1, scanned=SCANNED if scanned else None),
    "amsgrad, guarded and accumulated": lambda scanned: optimiz.guard(
        optimiz.accumulate(optimiz.amsgrad(0.1), 1), 3
    ),
    "optax.nadamw, injected": lambda scanned: optax.inject_hyperparams(optax.nadamw)(0.1),
    "optax.adan": lambda scanned: optax.adan(0.1),
    "optax.partition": lambda scanned: optax.partition(
        {"a": optax.adamax(0.1), "b": optax.sgd(0.1)},
        lambda params: jax.tree.map(lambda p: "a" if p.ndim > scanned else "b", params),
    ),
}

# The others are run with the long tests.
QUICK = [
    ("adamw", False),
    ("sgd_sai", True),
    ("lion", True),
    ("optax.nadamw, injected", True),
    ("optax.partition", False),
]


def plan(*depths, at=(0.125, 0.3), scanned=False, **changes):
    return Growth(depths=depths, at=at[: len(depths) - 1], scanned=SCANNED if scanned else None, **changes)


def tree(depth, scanned, draw):
    shapes = {"head": (3,), "bias": (2,), "kernel": (2, 2)}
    if scanned:
        layers = {name: draw((depth, *shapes[name])) for name in ("bias", "kernel")}
    else:
        layers = [{name: draw(shapes[name]) for name in ("bias", "kernel")} for _ in range(depth)]
    return {"head": draw(shapes["head"]), "layers": layers}


def drawing(seed):
    rng = np.random.default_rng(seed)
    return lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)


def part(tree, layers, scanned):
    """The tree with some of its layers."""
    if scanned:
        return tree | {"layers": jax.tree.map(lambda x: x[layers], tree["layers"])}
    return tree | {"layers": tree["layers"][layers]}


def assert_same(ours, theirs):
    # Compiled apart, sums may be taken in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7), ours, theirs)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("name", "scanned"),
    [
        pytest.param(name, scanned, marks=() if (name, scanned) in QUICK else pytest.mark.long)
        for name in KEEP
        for scanned in (False, True)
    ],
)
def test_keep_continues_old_layers_and_starts_new_ones_afresh(name, scanned):
    """Each generation is updated as under an optimizer of its own that is as old as it is."""
    tx = KEEP[name](scanned)
    params = tree(1, scanned, drawing(0))
    state, growth = tx.init(params), plan(1, 2, 4, scanned=scanned)
    update = jax.jit(tx.update)
    alone = {1: (state, slice(0, 1))}  # by depth when it was born: an optimizer that knows its layers alone
    for stage, seeds in enumerate([range(1, 4), range(4, 6), range(6, 8)]):
        if stage:
            params, state = grow(growth, tx, stage, params, state)
            depth = growth.depths[stage]
            born = slice(depth // 2, depth)
            alone[depth] = (tx.init(part(params, born, scanned)), born)
        update_all = jax.jit(growth.optimizer(tx, stage).update)
        for seed in seeds:
            grads = tree(growth.depths[stage], scanned, drawing(seed))
            updates, state = update_all(grads, state, params)
            for depth, (its_state, layers) in alone.items():
                expected, its_state = update(
                    part(grads, layers, scanned), its_state, part(params, layers, scanned)
                )
                alone[depth] = (its_state, layers)
                assert_same(part(updates, layers, scanned)["layers"], expected["layers"])
                if depth == 1:
                    assert_same(updates["head"], expected["head"])
            params = optax.apply_updates(params, updates)


def test_counters_after_the_second_switch():
    """golden: switches at 12.5 and 30 of 100 updates; one update after the second."""
    tx, growth = optimiz.adam(0.1), plan(1, 2, 4)
    params = tree(1, False, drawing(0))
    state, stage, milestones = tx.init(params), 0, Milestones(100, grow_at=growth.at)
    update = jax.jit(tx.update)
    for step in range(31):
        while stage < milestones.stage(step):
            stage += 1
            before = params["layers"]
            params, state = grow(growth, tx, stage, params, state)
            jax.tree.map(np.testing.assert_array_equal, params["layers"], before * 2)
            update = jax.jit(growth.optimizer(tx, stage).update)
        updates, state = update(tree(growth.depths[stage], False, drawing(step)), state, params)
        params = optax.apply_updates(params, updates)
    [count] = own_counts(state.inner_state, params).values()
    ages = [int(count), *(int(count - born) for (born,) in state.births)]
    assert [ages[generation] for generation in (0, 1, 2, 2)] == [31, 18, 1, 1]
    first, *others = (np.asarray(layer["kernel"]) for layer in params["layers"])
    assert all(np.any(first != other) for other in others)


@pytest.mark.quick(2)
@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("policy", ["copy", "reset"])
def test_copy_and_reset(policy, scanned):
    tx = optimiz.adamw(optimiz.schedules.over_steps(optimiz.schedules.linear(0.1), 10))
    params, growth = tree(2, scanned, drawing(0)), plan(2, 4, scanned=scanned, policy=policy)
    state = tx.init(params)
    for seed in (1, 2, 3):
        _, state = tx.update(tree(2, scanned, drawing(seed)), state, params)
    grown, after = grow(growth, tx, 1, params, state)
    assert growth.optimizer(tx, 1) is tx
    assert jax.tree.structure(after) == jax.tree.structure(tx.init(grown))
    adam, before = after[0], state[0]
    if policy == "copy":
        assert adam.count == 3
        for moment, old in ((adam.mu, before.mu), (adam.nu, before.nu)):
            for half in (slice(0, 2), slice(2, 4)):
                jax.tree.map(np.testing.assert_array_equal, part(moment, half, scanned), old)
    else:
        jax.tree.map(np.testing.assert_array_equal, adam, tx.init(grown)[0])
    assert after[-1].count == 3  # the schedule goes on


def test_a_state_of_other_shapes():
    """Factored moments, memories of past gradients, and step sizes by layer."""
    params = tree(2, False, drawing(0)) | {"embedding": jnp.ones((2, 2))}
    units = optimiz.groups.search_units()
    for tx in (optimiz.adafactor(0.1), optax.lbfgs(0.1, linesearch=None), optimiz.pla_sls(units)):
        for policy in ("keep", "copy", "reset"):
            growth = plan(2, 4, policy=policy)
            grown, state = jax.eval_shape(
                lambda params, tx=tx, growth=growth: grow(growth, tx, 1, params, tx.init(params)), params
            )
            assert state == jax.eval_shape(growth.optimizer(tx, 1).init, grown)


@pytest.mark.long
def test_nothing_is_compiled_but_at_the_switch(tmp_path):
    traced = []

    def loss(params, batch, key):
        traced.append(layered.depth_of(params))
        return layered.loss(params, batch, key)

    task = layered.task(1, loss=loss, evaluate=None)
    methods = Methods(growth=plan(1, 2))
    result = training.fit(task, optimiz.sgd(0.1), Settings(steps=12), tmp_path, identity={}, methods=methods)
    assert traced == [1, 2] and layered.depth_of(result.params) == 2
    events = [row["event"] for row in training.read_metrics(tmp_path / "timings.jsonl")]
    assert events.count("compile") == 2 and events.count("growth") == 1


def test_the_trajectory_is_that_of_adam_with_a_count_per_layer(tmp_path):
    """A model that adds up its layers, whose output so changes at the switch, against a loop in NumPy."""
    target, rate, steps = 3.0, 0.05, 40

    def loss(params, batch, key):
        return 0.5 * (sum(layer["w"] for layer in params["layers"]) - batch["target"]) ** 2

    batch = {"target": np.full(2, target, np.float32)}
    task = Task(lambda key: {"layers": [{"w": jnp.asarray(0.25)}]}, loss, lambda step: batch)
    result = training.fit(
        task,
        optimiz.adam(rate),
        Settings(steps=steps),
        tmp_path,
        identity={},
        methods=Methods(growth=plan(1, 2, 4)),
    )

    w, m, v, age = (np.array([x]) for x in (0.25, 0.0, 0.0, 0))
    losses = []
    for step in range(steps):
        if step in (5, 12):  # 12.5 % and 30 %
            w, m, v, age = np.tile(w, 2), *(np.append(x, np.zeros_like(x)) for x in (m, v, age))
        gradient = w.sum() - target
        losses.append(0.5 * gradient**2)
        age += 1
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w - rate * (m / (1 - 0.9**age)) / (np.sqrt(v / (1 - 0.999**age)) + 1e-8)
    np.testing.assert_allclose([row["loss"] for row in result.history], losses, rtol=2e-5, atol=1e-7)


@pytest.mark.long
def test_each_stage_is_charged_by_its_depth(tmp_path):
    result = layered.fit("growth", tmp_path)
    # 0.15 s a step up to 2 s, 0.25 s up to 4 s, 0.45 s up to 8 s.
    assert (result.steps, result.reference_seconds) == (
        14 + 8 + 9,
        pytest.approx(14 * 0.15 + 8 * 0.25 + 9 * 0.45),
    )
    fractions = [row["fraction"] for row in result.history if "loss" in row]
    prices = np.diff([*fractions, result.reference_seconds / 8]) * 8
    np.testing.assert_allclose(prices, [0.15] * 14 + [0.25] * 8 + [0.45] * 9, rtol=1e-5)
    assert [row["active_layers"] for row in result.history if "loss" in row] == [1] * 14 + [2] * 8 + [4] * 9
    depths = [row["evaluation"]["depth"] for row in result.history if "evaluation" in row]
    assert depths == [2, 4]


def test_speed_up_in_updates():
    """golden: the gain in updates of growing at 12.5 % and 30 %, by the authors' tables."""
    bert = dict(zip(range(1, 7), [0.02521, 0.03837, 0.05177, 0.06508, 0.07847, 0.09188], strict=True))
    bert |= {8: 0.1186, 16: 0.2253}
    t5 = {3: 0.291, 6: 0.538, 12: 1.031}
    for times, depths, gain in ((bert, (4, 8, 16), 1.4652), (t5, (3, 6, 12), 1.478)):
        growth = plan(*depths)
        shares = np.diff([0.0, *growth.at, 1.0])
        updates = sum(share / times[depth] for share, depth in zip(shares, depths, strict=True))
        assert updates * times[depths[-1]] == pytest.approx(gain, abs=5e-4)


@pytest.mark.long
@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "sgd_sai", "sophia_g", "salsa"])
def test_any_optimizer_learns_while_the_model_grows(tmp_path, name, scanned):
    make = {
        "sgd": lambda: optimiz.sgd(0.05, 0.9),
        "adamw": lambda: optimiz.adamw(0.01),
        "lion": lambda: optimiz.lion(0.003),
        "sgd_sai": lambda: optimiz.sgd_sai(0.01, scanned=SCANNED if scanned else None),
        "sophia_g": lambda: optimiz.sophia_g(0.01, classes=layered.CLASSES, update_interval=5),
        "salsa": lambda: optimiz.salsa(),
    }
    for policy in ("keep", "copy", "reset"):
        methods = Methods(growth=plan(1, 2, 4, scanned=scanned, policy=policy))
        result = training.fit(
            layered.task(1, scanned=scanned),
            make[name](),
            Settings(budget=24.0),
            tmp_path / policy,
            identity={},
            reference=layered.prices(),
            methods=methods,
        )
        losses = [row["loss"] for row in result.history if "loss" in row]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
        assert layered.depth_of(result.params) == 4


@pytest.mark.long
def test_a_search_is_made_once_for_all_generations(tmp_path):
    """Its forward passes are those that it counts, and all of them are charged."""
    calls = []

    def loss(params, batch, key):
        jax.debug.callback(lambda: calls.append(1))
        return layered.loss(params, batch, key)

    methods = Methods(growth=plan(1, 2, at=(0.5,)))
    result = training.fit(
        layered.task(1, loss=loss, evaluate=None),
        optimiz.salsa(),
        Settings(steps=8),
        tmp_path,
        identity={},
        methods=methods,
    )
    jax.effects_barrier()
    assert len(calls) == 8 + result.history[-1]["evaluations"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"depths": (4, 6)}, ValueError, r"depths must be at least two, each twice .*, got \(4, 6\)"),
        ({"depths": (4,), "at": ()}, ValueError, "depths must be at least two"),
        ({"depths": (0, 0)}, ValueError, r"each of depths must be in \[1,"),
        ({"depths": (1.0, 2.0)}, TypeError, "each of depths must be an integer"),
        ({"at": (0.0,)}, ValueError, r"each of at must be in \(0, 1\), got 0.0"),
        ({"at": (1.0,)}, ValueError, r"each of at must be in \(0, 1\), got 1.0"),
        ({"at": (0.2, 0.3)}, ValueError, r"at must ascend, with one share for each growth of \(2, 4\)"),
        ({"depths": (2, 4, 8), "at": (0.3, 0.3)}, ValueError, "at must ascend"),
        ({"policy": "forget"}, ValueError, "policy must be one of 'keep', 'copy', 'reset', got 'forget'"),
        ({"layers": "layers"}, ValueError, "layers must have one group"),
    ],
)
def test_an_invalid_plan_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        Growth(**{"depths": (2, 4), "at": (0.5,)} | changes)


def test_a_model_that_does_not_fit_the_plan_is_refused(tmp_path):
    def run(task, **settings):
        reference = layered.prices() if "budget" in settings else None
        methods = Methods(growth=plan(2, 4))
        training.fit(
            task, optimiz.sgd(0.1), Settings(**settings), tmp_path / "run", identity={},
            reference=reference, methods=methods,
        )  # fmt: skip

    with pytest.raises(ValueError, match=r"Growth\(depths=\) must start with the model's 1 layers, got 2"):
        run(layered.task(1), steps=4)
    with pytest.raises(ValueError, match=r"is charged by its depth: Task\(depth=\) must be given, got None"):
        run(dataclasses.replace(layered.task(2), depth=None), budget=1.0)
