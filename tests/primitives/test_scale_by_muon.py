import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.numerics import matrix_scales, newton_schulz, orthogonalise
from optimiz.primitives import scale_by_muon
from tests.primitives import muon_devices

KELLER = {"momentum": 0.95, "nesterov": True, "newton_schulz": newton_schulz.KELLER}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def first(tx, gradients):
    """The first update."""
    return jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])(gradients)


def direction(gradients, **given):
    return first(scale_by_muon(ns_dtype=jnp.float32, **KELLER | given), gradients)


def test_a_kernel_of_attention_is_the_matrix_of_its_merged_axes():
    query, out = normal(8, 2, 3), normal(2, 3, 8)
    got = direction({"attention": {"query": {"kernel": query}, "out": {"kernel": out}}})["attention"]
    flat = direction({"query": query.reshape(8, 6), "out": out.reshape(6, 8)})
    np.testing.assert_allclose(got["query"]["kernel"].reshape(8, 6), flat["query"], atol=1e-6)
    np.testing.assert_allclose(got["out"]["kernel"].reshape(6, 8), flat["out"], atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_scanned_layers_are_each_alone(axis):
    layers = normal(3, 4, 6)
    stacked = direction({"layers": jnp.moveaxis(layers, 0, axis)}, scanned={"layers": axis})
    alone = direction({f"layer_{i}": x for i, x in enumerate(layers)})
    for i in range(3):
        np.testing.assert_allclose(jnp.moveaxis(stacked["layers"], axis, 0)[i], alone[f"layer_{i}"], atol=1e-6)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (6, 3, 3)])
def test_fused_queries_keys_and_values_are_each_alone(sizes):
    fused, ends = normal(2, 4, 12), np.cumsum(sizes)[:-1]
    axes = groups.Matrix(sizes=sizes)
    together = direction({"qkv": fused}, matrices={"qkv": axes}, scale=matrix_scales.spectral)["qkv"]
    parts = dict(zip("qkv", jnp.split(fused, ends, axis=-1), strict=True))
    alone = direction(parts, matrices={".": groups.Matrix()}, scale=matrix_scales.spectral)
    np.testing.assert_allclose(together, jnp.concatenate([alone[name] for name in "qkv"], axis=-1), atol=1e-6)


def test_a_scale_is_checked_for_the_shape_of_every_matrix():
    for scale in (lambda a, b: 5.0 - a, lambda a, b: float("nan") if a == 16 else 1.0):
        with pytest.raises(ValueError, match=r"scale's factor of a matrix of 16 × 8 must be in"):
            direction({"kernel": normal(16, 8)}, scale=scale)


def test_several_batch_axes_and_a_reduction_behind_the_output():
    experts = normal(2, 3, 6, 4)  # layers, experts, out, in
    axes = groups.Matrix(batch=(1, 0), reduction=(3,), output=(2,))
    together = direction({"experts": experts}, matrices={"experts": axes})["experts"]
    for i, j in np.ndindex(2, 3):
        alone = direction({"kernel": experts[i, j].T})["kernel"].T
        np.testing.assert_allclose(together[i, j], alone, atol=1e-6)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_direction_is_that_of_the_average(nesterov):
    scale = matrix_scales.keller
    tx = scale_by_muon(0.9, nesterov, newton_schulz=newton_schulz.KELLER, scale=scale, ns_dtype=jnp.float32)
    a, b = normal(3, 5), normal(3, 5, seed=1)
    _, state = tx.update({"w": a}, tx.init({"w": a}))
    got, state = tx.update({"w": b}, state)
    m = 0.9 * 0.1 * a + 0.1 * b
    np.testing.assert_allclose(state.mu["w"], m, rtol=1e-5)
    u = 0.9 * m + 0.1 * b if nesterov else m
    wanted = orthogonalise(u, newton_schulz.KELLER, jnp.float32) * np.sqrt(5 / 3)
    np.testing.assert_allclose(got["w"], wanted, atol=1e-5)


def test_what_is_no_matrix_passes_through_without_state():
    gradients = {"kernel": normal(3, 4), "bias": normal(4)}
    tx = scale_by_muon(**KELLER)
    updates, state = tx.update(gradients, tx.init(gradients))
    np.testing.assert_array_equal(updates["bias"], gradients["bias"])
    assert state.mu["bias"] == optax.MaskedNode()


def test_what_is_not_finite_is_seen_in_its_own_matrix_alone():
    gradients = {"layers": normal(3, 4, 6).at[1, 0, 0].set(jnp.nan), "other": normal(4, 6)}
    updates = direction(gradients, scanned={"layers": 0})
    assert jnp.isnan(updates["layers"][1]).all()
    assert jnp.isfinite(updates["layers"][jnp.array([0, 2])]).all() and jnp.isfinite(updates["other"]).all()


