"""Runs with and without steps that are not finite; as a program, with such a step on one of eight replicas.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.training.bad_steps DIRECTORY

Prints one line of JSON: whether a run with a bad step on one device equals the run without that step, on a mesh
and under pmap.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import optimiz
from optimiz import training
from tests.training import layouts

COUNTERS = (".step", "skipped", "skipped_in_a_row", "notfinite_count", "last_finite", "total_notfinite")
BAD, STEPS = 5, 9


@functools.cache
def task():
    """One for all, so that its step is compiled once; without dropout, whose masks go by the step."""
    return dataclasses.replace(layouts.task(), evaluate=None)


def spoilt(plain, steps, rows=slice(None)):
    """The task, with NaN in the batches of some steps; in some of their rows."""

    def batches(step):
        batch = dict(plain.batches(step))
        if step in steps:
            batch["x"] = batch["x"].copy()
            batch["x"][rows] = np.nan
        return batch

    return dataclasses.replace(plain, batches=batches)


def leaving_out(plain, steps):
    """The task, without the batches of some steps."""
    kept = [step for step in range(100) if step not in steps]
    return dataclasses.replace(plain, batches=lambda step: plain.batches(kept[step]))


def run(of, tx, directory, **settings):
    return training.fit(of, tx, training.Settings(**settings), directory, identity={})


def final_arrays(directory):
    """The last checkpoint's arrays as bytes, without what counts bad steps and steps."""
    newest = max(path for path in (Path(directory) / "checkpoints").iterdir() if path.name.isdecimal())
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(newest / "arrays")
    found = {name: np.asarray(array) for name, array in arrays.items()}
    assert all(np.isfinite(array).all() for array in found.values())
    return {
        name: (str(array.dtype), array.shape, array.tobytes())
        for name, array in found.items()
        if not name.endswith(COUNTERS)
    }


TX = optimiz.guard(optimiz.adamw(0.01), 2)


def on_a_mesh(directory):
    """The rows of one device of eight are bad."""
    layout = training.Layout(training.make_mesh("data:8"), shard_state=True)
    settings = training.Settings(steps=STEPS)
    fit = functools.partial(training.fit, identity={}, layout=layout)
    bad = fit(spoilt(task(), (BAD,), slice(6, 8)), TX, settings, directory / "bad")
    without = leaving_out(task(), (BAD,))
    fit(without, TX, dataclasses.replace(settings, steps=STEPS - 1), directory / "without")
    same = final_arrays(directory / "bad") == final_arrays(directory / "without")
    return {"as without": same, "skipped": bad.history[-1]["skipped"]}


def under_pmap():
    """The same, with a replica for each device."""
    plain = task()

    @functools.partial(jax.pmap, axis_name="data")
    def step(params, opt_state, batch):
        grads = jax.grad(lambda params: jnp.mean(plain.loss(params, batch, None)))(params)
        updates, opt_state = TX.update(jax.lax.pmean(grads, "data"), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def trained(of, steps):
        params = plain.init(jax.random.key(0))
        params, opt_state = jax.tree.map(lambda x: jnp.stack([x] * 8), (params, TX.init(params)))
        for index in range(steps):
            batch = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), dict(of.batches(index)))
            params, opt_state = step(params, opt_state, batch)
        return jax.device_get((params, opt_state))

    params, state = trained(spoilt(plain, (BAD,), slice(6, 8)), STEPS)
    wanted, wanted_state = trained(leaving_out(plain, (BAD,)), STEPS - 1)
    got, want = (jax.tree.leaves(tree) for tree in ((params, state[2]), (wanted, wanted_state[2])))
    return {
        "as without": all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True)),
        "replicas agree": all((leaf == leaf[0]).all() for leaf in got),
        "skipped": state.skipped.tolist(),
    }


if __name__ == "__main__":
    print(json.dumps({"mesh": on_a_mesh(Path(sys.argv[1])), "pmap": under_pmap()}))
