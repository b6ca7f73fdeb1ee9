"""Train with line searches on a global batch that devices share: a program, for test_line_search_devices.py.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.contract.line_search_devices
python -m tests.contract.line_search_devices ADDRESS INDEX

Prints one line of JSON: by layout and optimizer, how the run differs from the one on one device, and how many
programs its step took; and, alone, what wiring that is not reduced is told. With an address it is one of two
processes that share the batch.

All of it in float64, so that the order in which devices sum decides nothing.
"""

import json
import sys
from functools import partial

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz.optimizers.adam_sls import adam_sls
from optimiz.optimizers.pla_sls import pla_sls
from optimiz.optimizers.salsa import salsa
from tests.golden import problem_p

STEPS = 20
OPTIMIZERS = {
    "adam_sls": adam_sls(0.3, init_step=0.4),
    "pla_sls": pla_sls(problem_p.three_units, 0.3, init_step=0.4),
    "salsa": salsa(init_step=1e-3, every=3, first=3),
}


def fresh(tx):
    params = jax.tree.map(jax.numpy.asarray, problem_p.PARAMS)
    return params, tx.init(params)


def step(run, x, y, tx, loss=problem_p.loss, reduced=lambda grad: grad):
    """The next parameters and state, and the loss before."""
    params, state = run

    def value_fn(params):
        return loss(params, x, y)

    value, grad = jax.value_and_grad(value_fn)(params)
    grad = reduced(grad)
    updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
    return (optax.apply_updates(params, updates), state), value


def train(run, step, place=lambda batch: batch, read=lambda leaf: leaf):
    """Parameters at the end, losses and trials by step, and how many programs it took."""
    losses, trials = [], []
    for i in range(STEPS):
        run, loss = step(run, place(problem_p.X[i % 4]), place(problem_p.Y[i % 4]))
        losses.append(float(read(loss)))
        trials.append(int(read(run[1][-1].evaluations)))
    programs = step._cache_size() if hasattr(step, "_cache_size") else None  # pmap does not tell
    return jax.tree.map(lambda leaf: np.asarray(read(leaf)), run[0]), np.array(losses), trials, programs


def on_one_device(tx):
    return train(fresh(tx), jax.jit(partial(step, tx=tx)))


def shardings():
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))


def with_sharded_batch(tx):
    replicated, split = shardings()
    compiled = jax.jit(partial(step, tx=tx), out_shardings=replicated)
    return train(jax.device_put(fresh(tx), replicated), compiled, lambda batch: jax.device_put(batch, split))


def mean_loss(params, x, y):
    return jax.lax.pmean(problem_p.loss(params, x, y), "data")


mean = partial(jax.lax.pmean, axis_name="data")


def mapped(function, check_vma):
    specs = {"in_specs": (P(), P("data"), P("data")), "out_specs": P()}
    return jax.jit(jax.shard_map(function, mesh=shardings()[0].mesh, check_vma=check_vma, **specs))


def with_shard_map_that_checks(tx):
    compiled = mapped(partial(step, tx=tx, loss=mean_loss), check_vma=True)
    return train(jax.device_put(fresh(tx), shardings()[0]), compiled)


def with_shard_map_that_does_not_check(tx):
    compiled = mapped(partial(step, tx=tx, loss=mean_loss, reduced=mean), check_vma=False)
    return train(jax.device_put(fresh(tx), shardings()[0]), compiled)


def with_pmap(tx):
    devices = jax.device_count()
    run = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (devices, *leaf.shape)), fresh(tx))
    compiled = jax.pmap(partial(step, tx=tx, loss=mean_loss, reduced=mean), axis_name="data")
    return train(
        run, compiled, lambda batch: batch.reshape(devices, -1, *batch.shape[1:]), lambda leaf: leaf[0]
    )


def with_two_processes(tx):
    replicated, split = shardings()

    def share(batch):
        mine = batch.reshape(2, -1, *batch.shape[1:])[jax.process_index()]
        return jax.make_array_from_process_local_data(split, mine, batch.shape)

    compiled = jax.jit(partial(step, tx=tx), out_shardings=replicated)
    run = jax.device_put(fresh(tx), replicated)
    return train(run, compiled, share, lambda leaf: leaf.addressable_data(0))


def compare(layouts):
    """Layout → optimizer → what differs from the run on one device."""
    found = {layout.__name__: {} for layout in layouts}
    for name, tx in OPTIMIZERS.items():
        params, losses, trials, _ = on_one_device(tx)
        scale = max(np.abs(leaf).max() for leaf in params.values())
        for layout in layouts:
            its_params, its_losses, its_trials, programs = layout(tx)
            found[layout.__name__][name] = {
                "params": max(float(np.abs(its_params[k] - params[k]).max()) for k in params) / scale,
                "loss": float(np.abs(its_losses / losses - 1).max()),
                "trials": [its_trials, trials],
                "programs": programs,
            }
    return found


def refused():
    """What is said where ``shard_map`` checks and an argument of the search differs from device to device."""
    tx = OPTIMIZERS["adam_sls"]

    def told(value_loss, grad_of, value_fn_loss):
        def update(params, x, y):
            value, grad = value_loss(params, x, y), grad_of(params, x, y)
            value_fn = partial(value_fn_loss, x=x, y=y)
            return tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=value_fn)[0]

        try:
            jax.eval_shape(mapped(update, check_vma=True), problem_p.PARAMS, problem_p.X[0], problem_p.Y[0])
        except ValueError as error:
            return str(error)

    def local_grad(params, x, y):
        return jax.grad(problem_p.loss)(jax.lax.pcast(params, "data", to="varying"), x, y)

    mean_grad = jax.grad(mean_loss)
    return {
        "nothing": told(mean_loss, mean_grad, mean_loss),
        "value": told(problem_p.loss, mean_grad, mean_loss),
        "grad": told(mean_loss, local_grad, mean_loss),
        "value_fn": told(mean_loss, mean_grad, problem_p.loss),
    }


LAYOUTS = (with_sharded_batch, with_shard_map_that_checks, with_shard_map_that_does_not_check, with_pmap)


def main():
    print(json.dumps({"differences": compare(LAYOUTS), "refused": refused()}))


def main_of_two(address, index):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    print(json.dumps(compare([with_two_processes])))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    if sys.argv[1:]:
        main_of_two(sys.argv[1], int(sys.argv[2]))
    else:
        main()