def test_the_products_have_the_dtype_that_is_asked_for():
    def factors(**given):
        tx, x = scale_by_muon(**KELLER, **given), {"w": jnp.ones((4, 6))}
        text = str(jax.make_jaxpr(lambda g: tx.update(g, tx.init(g)))(x))
        return set(re.findall(r":(\w+)\[1,4,4\] = convert_element_type", text)) or {"f32"}

    assert factors() == {"bf16"} and factors(ns_dtype=jnp.float32) == {"f32"}


def test_in_float64_so_are_the_products():
    with jax.enable_x64(True):
        w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)))
        got = first(scale_by_muon(**KELLER), {"w": 20 * w})["w"]  # the first average is a twentieth
        wanted = orthogonalise(w * (1 - 0.95**2) * 20, newton_schulz.KELLER, jnp.float64)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


# The second moment of each output (NorMuon)


def normalised(gradients, **given):
    return direction(gradients, b2=0.95, eps=1e-10, **given)


def test_at_first_all_outputs_move_equally_far_and_the_norm_is_that_of_muon():
    g = {"w": normal(6, 4) * jnp.array([1.0, 0.1, 3.0, 1.0])}
    y = normalised(g)["w"]
    norms = np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    x = direction(g)["w"]
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-5)
    assert np.std(np.linalg.norm(x, axis=0)) > 1e-3


def test_the_state_has_one_number_for_each_output_of_each_matrix():
    params = {
        "attention": {"query": {"kernel": jnp.ones((8, 2, 3))}, "out": {"kernel": jnp.ones((2, 3, 8))}},
        "layers": jnp.ones((5, 4, 6), jnp.bfloat16),
        "bias": jnp.ones(3),
    }
    nu = scale_by_muon(**KELLER, b2=0.95, scanned={"layers": 0}).init(params).nu
    assert nu["attention"]["query"]["kernel"].shape == (1, 2, 3)
    assert nu["attention"]["out"]["kernel"].shape == (1, 1, 8)
    assert nu["layers"].shape == (5, 1, 6) and nu["layers"].dtype == jnp.float32
    assert nu["bias"] == optax.MaskedNode()


def test_stacked_and_fused_matrices_are_each_alone():
    layers, fused = normal(3, 4, 6), normal(4, 12, seed=1)
    stacked = normalised({"layers": layers}, scanned={"layers": 0})["layers"]
    together = normalised({"qkv": fused}, matrices={"qkv": groups.Matrix(sizes=(4, 4, 4))})["qkv"]
    for i in range(3):
        np.testing.assert_allclose(stacked[i], normalised({"w": layers[i]})["w"], atol=1e-6)
        block = slice(4 * i, 4 * i + 4)
        np.testing.assert_allclose(together[:, block], normalised({"w": fused[:, block]})["w"], atol=1e-6)


# Devices


ONE_EACH = {
    "fsdp": {"all-to-all": 2},
    "tensor parallel": {"all-to-all": 2},
    "replicated": {"all-gather": 1},
    "rows and columns": {"all-to-all": 2},
}
QUICK = ("fsdp, auto", "replicated, auto")
SPLIT_ONCE = ("fsdp", "tensor parallel", "replicated")
LONG = (
    "rows and columns, auto, 2D",
    "rows and columns, explicit, 2D",
    *(
        f"{split}, {axes}{mesh}"
        for split in SPLIT_ONCE
        for axes in ("auto", "explicit")
        for mesh in ("", ", 2D")
    ),
)


@pytest.mark.parametrize("layouts", [QUICK, pytest.param(LONG, marks=pytest.mark.long)], ids=["quick", "all"])
def test_matrices_move_once_in_and_once_out_and_each_is_computed_on_one_device(program, layouts):
    found = program("tests.primitives.muon_devices", *layouts, devices=8)
    for layout, row in found.items():
        split = layout.split(", ")[0]
        # Axes whose use is not known are exchanged one by one, as are those of rows and columns.
        axes = 2 if layout.endswith("auto, 2D") or split == "rows and columns" else 1
        expected = {kind: axes * n * muon_devices.GROUPS for kind, n in ONE_EACH[split].items()}
        assert row["collectives"] == expected, layout
        assert row["difference"] < 1e-6, layout
        assert row["work"] < 0.45, layout  # a third, of three matrices of each group, and what is not a product


@pytest.mark.long
def test_layers_that_are_split_stay_where_they_are(program):
    row = program("tests.primitives.muon_devices", "layers, explicit", devices=8)["layers, explicit"]
    assert row["collectives"] == {} and row["difference"] < 1e-6 and row["work"] < 0.15


@pytest.mark.parametrize("method", ["muon", "normuon"])
def test_rows_and_columns_may_be_split_by_explicit_axes(program, method):
    assert program("tests.primitives.rows_and_columns", method, devices=8)[method] < 1e-6
