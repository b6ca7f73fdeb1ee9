"""One of several processes that share a small run in which something goes wrong; for test_processes.py.

python -m tests.training.shared DIRECTORY ADDRESS PROCESSES INDEX [--seed S] [--part STEP] …
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from optimiz import training


def parting(step, index, mesh):
    """Sets one copy of the parameters apart from the others by as little as can be, in one update."""

    def update(updates, state, params=None):
        def on_device(u):
            odd = (state == step) & (jax.lax.axis_index("data") == index)
            return jnp.where(odd, jnp.nextafter(u, jnp.full_like(u, jnp.inf)), u)

        apart = jax.shard_map(on_device, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
        return updates | {"w1": apart(updates["w1"])}, state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("address")
    parser.add_argument("processes", type=int)
    parser.add_argument("index", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds-per-step", type=float, default=0)
    parser.add_argument("--part", type=int)
    parser.add_argument("--in-order", action="store_true")
    args = parser.parse_args()
    try:
        training.join(args.address, args.processes, args.index)
        from tests.training import tiny  # after it: this page makes arrays
        from tests.training.in_order import InOrder

        layout = training.Layout(training.make_mesh(f"data:{args.processes}"), shard_state=True)
        plain = tiny.task(share=layout.share)

        def batches(step):
            print("step", step, flush=True)
            time.sleep(args.seconds_per_step)
            return plain.batches(step)

        tx = tiny.optimizer()
        if args.part is not None:
            tx = optax.chain(tx, parting(args.part, 1, layout.mesh))
        training.fit(
            tiny.task(batches=training.Streamed(InOrder(batches)) if args.in_order else batches),
            tx,
            tiny.settings(
                steps=args.steps, seed=args.seed, log_every=2, save_every=7, compare_replicas_every=4
            ),
            args.directory,
            identity=tiny.IDENTITY,
            layout=layout,
            resume=True,
        )
    except training.RunError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
