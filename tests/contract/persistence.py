"""Train with every optimizer, save, restore and go on: a program, for test_persistence.py.

python -m tests.contract.persistence save FOLDER      half of a run, on all devices there are
python -m tests.contract.persistence resume FOLDER    the other half, from what was saved in each format

Prints one line of JSON, see save() and resume(). XLA_FLAGS=--xla_force_host_platform_device_count=8 sets the
number of devices.
"""

import functools
import hashlib
import json
import sys
from pathlib import Path

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.contract import devices

HALF = range(3)
REST = range(3, 6)


def write_orbax(folder, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "orbax", tree)


def read_orbax(folder, like):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder / "orbax", like)


def write_msgpack(folder, tree):
    (folder / "tree.msgpack").write_bytes(flax.serialization.to_bytes(tree))


def read_msgpack(folder, like):
    restored = flax.serialization.from_bytes(like, (folder / "tree.msgpack").read_bytes())
    return jax.tree.map(lambda array, like: jax.device_put(array, like.sharding), restored, like)


FORMATS = {"orbax": (write_orbax, read_orbax), "msgpack": (write_msgpack, read_msgpack)}


def digests(tree):
    """The path of every array, and the SHA-256 of its dtype, shape and bytes."""

    def digest(leaf):
        array = np.asarray(leaf)
        return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()

    return {
        jax.tree_util.keystr(path): digest(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@functools.cache
def compiled(mesh, methods):
    del methods  # which are trained decides what is laid out
    return jax.jit(devices.step, out_shardings=devices.spread(mesh))


def train(run, steps, mesh):
    split = NamedSharding(mesh, P("data"))
    return devices.train(
        run, compiled(mesh, tuple(devices.optimizers())), lambda a: jax.device_put(a, split), steps
    )


def fresh(mesh):
    return jax.device_put(devices.fresh(), devices.spread(mesh))


def save(folder, mesh):
    """Save half a run in each format, and go on.

    What was saved and what it became as digests, and how many arrays were split over devices.
    """
    half = train(fresh(mesh), HALF, mesh)
    for write, _ in FORMATS.values():
        write(folder, half)
    split = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(half))
    return {"saved": digests(half), "finished": digests(train(half, REST, mesh)), "split": split}


def resume(folder, mesh):
    """Finish a saved run from each format.

    What was restored and what it became as digests, whether every array lies where this mesh wants it, and the
    largest differences of the parameters from a run on this mesh that was never saved.
    """
    straight = train(train(fresh(mesh), HALF, mesh), REST, mesh)
    report = {}
    for name, (_, read) in FORMATS.items():
        restored = read(folder, fresh(mesh))
        finished = train(restored, REST, mesh)
        report[name] = {
            "restored": digests(restored),
            "finished": digests(finished),
            "placed": jax.tree.map(lambda leaf: leaf.sharding, restored) == devices.spread(mesh),
            "differences": devices.differences(finished, straight),
        }
    return report


if __name__ == "__main__":
    part = {"save": save, "resume": resume}[sys.argv[1]]
    print(json.dumps(part(Path(sys.argv[2]), Mesh(np.array(jax.devices()), ("data",)))))
