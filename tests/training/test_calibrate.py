"""Calibration times the work until its results are available, without its compilation."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.training import (
    Growth,
    LayerDrop,
    Methods,
    RhoLoss,
    SelectiveBackprop,
    Task,
    Work,
    calibrate,
    measure,
)
from optimiz.training.calibrate import _timing
from tests.training import tiny
from tests.training.counting import counting

SHAPE = jax.ShapeDtypeStruct((), jnp.float32)


def sleeping(seconds):
    """A function of a scalar whose result comes that much later, from within compiled code."""

    def sleep(x):
        time.sleep(seconds)
        return np.float32(x)

    return lambda x: jax.pure_callback(sleep, SHAPE, x)


def test_a_sleep_of_50_ms_raises_the_time_by_50_ms():
    quick, slow = (jax.jit(sleeping(seconds)) for seconds in (0.0, 0.05))
    works = {Work("quick"): lambda: quick(1.0), Work("slow"): lambda: slow(1.0)}
    reference = measure(works, about={}, n=15)
    assert reference.seconds("slow") - reference.seconds("quick") == pytest.approx(0.05, abs=0.005)
    assert [timing.n for timing in reference.times.values()] == [15, 15]


def test_compilation_is_not_timed():
    def traced(x):
        time.sleep(0.5)
        return x + 1

    compiled = jax.jit(traced)
    reference = measure({Work("step"): lambda: compiled(1.0)}, about={}, n=1)
    assert reference.seconds("step") < 0.25


@pytest.mark.long  # on a busy machine the quicker of two works may be the one that was interrupted
def test_more_layers_and_more_examples_take_longer():
    def work(depth, batch):
        x = jnp.full((batch, 256), 0.01)
        layers = jax.jit(
            lambda x: jax.lax.fori_loop(0, depth, lambda i, x: jnp.tanh(x @ jnp.ones((256, 256))), x)
        )
        return lambda: layers(x)

    sizes = [(1, 64), (8, 64), (8, 512), (64, 512)]
    reference = measure({Work("layers", *size): work(*size) for size in sizes}, about={}, n=9)
    seconds = [reference.seconds("layers", depth=depth, batch=batch) for depth, batch in sizes]
    assert seconds == sorted(seconds)


@pytest.mark.long
def test_what_an_optimizer_counts_is_priced_apart_from_its_step():
    plain = calibrate(tiny.task(), optax.sgd(0.1), about={"model": "tiny"}, n=20)
    assert set(plain.prices()) == {"step(batch=8)", "forward(batch=8)"}
    assert plain.about == {"model": "tiny"} and plain.times[Work("step", batch=8)].n == 20
    estimates = calibrate(tiny.task(), counting(every=3, estimate=sleeping(0.05)), about={}, n=27)
    assert 0.04 < estimates.seconds("hessian", batch=8) < 0.1
    assert estimates.times[Work("hessian", batch=8)].n == 9  # of updates 4 to 30
    assert estimates.seconds("step", batch=8) < 0.025


@pytest.mark.long
def test_evaluations_are_priced_as_forward_passes():
    task = tiny.task()

    def loss(params, batch, key):
        # Of the parameters, so that no pass is taken for another; and without a derivative.
        wait = sleeping(0.05)(jax.lax.stop_gradient(jnp.sum(params["w1"])))
        return task.loss(params, batch, key) + 0 * wait

    slow = dataclasses.replace(task, loss=loss)
    reference = calibrate(slow, counting(evaluations=lambda count: 2), about={}, n=9)
    assert 0.05 <= reference.seconds("forward", batch=8) < 0.1
    # One pass in a step as in the other; with the two evaluations it would take 150 ms.
    assert 0.02 < reference.seconds("step", batch=8) < 0.1


@pytest.mark.parametrize("hiccup", [False, True])
def test_what_is_done_every_few_steps_is_in_the_price_of_a_step_and_a_hiccup_is_not(hiccup):
    samples = np.where(np.arange(40) % 10 == 3, 1.1, 0.1)
    samples[5] += 50.0 * hiccup
    timing = _timing(samples, 10)
    assert timing.seconds == pytest.approx(0.2) and timing.n == 40
    assert _timing(samples).seconds == pytest.approx(0.1) == _timing(samples[:3], 10).seconds


def test_a_step_that_always_has_an_estimate_has_no_price():
    with pytest.raises(
        ValueError, match=r"n must reach a step without an estimate .*, got 2 steps that each have one"
    ):
        calibrate(tiny.task(), counting(every=1), about={}, n=2)


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (1.5, TypeError)])
def test_n_is_refused_by_name(n, error):
    with pytest.raises(error, match="n must be"):
        measure({Work("step"): lambda: 0}, about={}, n=n)
    with pytest.raises(error, match="n must be"):
        calibrate(tiny.task(), optax.sgd(0.1), about={}, n=n)


def layered(depth, size=8):
    """A task of layers of which each takes 10 ms for 8 examples."""

    def loss(params, batch, key, on=None):
        layers = len(params["layers"]) if on is None else jnp.sum(on)

        def wait(layers, w):
            time.sleep(float(layers) * 0.01 * size_of(batch) / 8)
            return np.float32(w)

        # Of the parameters, so that no pass is taken for another; and without a derivative.
        w = jax.lax.stop_gradient(params["layers"][0])
        return (sum(params["layers"]) - batch["x"]) ** 2 + 0 * jax.pure_callback(wait, SHAPE, layers, w)

    def size_of(batch):
        return batch["x"].shape[0]

    return Task(
        lambda key: {"layers": [jnp.ones(())] * depth},
        loss,
        lambda step: {"x": np.zeros(size, np.float32), "irreducible": np.zeros(size, np.float32)},
        depth=lambda params: len(params["layers"]),
    )


def test_a_model_that_grows_is_timed_at_every_depth():
    methods = Methods(growth=Growth(depths=(1, 2, 4), at=(0.2, 0.5)))
    reference = calibrate(layered(1), optax.sgd(0.1), about={}, n=5, methods=methods)
    assert set(reference.times) == {Work(name, d, 8) for name in ("step", "forward") for d in (1, 2, 4)}
    assert all(timing.n == 5 for timing in reference.times.values())
    for name in ("step", "forward"):
        assert reference.seconds(name, depth=4, batch=8) > 0.015 + reference.seconds(name, depth=1, batch=8)


def test_with_layer_dropping_every_number_of_active_layers_is_timed():
    methods = Methods(layer_drop=LayerDrop())
    reference = calibrate(layered(3), optax.sgd(0.1), about={}, n=5, methods=methods)
    assert set(reference.times) == {Work(name, d, 8) for name in ("step", "forward") for d in (1, 2, 3)}
    assert all(timing.n >= 5 for timing in reference.times.values())
    for name in ("step", "forward"):
        one, three = (reference.seconds(name, depth=depth, batch=8) for depth in (1, 3))
        assert three > 0.028 and three > 0.01 + one  # of the 0.02 that two layers wait; the rest is for noise


@pytest.mark.parametrize(
    ("selection", "size"), [(SelectiveBackprop(batch=24), 8), (RhoLoss(batch=8), 24)], ids=["sb", "rho"]
)
def test_with_selection_the_forward_pass_over_candidates_is_timed(selection, size):
    methods = Methods(selection=selection)
    reference = calibrate(layered(2, size), optax.sgd(0.1), about={}, n=5, methods=methods)
    step = Work("step", 2, selection.batch)
    assert set(reference.times) == {step, Work("forward", 2, 8), Work("forward", 2, 24)}
    assert reference.times[step].seconds > 2 * 0.01 * selection.batch / 8
