import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.diagnostics.blocks import by_tensor
from optimiz.diagnostics.heterogeneity import Heterogeneity, energy_shares, gini, heterogeneity
from optimiz.groups.kinds import kinds

measure = jax.jit(heterogeneity)


def of_norms(norms):
    """The statistics of blocks of one entry each."""
    return measure([jnp.array([x], jnp.float32) for x in norms])


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("x", "wanted"), [([1, 1, 1, 1], 0), ([0, 0, 0, 1], 0.75), ([1, 2, 3, 4], 0.25), ([0, 0], 0), ([7], 0)]
)
def test_golden_gini(x, wanted):
    assert float(gini(jnp.array(x, jnp.float32))) == wanted
    assert float(of_norms(x).gini_norm) == float(of_norms(x).gini_rms) == wanted


def test_golden_entropy_and_spreads():
    measured = of_norms([4, 2, 1, 3])
    assert float(measured.entropy) == pytest.approx(1.0784767751, rel=1e-6)
    assert float(measured.max_over_median) == pytest.approx(1.6, rel=1e-6)
    assert float(measured.max_over_min) == 4
    assert float(measured.log_spread) == pytest.approx(0.2261051831, rel=1e-6)
    assert measured.norm.tolist() == [4, 2, 1, 3] and int(measured.zero_blocks) == 0


def oracle(blocks):
    """The equations of the page, in float64, one block at a time."""
    sizes = np.array([block.size for block in blocks])
    n = np.array([math.sqrt(sum(float(x) ** 2 for x in block.ravel())) for block in blocks])
    r = n / np.sqrt(sizes)

    def gini(x):
        x, b = sorted(x), len(x)
        return sum((2 * i - b - 1) * x[i - 1] for i in range(1, b + 1)) / (b * sum(x))

    q = [x**2 / sum(n**2) for x in n]
    logs = [math.log10(x) for x in r if x > 0]
    mean = sum(logs) / len(logs)
    return {
        "norm": n,
        "rms": r,
        "gini_norm": gini(n),
        "gini_rms": gini(r),
        "max_over_min": max(n) / min(n) if min(n) else math.inf,
        "max_over_median": max(n) / np.median(n),
        "entropy": -sum(x * math.log(x) for x in q if x),
        "log_spread": math.sqrt(sum((x - mean) ** 2 for x in logs) / len(logs)),
        "zero_blocks": int(sum(n == 0)),
    }


SHAPES = [(7, 5), (5,), (), (6, 4), (3, 2, 2)]


def random_blocks(seed=0, zero=()):
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3) for shape in SHAPES]
    return [np.zeros_like(x) if i in zero else x for i, x in enumerate(blocks)]


@pytest.mark.quick(1)
@pytest.mark.parametrize("zero", [(), (1,)], ids=["all move", "one is zero"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(jnp.float64, 1e-12), (jnp.float32, 1e-5), (jnp.bfloat16, 1e-5), (jnp.float16, 1e-5)],
    ids=["float64", "float32", "bfloat16", "float16"],
)
def test_equals_the_equations(dtype, tolerance, zero):
    with jax.enable_x64(dtype == jnp.float64):
        grads = [jnp.asarray(x, dtype) for x in random_blocks(zero=zero)]
        measured = measure(grads)
        # Rounded to the dtype first: only the arithmetic is compared.
        wanted = oracle([np.asarray(g, np.float64) for g in grads])
        for field, value in wanted.items():
            np.testing.assert_allclose(
                getattr(measured, field), value, rtol=tolerance, atol=tolerance / 10, err_msg=field
            )
        widest = jnp.float64 if dtype == jnp.float64 else jnp.float32
        assert {x.dtype for x in measured[:-1]} == {jnp.dtype(widest)} and measured[-1].dtype == jnp.int32


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e25])
def test_does_not_see_the_gradients_scale(scale):
    grads = [jnp.asarray(x, jnp.float32) for x in random_blocks()]
    base, scaled = measure(grads), measure([scale * g for g in grads])
    np.testing.assert_allclose(scaled.norm, scale * base.norm, rtol=1e-5)
    np.testing.assert_allclose(scaled.rms, scale * base.rms, rtol=1e-5)
    for field in set(Heterogeneity._fields) - {"norm", "rms"}:
        got, wanted = getattr(scaled, field), getattr(base, field)
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6, err_msg=field)


