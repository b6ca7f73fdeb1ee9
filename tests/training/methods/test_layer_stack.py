"""Layers are found, counted and doubled, however a model stores them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.training.methods.layer_stack import Place, Stack


class Parts(NamedTuple):
    encoder: dict
    decoder: dict


TREES = {
    "a list": ({"layers": [1.0, 2.0], "head": 9.0}, {"layers": [1.0, 2.0, 1.0, 2.0], "head": 9.0}),
    "a tuple": ({"h": (1.0, 2.0)}, {"h": (1.0, 2.0, 1.0, 2.0)}),
    "integers": ({"layers": {0: {"w": 1.0}}}, {"layers": {0: {"w": 1.0}, 1: {"w": 1.0}}}),
    "digits": ({"blocks": {"0": 1.0, "1": 2.0}}, {"blocks": {"0": 1.0, "1": 2.0, "2": 1.0, "3": 2.0}}),
    "names": (
        {"encoderblock_0": {"w": 1.0}, "norm": 3.0, "encoderblock_1": {"w": 2.0}},
        {"norm": 3.0} | {f"encoderblock_{i}": {"w": 1.0 + i % 2} for i in range(4)},
    ),
    "two stacks": (
        Parts({"layers": [1.0]}, {"layers": [2.0], "norm": 3.0}),
        Parts({"layers": [1.0, 1.0]}, {"layers": [2.0, 2.0], "norm": 3.0}),
    ),
    "layers in a layer": (
        {"layers": [{"experts": {"layer_0": 1.0}}]},
        {"layers": [{"experts": {"layer_0": 1.0}}] * 2},
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_copies_are_appended(name):
    tree, doubled = TREES[name]
    assert Stack().doubled(tree) == doubled
    assert 2 * Stack().depth(tree) == Stack().depth(doubled)
    sources = {
        jax.tree_util.keystr(new): jax.tree_util.keystr(old) for new, old in Stack().sources(tree).items()
    }
    values = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    for path, value in jax.tree_util.tree_leaves_with_path(doubled):
        assert values[sources[jax.tree_util.keystr(path)]] == value


def test_ten_layers_and_more_are_copied_in_their_order():
    tree = {"layers": {str(i): float(i) for i in range(12)}}
    doubled = Stack().doubled(tree)["layers"]
    assert doubled == {str(i): float(i % 12) for i in range(24)}


def test_stacked_layers_are_doubled_along_their_axis():
    stack = Stack(scanned={"^layers/": 1})
    tree = {"layers": {"w": jnp.arange(6.0).reshape(3, 2)}, "head": jnp.ones(2)}
    doubled = stack.doubled(tree)
    np.testing.assert_array_equal(doubled["layers"]["w"], np.tile(np.arange(6.0).reshape(3, 2), 2))
    assert (stack.depth(tree), stack.depth(doubled)) == (2, 4)
    assert list(stack.places(tree).values()) == [Place(None, None), Place(None, 1)]
    assert all(new == old for new, old in stack.sources(tree).items())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"head": 1.0}, r"got {} where paths match .* or are scanned, among head"),
        ({"layers": {1: 1.0, 2: 1.0}}, r"must be numbered from 0, .* got {'layers/': 2}"),
        (
            {"encoder": {"layers": [1.0]}, "decoder": {"layers": [1.0] * 2}},
            "all stacks equally deep, got {'decoder/layers/': 2, 'encoder/layers/': 1}",
        ),
    ],
)
def test_a_tree_without_a_stack_is_refused(tree, message):
    for ask in (Stack().depth, Stack().doubled):
        with pytest.raises(ValueError, match=message):
            ask(tree)


def test_a_container_that_cannot_be_extended_is_refused():
    class Model:
        def __init__(self, layers):
            self.layers = layers

    jax.tree_util.register_pytree_with_keys(
        Model,
        lambda model: ([(jax.tree_util.GetAttrKey("layers"), model.layers)], None),
        lambda _, children: Model(*children),
    )
    with pytest.raises(ValueError, match="the layers must lie in dicts, lists or tuples"):
        Stack().doubled(Model([1.0, 2.0]))


def test_a_pattern_without_an_index_is_refused():
    with pytest.raises(ValueError, match="layers must have one group, the layer's index, got 'layers'"):
        Stack("layers")
