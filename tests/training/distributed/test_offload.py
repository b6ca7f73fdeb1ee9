"""State in the host's memory changes no bit of a run, and is brought to the device parameter by parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import io_callback

import optimiz
from optimiz import numerics, training
from optimiz.training import divergence
from optimiz.training.distributed import sharding
from optimiz.training.distributed.offload import offloaded
from optimiz.training.distributed.sharding import HOST, Layout, make_mesh

pytestmark = pytest.mark.skipif(jax.__version_info__ < (0, 10, 2), reason="a CPU needs jax>=0.10.2")

WIDTH = 256  # a matrix of 256 KiB, and 64 KiB of its codes
PARAMS = {name: jnp.full((WIDTH, WIDTH), 0.1 * i) for i, name in enumerate("abcd")} | {"bias": jnp.ones(WIDTH)}

LABELS = dict.fromkeys(PARAMS, "x")


def layout(offload_state=True):
    return Layout(make_mesh("data:1", jax.devices()[:1]), offload_state=offload_state)


def kinds(tree):
    return [leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)]


def updated(tx, steps=3):
    """Parameters and state after some updates with an offloaded state, and with one on the device."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for is_offloaded in (True, False):
        params, state = PARAMS, tx.init(PARAMS)
        places = layout(is_offloaded).params(params), layout(is_offloaded).opt_state(state, params)
        params, state = jax.device_put((params, state), places)
        run = jax.jit(offloaded(step), donate_argnums=(0, 1), out_shardings=places)
        for i in range(steps):
            grads = jax.tree.map(lambda p: jnp.cos(p + i), PARAMS)  # noqa: B023
            params, state = run(jax.tree.map(jnp.copy, params), state, grads)
        yield params, state


def test_adam_from_the_hosts_memory_is_adam():
    (params, state), _ = updated(optax.adam(0.1))
    assert kinds(state[0].mu) == [HOST, HOST, "device", HOST, HOST]  # the third is the bias
    assert kinds((params, state[0].count)) == ["device"] * 6
    p, m, v = np.float64(0.1), 0.0, 0.0  # of "b", whose entries are all the same
    for i in range(3):
        g = np.cos(np.float64(0.1) + i)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p -= 0.1 * (m / (1 - 0.9 ** (i + 1))) / (np.sqrt(v / (1 - 0.999 ** (i + 1))) + 1e-8)
    np.testing.assert_allclose(params["b"], p, rtol=1e-4)
    np.testing.assert_allclose(state[0].nu["b"], v, rtol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "tx",
    [
        optimiz.guard(optimiz.adamw(0.1), 3),  # tests all of the update before it makes any of it
        optimiz.low_bit(optimiz.adamw(0.1), optimiz.Int8()),
        optimiz.accumulate(optimiz.adamw(0.1), 2),  # in a branch
        optimiz.lamb(0.1),
        optimiz.muon(0.1, adam_learning_rate=0.01),
        optax.multi_transform(
            {"x": optax.adam(0.1), "y": optax.sgd(0.1, 0.9)}, dict.fromkeys(PARAMS, "x") | {"c": "y"}
        ),
        optax.adam(lambda step: 0.1 / (1 + step)),
    ],
    ids=["guard", "low_bit", "accumulate", "lamb", "muon", "two", "schedule"],
)
def test_no_bit_changes_with_any_optimizer(tx):
    ours, plain = updated(tx)
    assert HOST in kinds(ours) and HOST not in kinds(plain)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def test_a_state_is_fetched_when_that_of_the_parameter_before_the_last_is_back():
    tx, state = optax.adam(0.1), optax.adam(0.1).init(PARAMS)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.device_put(state, layout().opt_state(state, PARAMS))
    steps = jax.jit(offloaded(step)).trace(PARAMS, state, PARAMS).jaxpr.jaxpr.eqns
    moves = [each for each in steps if each.primitive.name == "device_put"]
    back = {each.outvars[0] for each in moves if "host" in str(each.outvars[0].aval)}
    assert len(moves) == 16 and len(back) == 8  # four matrices, each with mu and nu
    waiting = [each for each in steps if each.primitive.name == "optimization_barrier"]
    assert len(waiting) == 4  # the state of the first two waits for nothing
    assert all(len(each.invars) == 3 and set(each.invars[1:]) <= back for each in waiting)


