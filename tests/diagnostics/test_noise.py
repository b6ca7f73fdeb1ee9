"""The noise scale is that of known noise, and tails are those of known laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.diagnostics import gradient_noise, gradient_tails, health, noise_level, noise_scale


def mean_product(params, batch):
    """A loss whose gradient is the mean of the batch's examples."""
    return sum(jnp.sum(p * jnp.mean(batch[name], axis=0)) for name, p in params.items())


@pytest.mark.parametrize(
    ("gradients", "trace", "squared_norm", "scale"),
    [
        ([[3.0, 0.0], [1.0, 0.0]], 2.0, 3.0, 2 / 3),
        ([[1.0, 0.0], [-1.0, 0.0]], 2.0, -1.0, np.inf),
        ([[2.0, 1.0]] * 3, 0.0, 5.0, 0.0),
    ],
)
def test_the_scale_of_gradients_by_hand(gradients, trace, squared_norm, scale):
    batches = {"w": jnp.array(gradients)[:, None]}
    found = gradient_noise(mean_product, {"w": jnp.zeros(2)}, batches, batch_size=1)
    assert found.trace.tolist() == pytest.approx([trace], abs=1e-6)
    assert found.squared_norm.tolist() == pytest.approx([squared_norm], rel=1e-6)
    assert float(found.scale) == pytest.approx(scale, abs=1e-6)


def test_blocks_are_those_of_a_float64_loop_also_where_noise_is_small():
    random = np.random.default_rng(0)
    x = {"a": 1e3 + 0.5 * random.normal(size=(6, 4, 3)), "b": random.normal(size=(6, 4, 2))}
    params = {"a": jnp.zeros(3), "b": jnp.zeros(2, jnp.bfloat16)}
    loss = lambda p, batch: mean_product(p, batch)  # noqa: E731
    found = jax.jit(lambda p, b: gradient_noise(loss, p, b, batch_size=4))(
        params, jax.tree.map(jnp.float32, x) | {"b": jnp.array(x["b"], jnp.bfloat16)}
    )
    for i, (name, within) in enumerate((("a", 2e-3), ("b", 3e-2))):
        means = x[name].mean(axis=1)
        trace = 4 * np.sum((means - means.mean(0)) ** 2) / 5
        assert found.trace[i] == pytest.approx(trace, rel=within)
        assert found.squared_norm[i] == pytest.approx(np.sum(means.mean(0) ** 2) - trace / 24, rel=within)


def test_linear_regression_has_the_scale_of_its_error():
    """y = w x + e at the error u: G = -u and tr Σ = (d + 1) ‖u‖² + d s², over many micro-batches."""
    d, s, m, b = 10, 0.5, 4000, 8
    random = np.random.default_rng(1)
    u = random.normal(size=d) / np.sqrt(d)
    x = random.normal(size=(m, b, d))
    y = x @ u + s * random.normal(size=(m, b))
    loss = lambda w, batch: jnp.mean((batch["y"] - batch["x"] @ w) ** 2) / 2  # noqa: E731
    found = gradient_noise(loss, jnp.zeros(d), {"x": jnp.float32(x), "y": jnp.float32(y)}, batch_size=b)
    squared = u @ u
    assert float(found.scale) == pytest.approx(d + 1 + d * s**2 / squared, rel=0.05)
    assert found.trace[0] == pytest.approx((d + 1) * squared + d * s**2, rel=0.05)


def measurements(random, steps, *, squared, trace, batch, d=1000, parts=2):
    """Noise of batches whose examples have Gaussian gradients, from their parts."""
    mean = np.full(d, np.sqrt(squared / d))
    found = []
    for _ in range(steps):
        g = mean + random.normal(size=(parts, d)) * np.sqrt(trace / d * parts / batch)
        s = batch / parts * np.sum((g - g.mean(0)) ** 2) / (parts - 1)
        squares = np.sum(g.mean(0) ** 2) - s / batch
        found.append({"trace": s, "squared_norm": squares, "batch_size": batch})
    return found


def test_the_level_along_a_run_is_that_of_known_noise_also_where_it_hides_the_gradient():
    random = np.random.default_rng(4)
    found = noise_level(measurements(random, 400, squared=9.5635, trace=1424.136, batch=64))
    assert found.low < 148.91 < found.high < 1.3 * found.low
    assert found.scale == pytest.approx(148.91, rel=0.1) and (found.batch_size, found.n) == (64, 400)
    hidden = measurements(random, 2000, squared=9.5635, trace=1424136 / 10, batch=64)
    found = noise_level(hidden)
    assert found.low < 14891 < found.high
    assert (
        0.4 < np.mean([one["squared_norm"] < 0 for one in hidden]) < 0.5
    )  # no ratio of one of them says anything


def test_the_interval_of_a_level_holds_as_often_as_it_says():
    random = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        found = noise_level(measurements(random, 30, squared=1.0, trace=40.0, batch=16, d=50))
        held += found.low < 40 < found.high
    assert 183 <= held < 200  # 95 % of 200, and two standard errors


