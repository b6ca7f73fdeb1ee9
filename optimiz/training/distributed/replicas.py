"""Compare the copies of each parameter, bit by bit, between the devices that hold them.

Nothing in a data-parallel run ensures that they agree: with a faulty device, or a process with other data or
other random numbers, the copies diverge silently. Here each device computes a digest of what it holds, exactly,
in integers, and the digests are compared. A single changed entry always changes the digest.
"""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz.training.errors import RunError


def refuse_differing(params: Any, step: int) -> None:
    """Compare the copies of every parameter.

    Args:
        params: arrays on one mesh, with ``NamedSharding``.
        step: number of updates made, for the message.

    Raises:
        RunError: copies differ; it is raised on every process and names the step, the parameter, the device and
            its process.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    mesh = leaves[0][1].sharding.mesh
    specs = tuple(leaf.sharding.spec for _, leaf in leaves)
    digests = np.asarray(_digests(mesh, specs)(*[leaf for _, leaf in leaves]))
    for (path, leaf), column in zip(leaves, digests.T, strict=True):
        held = leaf.sharding.devices_indices_map(leaf.shape)
        copies = collections.defaultdict(list)  # by the part of the parameter that they hold
        for device, digest in zip(mesh.devices.flat, column.tolist(), strict=True):
            copies[str(held[device])].append((device, digest))
        for of_part in copies.values():
            usual, _ = collections.Counter(digest for _, digest in of_part).most_common(1)[0]
            odd = [device for device, digest in of_part if digest != usual]
            if odd:
                raise RunError(
                    f"after {step} updates params{jax.tree_util.keystr(path)} on device {odd[0].id} of process "
                    f"{odd[0].process_index} differs from the copy of {len(of_part) - len(odd)} other devices"
                )


@functools.lru_cache(maxsize=1)
def _digests(mesh: jax.sharding.Mesh, specs: tuple[P, ...]) -> Any:
    """A function from the parameters to the digests of what each device holds, [devices, parameters]."""

    def on_device(*shards: jax.Array) -> jax.Array:
        return jnp.stack([_digest(shard) for shard in shards])[None]

    by_device = jax.shard_map(
        on_device, mesh=mesh, in_specs=specs, out_specs=P(mesh.axis_names), check_vma=False
    )
    return jax.jit(by_device, out_shardings=NamedSharding(mesh, P()))


def _digest(x: jax.Array) -> jax.Array:
    width = min(x.dtype.itemsize, 4)
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * width}")).reshape(-1).astype(jnp.uint32)
    # Odd factors lose no bit, and a different one for each entry makes a swap of two entries visible.
    factors = 2 * jax.lax.iota(jnp.uint32, words.size) + 1
    return jnp.sum(words * factors, dtype=jnp.uint32)
