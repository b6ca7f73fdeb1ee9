"""A task in another precision has parameters, frozen arrays and losses in the dtypes that it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.shared.precisions import PRECISIONS, in_precision
from optimiz import adamw, training

DTYPES = {
    "float32": ("float32", "float32"),
    "mixed": ("float32", "bfloat16"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16_kahan": ("bfloat16", "bfloat16"),
}


def task():
    """The loss sees what it is given, and says so in its dtype."""
    init = lambda key: {"kernel": jnp.full((2, 3), 1 + 2**-12), "norm": {"scale": jnp.ones(3)}}  # noqa: E731

    def loss(params, batch, key, frozen):
        assert params["norm"]["scale"].dtype == (params["kernel"].dtype if seen[0] else jnp.float32)
        return (batch["x"].astype(params["kernel"].dtype) @ params["kernel"]).sum(-1) + frozen["kernel"].sum()

    seen = [False]
    return training.Task(
        init,
        loss,
        lambda step: {"x": np.ones((4, 2), np.float32)},
        frozen=lambda key: {"kernel": jnp.ones((2, 2)), "codes": jnp.ones((2, 2), jnp.int8)},
    ), seen


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_loss_sees_matrices_in_the_dtype_of_computation(name):
    params_dtype, compute = DTYPES[name]
    plain, seen = task()
    seen[0] = DTYPES[name][0] == "bfloat16"
    made = PRECISIONS[name].task(plain)
    params, frozen = made.init(jax.random.key(0)), made.frozen(jax.random.key(0))
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {params_dtype}
    assert (frozen["kernel"].dtype.name, frozen["codes"].dtype.name) == (compute, "int8")
    losses = made.loss(params, made.batches(0), None, frozen=frozen)
    assert losses.dtype.name == compute
    # 1 + 2^-12 is 1 in bfloat16.
    assert float(losses[0]) == pytest.approx(4 + 6 * (1 if compute == "bfloat16" else 1 + 2**-12), abs=1e-6)
    assert (made is plain) == (name == "float32")


@pytest.mark.parametrize("name", ["bfloat16", "bfloat16_kahan"])
def test_parameters_in_bfloat16_follow_steps_below_their_resolution(name, tmp_path):
    x = np.ones((4, 1), np.float32)
    plain = training.Task(
        lambda key: {"w": jnp.ones((1, 2000))},
        lambda p, b, k: b["x"][:, 0] * p["w"].mean(),
        lambda step: {"x": x},
    )
    tx = in_precision(adamw(1e-4, weight_decay=0.0), name, seed=0)  # 2^-8 is the distance below 1
    steps = 10 if name == "bfloat16" else 39  # compensated, all entries have moved by one distance
    settings = training.Settings(steps=steps)
    result = training.fit(PRECISIONS[name].task(plain), tx, settings, tmp_path, identity={})
    assert result.params["w"].dtype == jnp.bfloat16
    assert float(result.params["w"].astype(jnp.float32).mean()) == pytest.approx(1 - steps * 1e-4, abs=2.5e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": "float16"}, "params must be float32 or bfloat16, got 'float16'"),
        ({"compute": jnp.int8}, "compute must be float32 or bfloat16, got "),
        ({"compute": "half of it"}, "compute must be float32 or bfloat16, got 'half of it'"),
        ({"params": "bfloat16"}, "compute must not be wider than params, got float32 and bfloat16"),
    ],
)
def test_what_is_no_precision_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        training.Precision(**given)