def test_equal_blocks():
    measured = of_norms([0.3] * 5)
    assert float(measured.gini_norm) == 0 and float(measured.max_over_min) == 1 == float(
        measured.max_over_median
    )
    assert float(measured.entropy) == pytest.approx(math.log(5), rel=1e-6)
    assert float(measured.log_spread) == pytest.approx(0, abs=1e-6)


def test_size_is_taken_out_of_the_rms_alone():
    measured = heterogeneity({"large": jnp.full((4, 25), 0.5), "small": jnp.full(4, 0.5)})
    assert measured.norm.tolist() == [5, 1] and measured.rms.tolist() == [0.5, 0.5]
    assert float(measured.gini_rms) == 0 < float(measured.gini_norm) == pytest.approx(1 / 3)


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_gradient_of_zero(blocks):
    measured = of_norms([0.0] * blocks)
    assert [float(x) for x in measured[2:]] == [0, 0, math.inf, math.inf, 0, 0, blocks]


def test_one_block():
    measured = of_norms([3.0])
    assert [x.item() for x in measured] == [3, 3, 0, 0, 1, 1, 0, 0, 0]


def test_a_block_of_zero_is_counted_and_has_no_logarithm():
    measured = of_norms([0, 1, 2, 3, 4])
    assert float(measured.log_spread) == pytest.approx(0.2261051831, rel=1e-6)
    assert int(measured.zero_blocks) == 1 and float(measured.max_over_min) == math.inf
    assert float(of_norms([0, 0, 0, 1]).max_over_median) == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_entry_that_is_not_finite_shows_in_its_block_and_in_the_statistics(bad):
    measured = of_norms([1, bad, 3])
    assert np.isnan(measured.norm).tolist() == np.isnan(measured.rms).tolist() == [False, True, False]
    assert np.isnan([float(x) for x in measured[2:-1]]).all() and int(measured.zero_blocks) == 0


def test_stacked_layers_equal_the_unstacked():
    rng = np.random.default_rng(1)
    layers = [jnp.asarray(rng.normal(size=(4, 3)) * 10.0**i, jnp.float32) for i in range(3)]
    head = jnp.ones(2)
    unstacked = heterogeneity({"head": head, "layers": layers})
    stacked = heterogeneity({"head": head, "layers": jnp.stack(layers)}, by_tensor({"layers": 0}))
    chex.assert_trees_all_close(stacked, unstacked, rtol=1e-6)
    assert len(heterogeneity({"head": head, "layers": jnp.stack(layers)}).norm) == 2


@pytest.mark.long
def test_compiled_equals_eager_and_may_be_mapped():
    grads = {str(i): jnp.asarray(x, jnp.float32) for i, x in enumerate(random_blocks())}
    eager = heterogeneity(grads)
    # The entropy is next to nothing: one block has nearly all.
    chex.assert_trees_all_close(measure(grads), eager, rtol=1e-6, atol=1e-6)
    both = jax.jit(jax.vmap(heterogeneity))(jax.tree.map(lambda g: jnp.stack([g, 2 * g]), grads))
    np.testing.assert_allclose(both.norm, [eager.norm, 2 * eager.norm], rtol=1e-6)
    np.testing.assert_allclose(both.gini_rms, [eager.gini_rms] * 2, rtol=1e-5)


def test_by_kind():
    grads = {"attention": {"query": jnp.array([3.0]), "key": jnp.array([1.0])}, "ln_1": {"scale": jnp.ones(1)}}
    measured = heterogeneity(grads, kinds)
    assert measured.norm.tolist() == [1, 3, 1] and float(measured.max_over_median) == 3


def test_an_empty_tree_has_no_blocks():
    for tree in ({}, {"a": None}, {"a": jnp.zeros((0, 2))}):
        measured = heterogeneity(tree)
        assert [x.shape for x in measured[:2]] == [(0,), (0,)]
        assert [float(x) for x in measured[2:]] == [0] * 7
        chex.assert_trees_all_equal_dtypes(measured, of_norms([1.0]))


def test_shares_of_the_squared_norm():
    np.testing.assert_allclose(energy_shares(jnp.array([3e20, 4e20])), [0.36, 0.64], rtol=1e-6)
    assert energy_shares(jnp.zeros(2)).tolist() == [0, 0]


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"the labels of a have shape \(3,\), but its own is \(2,\)"):
        heterogeneity({"a": jnp.ones(2)}, {"a": np.array(["x", "y", "z"])})