def test_what_has_effects_happens_although_no_result_depends_on_it():
    said = []

    def step(state, grads):
        _, state = optax.adam(0.1).update(grads, state)
        io_callback(lambda x: said.append(float(x)), None, state[0].mu["d"][0, 0])
        return state

    state = optax.adam(0.1).init(PARAMS)
    places = layout().opt_state(state, PARAMS)
    jax.jit(offloaded(step), out_shardings=places)(jax.device_put(state, places), PARAMS)
    jax.effects_barrier()
    assert said == pytest.approx([0.03])


AVERAGED = optimiz.average(optimiz.adamw(0.01), decay=0.9)  # what is evaluated is part of its state
DATA = np.random.default_rng(0).normal(size=(32, WIDTH)).astype(np.float32)
BATCHES = training.shuffled({"x": DATA, "y": np.tanh(DATA[:, 0])}, 8, 0)


def init(key):
    return {"w": jax.random.normal(key, (WIDTH, WIDTH)) / 16, "v": jnp.ones(WIDTH) / WIDTH}


def loss(params, batch, key):
    return (jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2


def fit(directory, offload_state=True, stop=None, resume=False):
    def batches(step):
        if step == stop:
            raise KeyError(step)
        return BATCHES(step)

    training.fit(
        training.Task(init, loss, batches, evaluate=lambda params: {"norm": optax.tree.norm(params)}),
        AVERAGED,
        training.Settings(steps=6, save_every=2, evaluate_every=3),
        directory,
        identity={},
        layout=layout(offload_state),
        resume=resume,
    )
    return (directory / "metrics.jsonl").read_text()


@pytest.mark.quick(1)
@pytest.mark.parametrize(("was", "now"), [(True, True), (False, True), (True, False)])
def test_a_run_is_the_same_with_its_state_on_the_host_and_goes_on_to_the_bit(tmp_path, caplog, was, now):
    with pytest.raises(KeyError):
        fit(tmp_path / "resumed", was, stop=5)
    caplog.clear()
    assert fit(tmp_path / "resumed", now, resume=True) == fit(tmp_path / "plain", offload_state=False)
    assert ("offload_state was" in caplog.text) == (was != now)


def test_a_state_on_the_host_is_tested_for_what_is_not_finite():
    state = optax.trace(0.9).init(PARAMS)._replace(trace=PARAMS | {"c": PARAMS["c"].at[3, 4].set(jnp.nan)})
    state = jax.device_put(state, layout().opt_state(state, PARAMS))
    assert divergence.not_finite(PARAMS, state) == "opt_state.trace['c']"
    assert set(kinds(jax.jit(numerics.on_device)(state))) == {"device"}


def test_zero_and_the_host_go_together():
    mesh = jax.sharding.AbstractMesh((4,), ("data",))
    places = Layout(mesh, shard_state=True, offload_state=True).opt_state(optax.adam(0.1).init(PARAMS), PARAMS)
    matrix, bias = places[0].mu["a"], places[0].mu["bias"]
    assert matrix.shard_shape((WIDTH, WIDTH)) == (WIDTH // 4, WIDTH) and matrix.memory_kind == HOST
    assert bias.memory_kind != HOST


def test_a_device_without_a_hosts_memory_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(sharding, "HOST", "attic")
    with pytest.raises(ValueError, match=r"offload_state needs .* memory 'attic', .* has device, pinned_host"):
        layout()
    monkeypatch.undo()
    monkeypatch.setattr(jax, "__version_info__", (0, 9, 2))
    with pytest.raises(ValueError, match=r"offload_state needs jax>=0.10.2 on a CPU, got"):
        layout()