def test_a_level_needs_one_finite_measurement_and_its_interval_ten():
    nothing = {"trace": float("nan"), "squared_norm": 1.0, "batch_size": 8.0}
    with pytest.raises(ValueError, match="at least one that is finite"):
        noise_level([nothing])
    one = {"trace": 8.0, "squared_norm": 2.0, "batch_size": 8.0}
    assert noise_level([nothing, one] * 9)[:3] == (4.0, 0.0, np.inf)
    assert noise_level([one] * 10)[:3] == (4.0, 4.0, 4.0)


def test_entries_are_those_of_each_micro_batch():
    draws = np.random.default_rng(6).normal(size=(3, 2, 2, 4)).astype(np.float32)
    params = {"a": jnp.zeros((2, 4)), "b": jnp.zeros(())}
    batches = {"a": draws, "b": draws[..., 0, 0]}
    means = np.concatenate([draws.mean(1).reshape(3, 8), batches["b"].mean(1)[:, None]], axis=1)
    for n, kept in ((5, [0, 2, 4, 6, 8]), (99, range(9))):
        found = gradient_noise(mean_product, params, batches, batch_size=2, entries=n).entries
        np.testing.assert_allclose(found, means[:, list(kept)], rtol=1e-5)
    assert gradient_noise(mean_product, params, batches, batch_size=2).entries is None


def test_means_of_noise_and_of_signal_are_divided_and_not_ratios_averaged():
    assert noise_scale(np.mean([2.0, 4.0]), np.mean([-1.0, 3.0])) == 3.0


@pytest.mark.parametrize(
    ("draw", "index"),
    [
        (lambda random, size: random.standard_t(2, size), 2.0),
        (lambda random, size: random.standard_cauchy(size), 1.0),
    ],
)
def test_heavy_tails_have_their_index_whatever_the_scales_of_the_entries(draw, index):
    random = np.random.default_rng(2)
    scales = 10 ** random.uniform(-2, 2, 500)
    found = gradient_tails(3.0 + draw(random, (400, 500)) * scales)
    assert found.hill_1 == pytest.approx(index, rel=0.1) and found.hill_01 == pytest.approx(index, rel=0.25)
    assert found.kurtosis > 10 and found.norm_ratio > 3


def test_gaussian_noise_of_unequal_scales_has_light_tails():
    random = np.random.default_rng(3)
    found = gradient_tails(random.normal(size=(400, 500)) * 10 ** random.uniform(-2, 2, 500))
    assert (
        found.hill_1 == pytest.approx(9, abs=1)
        and found.hill_01 == pytest.approx(13, abs=2)
        and found.heavy_share == 0
    )
    assert abs(found.kurtosis) < 0.2 and found.norm_ratio < 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_noise(mean_product, {"w": jnp.zeros(1)}, {"w": jnp.zeros((1, 1, 1))}, batch_size=1),
         "batches must have the same first axis of at least 2"),
        (lambda: gradient_noise(mean_product, {"w": jnp.zeros(1)}, {"w": jnp.zeros((2, 1, 1))}, batch_size=0),
         r"batch_size must be in \[1, "),
        (lambda: gradient_tails(np.zeros((9, 3))),
         r"gradients must have shape \[n, d\] with n >= 50, got \(9, 3\)"),
        (lambda: gradient_tails(np.full((60, 3), np.nan)), "gradients must be finite"),
        (lambda: gradient_tails(np.ones((60, 3))), "gradients must differ from batch to batch"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_batch_far_beyond_the_noise_scale_is_a_problem_of_the_run():
    rows = lambda batch: [  # noqa: E731
        {"step": step, "noise": {"trace": 80.0, "squared_norm": 2.0, "batch_size": batch}} for step in (0, 9)
    ]
    (finding,) = health(rows(512))
    assert (
        finding.name == "batch_beyond_noise_scale"
        and "the batch of 512 is far above the noise scale, about 40 examples" in finding.evidence
    )
    assert health(rows(64)) == health(rows(512), share=0.4) == []


def test_a_batch_far_from_the_noise_scale_of_a_run_is_found_once_its_interval_says_so():
    def found(batch, steps):
        random = np.random.default_rng(7)
        rows = measurements(random, steps, squared=1.0, trace=400.0, batch=batch)
        return health([{"step": i, "noise": row} for i, row in enumerate(rows)])

    (below,) = found(16, 400)
    assert below.name == "batch_below_noise_scale" and below.step == 200
    assert below.evidence.startswith("the batch of 16 is far below the noise scale, about ")
    (above,) = found(8000, 400)
    assert above.name == "batch_beyond_noise_scale" and "95 % interval" in above.evidence
    # Near it, or with too few measurements, nothing is said.
    assert found(100, 400) == found(4, 6) == []
