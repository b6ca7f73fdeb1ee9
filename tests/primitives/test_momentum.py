import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz

FORMS = [optimiz.trace, optimiz.ema, optimiz.seeded_ema]


def run(tx, gradients):
    state = tx.init(jnp.zeros_like(gradients[0]))
    out = []
    for g in gradients:
        updates, state = tx.update(g, state)
        out.append(updates)
    return np.stack(out)


def test_the_three_forms_follow_their_equations():
    g = np.random.default_rng(0).normal(size=(6, 4))
    mu = 0.7
    trace, ema, seeded = [], [], []
    t, e, s = np.zeros(4), np.zeros(4), g[0]
    for i, x in enumerate(g):
        t, e = mu * t + x, mu * e + (1 - mu) * x
        s = x if i == 0 else mu * s + (1 - mu) * x
        trace.append(t), ema.append(e), seeded.append(s)
    with jax.enable_x64(True):
        for form, wanted in zip(FORMS, (trace, ema, seeded), strict=True):
            np.testing.assert_allclose(run(form(mu), jnp.asarray(g)), wanted, rtol=0, atol=1e-14)
        nesterov = run(optimiz.trace(mu, nesterov=True), jnp.asarray(g))
        np.testing.assert_allclose(nesterov, g + mu * np.stack(trace), rtol=0, atol=1e-14)


def test_trace_and_ema_equal_those_of_optax():
    g = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    np.testing.assert_allclose(run(optimiz.trace(0.9), g), run(optax.trace(0.9), g), rtol=1e-6)
    theirs = run(optax.ema(0.9, debias=False), g)
    np.testing.assert_allclose(run(optimiz.ema(0.9), g), theirs, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("gradient", [jnp.bfloat16, jnp.float32])
def test_state_keeps_its_dtype_and_updates_theirs(form, param, gradient):
    tx = form(0.9)
    state = tx.init(jnp.zeros(3, param))
    updates, after = tx.update(jnp.ones(3, gradient), state)
    assert updates.dtype == gradient
    assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(after)]
    assert jax.tree.leaves(state)[-1].dtype == (param if form is optimiz.trace else jnp.float32)


@pytest.mark.parametrize("form", FORMS)
def test_accumulator_dtype_is_honoured(form):
    tx = form(0.9, accumulator_dtype=jnp.bfloat16)
    _, state = tx.update(jnp.ones(3), tx.init(jnp.zeros(3)))
    assert jax.tree.leaves(state)[-1].dtype == jnp.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_refuses_a_gradient_that_optax_broadcasts(form):
    params = {"layer": {"kernel": jnp.zeros(4)}}
    tx = form(0.9)
    with pytest.raises(ValueError, match=r"gradient at \['layer'\]\['kernel'\] has shape \(1,\)"):
        tx.update({"layer": {"kernel": jnp.ones(1)}}, tx.init(params))
    with pytest.raises(ValueError, match=r"the gradient has no leaf at \['layer'\]\['kernel'\]"):
        tx.update({"layer": {}}, tx.init(params))
    optax.trace(0.9).update({"layer": {"kernel": jnp.ones(1)}}, optax.trace(0.9).init(params))


@pytest.mark.parametrize("form", FORMS)
def test_refuses_a_decay_outside_its_domain(form):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        form(1)
    with pytest.raises(TypeError, match="decay must be a number, got True of type bool"):
        form(True)
