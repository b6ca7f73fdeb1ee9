"""Train with every optimizer in two processes that share the batch: a program, for test_processes.py.

python -m tests.contract.processes ADDRESS INDEX

Prints one line of JSON: the largest difference of a parameter from the run on one device alone, by optimizer,
and the digests of this process's copy of parameters and states.
"""

import json
import sys

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P


def main(address, index):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    # After it: these pages make arrays, and JAX joins no other process once it has made one.
    from tests.contract import devices, persistence

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    replicated, split = (jax.NamedSharding(mesh, spec) for spec in (P(), P("data")))

    def share(batch):
        mine = batch.reshape(2, -1, batch.shape[-1])[index]
        return jax.make_array_from_process_local_data(split, mine, batch.shape)

    run = jax.device_put(devices.fresh(), replicated)
    run = devices.train(run, jax.jit(devices.step, out_shardings=replicated), share)
    mine = jax.tree.map(lambda leaf: leaf.addressable_data(0), run)
    differences = devices.differences(mine, devices.on_one_device())
    print(json.dumps({"differences": differences, "digests": persistence.digests(mine)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
