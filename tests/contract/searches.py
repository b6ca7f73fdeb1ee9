"""One update of a line search, and what the presets promise alike beyond the code of their authors."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest


def step(tx, loss, params, state=None, *, value_fn=None, lift=0.0, **extra):
    """The parameters and the state after an update.

    Args:
        tx: a line search, or a chain that ends in one.
        loss: of the parameters; gives ``value`` and ``grad``.
        params: before.
        state: before; None for the first.
        value_fn: called by the search; None for the loss.
        lift: added to all that the search sees of it.
        **extra: what else ``update`` is called with, also in place of ``value`` or ``grad``.
    """
    state = tx.init(params) if state is None else state
    return _step(params, state, lift, extra, tx=tx, loss=loss, value_fn=value_fn or loss)


@functools.partial(jax.jit, static_argnames=("tx", "loss", "value_fn"))
def _step(params, state, lift, extra, *, tx, loss, value_fn):
    def lifted(params):
        return jax.tree.map(lambda x: x + lift, value_fn(params))

    value, grad = jax.value_and_grad(loss)(params)
    extra = {"value": value, "grad": grad, "value_fn": lifted} | extra
    updates, state = tx.update(extra["grad"], state, params, **extra)
    return optax.apply_updates(params, updates), state


def check_bounded(make):
    """Where every step is accepted, a step size grows up to ``max_step``, and without end if that is infinite.

    Args:
        make: keywords → the preset.
    """

    def after_six(max_step):
        tx = make(init_step=1.0, growth=2.0, max_step=max_step)
        x, state = jnp.array(0.0), None
        for _ in range(6):
            x, state = step(tx, jnp.negative, x, state)
        assert state[-1].evaluations == 6
        return float(state[-1].step_size[0])

    assert after_six(jnp.inf) == 64
    assert after_six(40.0) == 40


def check_recovers(make):
    """After a search without success the step size is the last, shrunk once; with "keep", what is left of it.

    Args:
        make: keywords → the preset.
    """

    def failed(on_failure):
        tx = make(init_step=0.5, shrink=0.5, growth=1.5, max_trials=7, on_failure=on_failure)
        x, state = step(tx, jnp.square, jnp.array(4.0), lift=100.0)
        assert state[-1].evaluations == 7
        assert state[-1].failures == 1
        following = step(tx, jnp.square, x, state)[1]
        assert following[-1].failures == 1  # the next one succeeds
        assert following[-1].evaluations == 8
        return float(state[-1].step_size[0])

    assert failed("revert") == 0.25
    assert failed("keep") == pytest.approx(0.5 * 1.5 * 0.5**7)


def check_rounding(make):
    """A decrease that the loss is too large to show is no failure, unless no rounding is allowed for.

    Args:
        make: keywords → the preset.
    """

    def searched(tolerance):
        tx = make(init_step=0.5, max_trials=6, tolerance=tolerance)
        state = step(tx, lambda x: 1e4 + 1e-6 * x**2, jnp.array(1.0))[1][-1]
        return int(state.evaluations), int(state.failures)

    assert searched(4.0) == (1, 0)
    assert searched(0.0) == (6, 1)


BAD = [
    ({"c": 0.0}, ValueError, r"c must be in \(0, 1\), got 0.0"),
    ({"c": "0.1"}, TypeError, "c must be a number, got '0.1'"),
    ({"init_step": 0.0}, ValueError, r"init_step must be in \(0, inf\), got 0.0"),
    ({"shrink": 1.0}, ValueError, r"shrink must be in \(0, 1\), got 1.0"),
    ({"growth": 0.9}, ValueError, r"growth must be in \[1, inf\), got 0.9"),
    ({"max_trials": 0}, ValueError, r"max_trials must be in \[1, .*\], got 0"),
    ({"max_trials": 2.5}, TypeError, "max_trials must be an integer, got 2.5"),
    ({"max_step": 0.0}, ValueError, r"max_step must be in \(0, inf\), got 0.0"),
    ({"max_step": float("nan")}, ValueError, "max_step must be in"),
    ({"tolerance": -1.0}, ValueError, r"tolerance must be in \[0, inf\), got -1.0"),
    ({"on_failure": "floor"}, ValueError, "on_failure must be one of 'revert', 'keep', got 'floor'"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay must be in"),
]
"""Keywords that every preset with guards refuses, the error and its message."""

BAD_ADAM = [
    ({"b1": 1.0}, ValueError, r"b1 must be in \[0, 1\), got 1.0"),
    ({"b2": -0.1}, ValueError, r"b2 must be in \[0, 1\), got -0.1"),
    ({"eps": -1e-8}, ValueError, "eps must be in"),
]
"""As ``BAD``, of the presets along Adam's direction."""
