import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.sophia_h import sophia_h
from optimiz.training import train_state
from optimiz.training.compiled_step import compile_step
from optimiz.training.step import StepSpec
from tests.golden import parity
from tests.training import tiny

START = {
    "w": np.array([[1.0, -2.0, 3.0], [0.5, 0.1, -1.0]]),
    "b": np.array([0.1, -0.2]),
    "s": np.array(0.7),
}


def loss(p):
    """The Hessian is diagonal, so that the estimate is exact, and negative near the origin."""
    return sum(jnp.sum(x**4 / 4 - x**2 / 2) for x in jax.tree.leaves(p))


def trained(tx, start, steps, obj_fn=loss):
    p = jax.tree.map(jnp.asarray, start)

    @jax.jit
    def step(p, state):
        updates, state = tx.update(jax.grad(obj_fn)(p), state, p, obj_fn=obj_fn)
        return optax.apply_updates(p, updates), state

    state = tx.init(p)
    for _ in range(steps):
        p, state = step(p, state)
    return p


def test_equals_the_equations_in_float64():
    b1, b2, gamma, lam, k = 0.9, 0.7, 0.5, 0.1, 3
    with jax.enable_x64(True):
        rate = optax.cosine_decay_schedule(0.2, 25)
        ours = trained(sophia_h(rate, b1, b2, 1e-12, lam, gamma=gamma, update_interval=k), START, 25)
        clipped, inside = 0, 0
        for name, x in START.items():
            m = h = 0 * x
            for t in range(25):
                m = b1 * m + (1 - b1) * (x**3 - x)
                if t % k == 0:
                    h = b2 * h + (1 - b2) * (3 * x**2 - 1)
                d = np.clip(m / np.maximum(gamma * h, 1e-12), -1, 1)
                clipped, inside = clipped + np.sum(abs(d) == 1), inside + np.sum(abs(d) < 1)
                x = x - float(rate(t)) * (d + lam * x)
            np.testing.assert_allclose(ours[name], x, rtol=0, atol=1e-12)
        assert clipped > 20 and inside > 20


@pytest.mark.quick(1)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_reproduces_optax_with_its_settings(dtype, tolerance):
    start = jax.tree.map(lambda x: x.astype(dtype), START)
    with jax.enable_x64(True):
        rate = optax.linear_schedule(0.02, 0.0, 25)
        ours = sophia_h(rate, 0.965, 0.99, 1e-8, 1e-4, debias=True, refresh="after_step")
        theirs = optax.contrib.sophia(rate)
        ours, theirs, paper = (trained(tx, start, 25) for tx in (ours, theirs, sophia_h(rate)))
        chex.assert_trees_all_close(ours, theirs, rtol=0, atol=tolerance)
        assert abs(paper["w"] - theirs["w"]).max() > 0.01


def test_first_step_uses_the_first_curvature_where_that_of_optax_is_a_sign_step():
    params = jnp.array([3.0])

    def first(tx):
        g = jnp.array([1.0])
        return tx.update(g, tx.init(params), params, obj_fn=lambda p: 50 * jnp.sum(p**2))[0]

    ours = first(sophia_h(1.0, 0.0, 0.0, weight_decay=0.0, gamma=0.1))
    np.testing.assert_allclose(ours, [-0.1], rtol=1e-6)  # 1 / (0.1 × 100)
    np.testing.assert_array_equal(
        first(optax.contrib.sophia(1.0, 0.0, 0.0, weight_decay=0.0, gamma=0.1)), [-1.0]
    )


def test_runs_in_the_training_loop_which_offers_value_fn():
    task = tiny.task()
    tx = sophia_h(0.01)
    state = train_state.initial_state(task, tx, seed=0)
    batch = task.batches(0)
    update = compile_step(StepSpec.of(task, tx, state, batch)).executable
    params = jax.tree.map(jnp.copy, state.params)  # the step consumes its state
    state, _ = update(state, batch)
    sophia = state.opt_state[0]
    assert int(sophia.hessian_fn_state.estimates) == 1 and int(sophia.without_curvature) == 0
    chex.assert_trees_all_equal_dtypes(state.params, params)  # float32 and bfloat16
    chex.assert_tree_all_finite(state.params)
    assert np.any(state.params["w1"] != params["w1"])


def test_scan_equals_the_loop_and_microbatches_are_traced_once():
    traces = []

    def obj_fn(p, i):
        traces.append(i)
        return (i + 1) * loss(p)

    tx = sophia_h(optax.linear_schedule(0.1, 0.0, 50), update_interval=5, microbatches=3, key=jax.random.key(1))
    start = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), START)

    def train(p, state):
        updates, state = tx.update(jax.grad(loss)(p), state, p, obj_fn=obj_fn)
        return optax.apply_updates(p, updates), state

    carry = looped = (start, tx.init(start))
    step = jax.jit(train)
    for _ in range(50):
        looped = step(*looped)
    assert len(traces) <= 2  # once for the shapes, once for the loop
    scanned, _ = jax.lax.scan(lambda carry, _: (train(*carry), None), carry, length=50)
    chex.assert_trees_all_close(looped, scanned, rtol=1e-5, atol=2e-6)
    assert int(scanned[1][0].hessian_fn_state.estimates) == 10


def test_under_masks_the_function_sees_the_masked_tree():
    params = {"a": jnp.array([2.0]), "b": jnp.array([3.0])}
    tx = optax.masked(sophia_h(0.1, weight_decay=0.0), {"a": True, "b": False})
    updates, _ = tx.update(params, tx.init(params), params, obj_fn=lambda p: jnp.sum(p["a"] ** 2))
    np.testing.assert_array_equal(updates["b"], params["b"])
    assert updates["a"][0] < 0


def test_what_it_needs_is_named():
    tx = sophia_h(0.1)
    params = jnp.ones(2)
    with pytest.raises(ValueError, match="hutchinson needs obj_fn, the loss as a function of the parameters"):
        tx.update(params, tx.init(params), params, value=1.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"refresh": "later"}, "refresh must be one of"),
        ({"eps": -1.0}, r"eps must be in \[0, inf\)"),
        ({"microbatches": 0}, "microbatches must be in"),
        ({"decay_coupling": "none"}, "decay_coupling must be one of"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sophia_h(0.1, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
def _step(optimizer, case, rate, curvature):
    for group in optimizer.param_groups:
        group["lr"] = rate / case.settings["p"]
    optimizer.step(hessian=curvature)


SOURCES = {
    "sophia_h": parity.Case(
        title="Sophia-H (Hutchinson)",
        code="pytorch_optimizer.SophiaH",
        home="pytorch-optimizer",
        settings={"betas": [0.96, 0.99], "p": 2.0, "eps": 1e-12, "weight_decay": 0.2},
        step=_step,
        note="The diagonal is given. The source clips at p without γ: γ is p, its rate η / γ, its decay γ λ.",
        ours=lambda rate, s: sophia_h(
            rate, *s["betas"], s["eps"] * s["p"], s["weight_decay"] / s["p"], gamma=s["p"]
        ),
    )
}
