"""Our side of the comparison with PyTorch: the tree, its tensors, and training on the golden gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz.torch_state import Tensor
from tests.golden import torch_state as golden

TENSORS = {
    "dense.weight": Tensor("dense/kernel", axes=(1, 0)),
    "dense.bias": "dense/bias",
    "qkv.weight": Tensor("query/kernel", "value/kernel", axes=(1, 0)),
    "scale": "scale",
    "stack": Tensor("stack", axes=(2, 0, 1)),
}
WHOLE = TENSORS | {"qkv.weight": Tensor("qkv/kernel", axes=(1, 0)), "stack": "stack"}


def tensors_of(case):
    return WHOLE if case.code == "Adafactor" else TENSORS


def nested(flat):
    """A tree of dictionaries from leaves by path."""
    tree = {}
    for path, x in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = x
    return tree


def ours(case, arrays):
    """Our tree, from PyTorch's arrays by name."""
    return nested({path: jnp.asarray(take(arrays)) for path, take in case.paths.items()})


def rates(case):
    """What is given for ``learning_rate``, and the number of updates that go with it."""
    if not case.decays:
        return {}

    def learning_rate(peak):
        return lambda count: peak / (1 + jnp.asarray(count, jnp.result_type(float)) / 10)

    given = {"learning_rate": learning_rate}
    return given | ({"updates": golden.FIRST} if case.code == "SGD" else {})


def train(case, tx, state, params, first, steps):
    """Parameters and state after steps on the golden gradients from the first on."""
    flat = {path: take(golden.gradients(case.dtype)) for path, take in case.paths.items()}
    gradients = nested({path: jnp.asarray(x[first : first + steps]) for path, x in flat.items()})

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g))((params, state), gradients)
    return params, state


def deviation(ours, theirs):
    """Largest difference, relative to the largest entry of the leaf."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


def deviation_of_states(ours, theirs):
    """The same, of two ``state_dict``\\ s, whose keys are equal."""
    assert ours["state"].keys() == theirs["state"].keys()
    for key, entry in theirs["state"].items():
        assert ours["state"][key].keys() == entry.keys()
    pairs = [
        (ours["state"][key][name], x) for key, entry in theirs["state"].items() for name, x in entry.items()
    ]
    assert all(np.shape(a) == np.shape(b) for a, b in pairs)
    return max([float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs], default=0.0)
