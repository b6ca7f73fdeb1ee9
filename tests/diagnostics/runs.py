"""Real training runs of a small network, healthy and not, as the rows that a trainer writes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz
from optimiz import diagnostics, schedules

FEATURES, HIDDEN, CLASSES = 8, 32, 4
STEPS = 300


@functools.cache
def data(examples, noise=0.0, seed=0):
    """Points, and the class that a random network gives them; some labels are random instead."""
    rng = np.random.default_rng(seed)
    teacher = np.random.default_rng(7).normal(size=(FEATURES, CLASSES))
    x = rng.normal(size=(examples, FEATURES)).astype(np.float32)
    y = np.argmax(np.tanh(x) @ teacher, axis=1)
    return x, np.where(rng.random(examples) < noise, rng.integers(0, CLASSES, examples), y)


def init(hidden=HIDDEN, scale=1.0):
    first, second, third = jax.random.split(jax.random.key(0), 3)

    def dense(key, inputs, outputs):
        kernel = scale * jax.random.normal(key, (inputs, outputs)) / inputs**0.5
        return {"bias": jnp.zeros(outputs), "kernel": kernel}

    return {
        "head": dense(third, hidden, CLASSES),
        "layers_0": dense(first, FEATURES, hidden),
        "layers_1": dense(second, hidden, hidden),
    }


def cross_entropy(params, x, y, activation=jnp.tanh):
    for name in ("layers_0", "layers_1"):
        x = activation(x @ params[name]["kernel"] + params[name]["bias"])
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def relu(params, x, y):
    return cross_entropy(params, x, y, jax.nn.relu)


def squares(params, x, y):
    """Squared error of the logits."""
    for name in ("layers_0", "layers_1"):
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return jnp.mean((x @ params["head"]["kernel"] + params["head"]["bias"] - jax.nn.one_hot(y, CLASSES)) ** 2)


def schedule(peak, warm_up=0.1, steps=STEPS):
    shape = schedules.cosine(peak)
    return schedules.over_steps(schedules.warm_up(shape, warm_up) if warm_up else shape, steps)


HEALTHY = {
    "adamw, warm-up and cosine": optimiz.adamw(schedule(1e-2)),
    "adamw, constant": optimiz.adamw(3e-3),
    "momentum": optimiz.sgd(0.1, 0.9),
    "lion": optimiz.lion(schedule(1e-3)),
    "signum": optimiz.signum(schedule(1e-3)),
}


@functools.cache
def compiled(tx, loss, evaluate_every, probe_every):
    tx = optax.chain(diagnostics.probe(every=probe_every), tx)

    @jax.jit
    def run(params, data, held_out, batches):
        def step(carry, now):
            i, indices = now
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, *(array[indices] for array in data))
            updates, state = tx.update(grads, state, params)
            evaluation = jax.lax.cond(i % evaluate_every == 0, lambda: loss(params, *held_out), lambda: 0.0)
            outputs = value, optax.tree.norm(grads), evaluation, state[0]
            return (optax.apply_updates(params, updates), state), outputs

        return jax.lax.scan(step, (params, tx.init(params)), (jnp.arange(len(batches)), batches))[1]

    return run


def train(
    tx,
    steps=STEPS,
    *,
    params=None,
    examples=512,
    batch=64,
    noise=0.0,
    loss: Callable = cross_entropy,
    schedule=None,
    max_norm=None,
    evaluate_every=50,
    probe_every=20,
):
    """Train, and return the rows of the run."""
    params = init() if params is None else params
    x, y = data(examples, noise)
    held_out = data(1024, noise, seed=1)
    order = np.random.default_rng(3)
    chosen = np.stack([order.permutation(examples)[:batch] for _ in range(steps)])
    run = compiled(tx, loss, evaluate_every, probe_every)
    losses, norms, evaluations, probes = jax.device_get(run(params, (x, y), held_out, chosen))
    names = diagnostics.block_names(params)
    rows = []
    for i in range(steps):
        if i and i % evaluate_every == 0:
            rows.append({"steps": i, "evaluation": {"loss": float(evaluations[i])}})
        row = {"step": i, "loss": float(losses[i]), "gradient_norm": float(norms[i])}
        if schedule is not None:
            row["learning_rate"] = float(schedule(i))
        if max_norm is not None:
            row["clipped_share"] = float(norms[i] > max_norm)
        if i % probe_every == 0:
            state = jax.tree.map(lambda leaf, i=i: leaf[i], probes)
            row["block_norms"] = diagnostics.readings(state, names)["block_norms"]
        rows.append(row)
    return rows


def names(rows):
    return [finding.name for finding in diagnostics.health(rows)]


def only(rows):
    (finding,) = diagnostics.health(rows)
    return finding
