"""Parameters may be held by any container that JAX knows: what reads them finds the same in each."""

from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx

import optimiz
from optimiz import diagnostics, groups
from tests.test_misplaced import Net


class Layer(NamedTuple):
    bias: Any
    kernel: Any


def loss(params):
    return sum((jnp.sum(x**2) for x in jax.tree.leaves(params)), start=jnp.float32(0))


PLAIN = {"bias": jnp.array([3.0, 4.0]), "kernel": jnp.ones((2, 2))}
TREES = {
    "dict": PLAIN,
    "FrozenDict": flax.core.freeze(PLAIN),
    "NamedTuple": Layer(**PLAIN),
    "dataclass": Net(**PLAIN),
    "nnx.State": nnx.State({name: nnx.Param(x) for name, x in PLAIN.items()}),
    "nnx.Module": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
    "Partitioned": {name: nn.Partitioned(x, (None,) * x.ndim) for name, x in PLAIN.items()},
    "list": list(PLAIN.values()),
}
TREES["nnx.Module"].bias[...], TREES["nnx.Module"].kernel[...] = PLAIN.values()
OPTIMIZERS = {
    "adamw": optimiz.adamw(0.1, weight_decay=0.1, mask=groups.rank(2)),
    "lamb": optimiz.lamb(0.1, trust_ratio_mask=groups.rank(2)),
    "adafactor": optimiz.adafactor(0.1),
    "sgd_sai": optimiz.guard(optimiz.sgd_sai(0.1, weight_decay_mask=groups.rank(2)), 2),
    "low_bit": optimiz.low_bit(optimiz.lion(0.1), optimiz.Int8(), min_size=1),
    "probe": optax.chain(diagnostics.probe(every=1), optimiz.sgd(0.1), optimiz.kahan()),
    "freeze": groups.freeze(optimiz.adamw(0.1), groups.rank(1)),
    "salsa": optimiz.salsa(weight_decay=0.1, weight_decay_mask=groups.rank(2)),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("params", TREES.values(), ids=TREES)
def test_what_reads_parameters_reads_every_container(params):
    mask = jax.tree.map(lambda p: p.ndim > 1, params)
    tables = [groups.describe(params, answers).partition("\n\n")[2] for answers in (groups.rank(2), mask)]
    assert tables == [groups.describe(PLAIN, groups.rank(2)).partition("\n\n")[2]] * 2
    assert optimiz.state_bytes(optimiz.adamw(0.1), params).total == 4 * (2 * 6 + 3)
    if not isinstance(params, list):
        assert diagnostics.block_names(params) == ("bias", "kernel")
    assert diagnostics.heterogeneity(params).norm.tolist() == [5.0, 2.0]
    assert diagnostics.block_curvature(loss, params, iterations=2).norm.tolist() == [10.0, 4.0]


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_container_is_updated_alike(name):
    tx = optax.with_extra_args_support(OPTIMIZERS[name])

    def updated(params):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, tx.init(params), params, value=value, grad=grads, value_fn=loss)
        return jax.tree.leaves(optax.apply_updates(params, updates)), optimiz.hyperparams(state)

    expected, read = updated(PLAIN)
    for params in TREES.values():
        leaves, readings = updated(params)
        assert [x.tolist() for x in leaves] == [x.tolist() for x in expected]
        assert readings == read
