import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from tests.golden import fixture_a, parity

# PyTorch 2.13 SGD on fixture A.
PLAIN = "1.0005 -2.0015 2.997 .495 -.007 -1 .097 -.2"
MOMENTUM = ".99978 -2.00159 2.98926 .4896 -.01213 -.99325 .09025 -.20441"
NESTEROV = "1.000302 -2.002931 2.987334 .48564 -.017917 -.993925 .088225 -.203969"
MOMENTUM_VARYING = "1.00069 -2.001945 2.98573 .4858 -.011615 -.990375 .088875 -.208555"


def test_equals_pytorch():
    fixture_a.check(lambda: optimiz.sgd(0.01), PLAIN)
    fixture_a.check(lambda: optimiz.sgd(0.01, 0.9), MOMENTUM)
    fixture_a.check(lambda: optimiz.sgd(0.01, 0.9, nesterov=True), NESTEROV)
    fixture_a.check(lambda: optimiz.sgd(fixture_a.varying, 0.9), MOMENTUM_VARYING)


@pytest.mark.parametrize("args", [(0.1,), (0.1, 0.9), (0.1, 0.9, True), (0.1, 0.9, True, "bfloat16")])
def test_is_a_drop_in_for_optax(args):
    ours = fixture_a.after_three_steps(optimiz.sgd(*args), jnp.float32)[0]
    theirs = fixture_a.after_three_steps(optax.sgd(*args), jnp.float32)[0]
    # A bfloat16 buffer is rounded once a step in both, but not at the same place of the arithmetic.
    atol = 2e-3 if len(args) == 4 else 1e-6
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), ours, theirs)


def test_decay_is_decoupled_from_the_momentum():
    tx = optimiz.sgd(0.5, 0.9, weight_decay=0.2)
    params = jnp.array([1.0])
    state = tx.init(params)
    for _ in range(3):  # gradient zero: only the factor 1 - 0.5 × 0.2 acts
        updates, state = tx.update(jnp.zeros(1), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 0.9**3, rtol=1e-6)


def test_momentum_keeps_its_dtype_where_optax_lets_it_change():
    params, g = jnp.zeros(2, jnp.bfloat16), jnp.ones(2, jnp.float32)

    def dtypes(tx):
        state = tx.init(params)
        after = tx.update(g, state, params)[1]
        return [(x.dtype, y.dtype) for x, y in zip(*map(jax.tree.leaves, (state, after)), strict=True)]

    assert any(before != after for before, after in dtypes(optax.sgd(0.1, 0.9)))
    assert all(before == after for before, after in dtypes(optimiz.sgd(0.1, 0.9)))


@pytest.mark.parametrize("bad", [1.0, -0.1, float("nan")])
def test_refuses_a_momentum_outside_its_domain(bad):
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\)"):
        optimiz.sgd(0.1, bad)
    optax.sgd(0.1, bad)  # which Optax accepts


@pytest.mark.parametrize("dampening", [0.0, 0.3, 1.0])
def test_dampening_is_that_of_pytorch(dampening):
    params, buffer = np.array([1.0, -2.0]), None
    with jax.enable_x64(True):
        tx = optimiz.sgd(fixture_a.varying, 0.9, dampening=dampening)
        ours = jnp.array(params)
        state = tx.init(ours)
        for step in range(4):
            g = np.array([0.5, -1.0]) * (step + 1)
            # torch.optim.SGD: the buffer begins as the first gradient, undampened.
            buffer = g if buffer is None else 0.9 * buffer + (1 - dampening) * g
            params = params - fixture_a.varying(step) * buffer
            updates, state = tx.update(jnp.array(g), state, ours)
            ours = optax.apply_updates(ours, updates)
        np.testing.assert_allclose(ours, params, rtol=0, atol=1e-14)


def test_no_dampening_is_pytorchs_default_and_goes_with_everything():
    for kwargs in ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        given = [optimiz.sgd(0.1, dampening=dampening, **kwargs) for dampening in (None, 0, 0.0)]
        plain, *others = (fixture_a.after_three_steps(tx, jnp.float32)[0] for tx in given)
        for other in others:
            jax.tree.map(np.testing.assert_array_equal, plain, other)


def test_with_dampening_there_is_one_count():
    tx = optimiz.sgd(0.1, 0.9, dampening=0.5)
    _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert optax.tree.get(state, "count") == 1


def test_dampening_by_the_decay_is_the_seeded_average():
    given = [tx(0.9) for tx in (lambda mu: optimiz.trace(mu, dampening=mu), optimiz.seeded_ema)]
    ours, theirs = (fixture_a.after_three_steps(tx, jnp.float32)[0] for tx in given)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"momentum": 0.9, "dampening": 1.5}, r"dampening must be in \[0, 1\], got 1.5"),
        ({"dampening": 0.5}, "there is none"),
        ({"momentum": 0.9, "dampening": 0.5, "nesterov": True}, "no dampening"),
    ],
)
def test_refuses_dampening_that_has_no_meaning(kwargs, message):
    with pytest.raises(ValueError, match=message):
        optimiz.sgd(0.1, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "sgd": parity.Case(
        title="SGD",
        paper="Robbins and Monro (1951)",
        code="torch.optim.SGD",
        home="torch",
        settings={"weight_decay": 0.1},
        note=parity.L2,
        ours=lambda rate, s: parity.l2(s, optimiz.sgd(rate)),
    ),
    "sgd_momentum": parity.Case(
        title="SGD with momentum",
        paper="Polyak (1964)",
        code="torch.optim.SGD",
        home="torch",
        settings={"momentum": 0.9, "weight_decay": 0.1},
        note=parity.L2,
        ours=lambda rate, s: parity.l2(s, optimiz.sgd(rate, s["momentum"])),
    ),
    "sgd_nesterov": parity.Case(
        title="SGD with Nesterov's momentum",
        paper="Nesterov (1983)",
        code="torch.optim.SGD",
        home="torch",
        settings={"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        note=parity.L2,
        ours=lambda rate, s: parity.l2(s, optimiz.sgd(rate, s["momentum"], s["nesterov"])),
    ),
}
