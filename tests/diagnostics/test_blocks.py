import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict

from optimiz import groups
from optimiz.diagnostics.blocks import block_names, by_layer, by_tensor, partition
from optimiz.groups.kinds import kinds

X = np.arange(1.0, 25.0, dtype=np.float32)
TREE = {
    "embed": jnp.asarray(X[:6]).reshape(3, 2),
    "head": {"bias": jnp.asarray(X[:2]), "kernel": jnp.asarray(X[:4]).reshape(2, 2)},
    "layers": [{"attention": {"q": jnp.asarray(X[i : i + 4]).reshape(2, 2)}} for i in (3, 9)],
}
STACKED = TREE | {"layers": {"attention": {"q": jnp.stack([x["attention"]["q"] for x in TREE["layers"]])}}}
SCANNED = {"^layers/": 0}


def norms(tree, blocks):
    cut = partition(tree, blocks)
    return dict(zip(cut.names, cut.norms(tree).tolist(), strict=True))


def norm(*arrays):
    return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays)))


def test_one_block_per_tensor():
    wanted = {
        "embed": norm(X[:6]),
        "head/bias": norm(X[:2]),
        "head/kernel": norm(X[:4]),
        "layers/0/attention/q": norm(X[3:7]),
        "layers/1/attention/q": norm(X[9:13]),
    }
    assert norms(TREE, None) == pytest.approx(wanted, rel=1e-6) == norms(TREE, by_tensor())
    assert partition(TREE).sizes.tolist() == [6, 2, 4, 4, 4]


def test_one_block_per_layer_of_a_stack():
    got = norms(STACKED, by_tensor(SCANNED))
    twin = norms(TREE, None)
    for i in (0, 1):
        assert got[f"layers/attention/q[{i}]"] == pytest.approx(twin[f"layers/{i}/attention/q"], rel=1e-6)
    assert partition(STACKED, by_tensor(SCANNED)).sizes.tolist() == [6, 2, 4, 4, 4]
    assert len(norms(STACKED, None)) == 4


@pytest.mark.quick(2)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layers_may_be_stacked_along_any_axis(axis):
    tree = {"layers": jnp.moveaxis(jnp.asarray(X).reshape(3, 2, 4), 0, axis)}
    got = norms(tree, by_tensor({"layers": axis}))
    wanted = {f"layers[{i}]": norm(X[8 * i : 8 * i + 8]) for i in range(3)}
    assert got == pytest.approx(wanted, rel=1e-6)


def test_by_layer_of_the_stack_and_of_its_twin():
    wanted = {"outside": norm(X[:6], X[:2], X[:4]), "layer_0": norm(X[3:7]), "layer_1": norm(X[9:13])}
    assert norms(TREE, by_layer()) == pytest.approx(wanted, rel=1e-6)
    assert norms(STACKED, by_layer(SCANNED)) == pytest.approx(wanted, rel=1e-6)
    assert partition(TREE, by_layer()).sizes.tolist() == [12, 4, 4]


def test_by_labels_rules_kinds_and_trees():
    wanted = {"embedding": norm(X[:6]), "head": norm(X[:2], X[:4]), "q": norm(X[3:7], X[9:13])}
    assert norms(TREE, kinds) == pytest.approx(wanted, rel=1e-6) == norms(STACKED, kinds)
    assert norms(TREE, kinds(TREE)) == pytest.approx(wanted, rel=1e-6)
    assert norms(TREE, {"embed": "embedding", "head": "head", "layers": "q"}) == pytest.approx(wanted)
    labels = groups.label({"head": groups.path("^head/"), "body": groups.everything})
    assert block_names(TREE, labels) == ("body", "head")
    assert block_names(TREE, groups.biases) == ("False", "True")
    together = norms(TREE, lambda tree: jax.tree.map(lambda _: "all", tree))
    assert together == {"all": pytest.approx(float(optax.tree.norm(TREE)), rel=1e-6)}


def test_containers_holes_and_empty_parameters():
    wanted = norms(TREE, None)
    state = nnx.State(jax.tree.map(nnx.Param, TREE | {"layers": dict(enumerate(TREE["layers"]))}))
    assert norms(FrozenDict(TREE), None) == wanted == norms(state, None)
    holed = TREE | {"embed": optax.MaskedNode(), "none": None, "empty": jnp.zeros((0, 3))}
    assert norms(holed, None) == {name: x for name, x in wanted.items() if name != "embed"}
    assert norms({"empty": jnp.zeros((0, 3)), "a": jnp.ones(1)}, groups.everything) == {"True": 1.0}
    assert norms({"a": jnp.array(-3.0)}, None) == {"a": 3.0}
    assert norms(jnp.array([3.0, 4.0]), None) == {"": 5.0}
    assert block_names({}) == block_names({"a": optax.MaskedNode()}) == ()


def test_the_norm_is_that_of_float32_and_has_the_range_of_its_entries():
    tree = {"a": jnp.full(10_000, 3.0, jnp.bfloat16), "b": jnp.full(4, 60000.0, jnp.float16)}
    cut = partition(tree)
    assert cut.norms(tree).dtype == jnp.float32
    np.testing.assert_allclose(cut.norms(tree), [300.0, 2 * float(jnp.float16(60000))], rtol=1e-6)
    tree = {"a": jnp.array([3e30]), "b": jnp.array([4e30]), "c": jnp.array([3e-30, 4e-30])}
    cut = partition(tree, {"a": "ab", "b": "ab", "c": "c"})
    np.testing.assert_allclose(cut.norms(tree), [5e30, 5e-30], rtol=1e-6)
    assert cut.norms({"a": jnp.array([3 + 4j]), "b": jnp.zeros(1), "c": jnp.zeros(2)}).tolist() == [5, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_block_that_is_not_finite_spoils_no_other(bad):
    tree = TREE | {"embed": TREE["embed"].at[1, 1].set(bad)}
    got, wanted = norms(tree, kinds), norms(TREE, kinds)
    assert np.isnan(got.pop("embedding"))
    assert got == {name: wanted[name] for name in got} and len(got) == 2


def test_names_and_sizes_are_static():
    shapes = jax.eval_shape(lambda: STACKED)
    assert block_names(shapes, by_tensor(SCANNED)) == block_names(STACKED, by_tensor(SCANNED))
    got = jax.jit(lambda tree: partition(tree, by_layer(SCANNED)).norms(tree))(STACKED)
    np.testing.assert_array_equal(got, partition(STACKED, by_layer(SCANNED)).norms(STACKED))


def test_mistakes():
    with pytest.raises(ValueError, match="the scanned pattern '\\^blocks' matches no parameter"):
        block_names(TREE, by_tensor({"^blocks": 0}))
    with pytest.raises(ValueError, match=r"the labels of embed have shape \(4, 1\), but its own is \(3, 2\)"):
        block_names({"embed": TREE["embed"]}, {"embed": np.array([["a"]] * 4)})
    with pytest.raises(ValueError, match=r"the labels of embed have shape \(3,\), but its own is \(3, 2\)"):
        block_names({"embed": TREE["embed"]}, {"embed": np.array(["a"] * 3)})
    with pytest.raises(ValueError):
        block_names(TREE, {"embed": "a"})
    with pytest.raises(ValueError, match="layers must have one group, the layer's index, got 'layers_'"):
        by_layer(layers="layers_")
