"""Promises about several devices; a CPU has 8 with XLA_FLAGS=--xla_force_host_platform_device_count=8."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import Subject
from optimiz.testing.trees import gradients, trained


def _one_device(subject: Subject) -> str | None:
    return "there is one device" if jax.device_count() == 1 else None


def _params() -> dict[str, jax.Array]:
    n = jax.device_count()
    return {
        "kernel": jnp.linspace(-1, 1, 4 * n).reshape(4, n),
        "bias": jnp.linspace(-1, 1, n),
        "scale": jnp.ones(()),
    }


@promise("parameters and state spread over devices give the updates of one", applies_to=_one_device)
def sharded_equals_one_device(subject: Subject) -> None:
    """A model that is too large for one device is spread over several, together with the state."""
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def spread(leaf):
        last = leaf.ndim and leaf.shape[-1] == mesh.size
        spec = P(*[None] * (leaf.ndim - 1), "data") if last else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    alone, _ = trained(subject.tx, subject.update, _params(), 3 * subject.period)
    start = jax.tree.map(spread, _params())
    state = jax.tree.map(spread, subject.tx.init(start))
    p = start
    for i in range(3 * subject.period):
        updates, state = subject.update(gradients(i, p), state, p)
        p = jax.tree.map(jnp.add, p, updates)
    with expect.at(step=3 * subject.period):
        expect.close(p, alone, "parameters", rtol=1e-5, atol=1e-6)


@promise("replicas under pmap agree with each other and with one device", applies_to=_one_device)
def pmap_equals_one_device(subject: Subject) -> None:
    """Data parallelism keeps a copy on each device, and the copies must not drift apart."""
    n = jax.device_count()
    alone, _ = trained(subject.tx, subject.update, _params(), 3 * subject.period)
    replicate = lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), tree)  # noqa: E731
    p, state = replicate(_params()), replicate(subject.tx.init(_params()))
    update = jax.pmap(subject.tx.update)
    for i in range(3 * subject.period):
        updates, state = update(replicate(gradients(i, _params())), state, p)
        p = jax.tree.map(jnp.add, p, updates)
    with expect.at(step=3 * subject.period):
        first = jax.tree.map(lambda x: x[0], p)
        expect.equal(p, replicate(first), "parameters of the replicas")
        expect.close(first, alone, "parameters", rtol=1e-5, atol=1e-6)
