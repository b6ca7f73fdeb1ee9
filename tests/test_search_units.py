import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from optimiz import groups
from optimiz.groups.units import query_key_value, search_units, units_by

# The layers of the units between the embeddings and the head, by the number of layers and of units: for 12 and
# 10 the authors' table, the rest by their rule.
TABLES = {
    (12, 10): [[0, 1], [2], [3, 4], [5], [6, 7], [8], [9, 10], [11]],
    (12, 14): [[i] for i in range(12)],
    (12, 3): [list(range(12))],
    (6, 8): [[i] for i in range(6)],
    (6, 6): [[0, 1], [2], [3, 4], [5]],
    (6, 5): [[0, 1], [2, 3], [4, 5]],
    (6, 3): [list(range(6))],
}


def model(layers):
    return {"embeddings": 1.0, "layers": [{"w": 1.0} for _ in range(layers)], "pooler": 1.0, "head": 1.0}


def stacked(layers, axis=0):
    """The same model, its layers in one array."""
    shape = (layers, 2, 3) if axis == 0 else (2, layers, 3)
    return {
        "embeddings": jnp.ones(2),
        "layers": {"w": jnp.ones(shape)},
        "pooler": jnp.ones(2),
        "head": jnp.ones(2),
    }


def units_of_layers(units, layers):
    return [layer["w"] for layer in search_units(units)(model(layers))["layers"]]


@pytest.mark.parametrize(("layers", "units"), TABLES)
def test_tables(layers, units):
    labels = search_units(units)(model(layers))
    table = TABLES[layers, units]
    for unit, members in enumerate(table, start=1):
        assert [i for i, layer in enumerate(labels["layers"]) if layer["w"] == unit] == members
    assert labels["embeddings"] == 0
    assert labels["head"] == labels["pooler"] == units - 1


@pytest.mark.parametrize("layers", [1, 6, 12, 36])
def test_every_number_of_units_gives_each_some_layers_and_no_two_by_more_than_one(layers):
    for units in range(3, layers + 3):
        found = units_of_layers(units, layers)
        assert found == sorted(found)
        _, sizes = np.unique(found, return_counts=True)
        assert len(sizes) == units - 2
        assert sizes.max() - sizes.min() <= 1


def test_ends_are_rounded_up_in_integers():
    # In floating point 36 / 28 · 21 is a little more than 27.
    assert np.ceil(36 / 28 * 21) == 28
    found = units_of_layers(30, 36)
    assert found[26:28] == [21, 22]
    for unit in range(1, 29):
        first, end = -(-36 * (unit - 1) // 28), -(-36 * unit // 28)
        assert found[first:end] == [unit] * (end - first)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("layers", "units"), TABLES)
def test_stacked_layers_have_the_units_of_their_unstacked_twins(layers, units, axis):
    params = stacked(layers, axis)
    labels = search_units(units, scanned={"^layers/": axis})(params)
    assert (
        np.broadcast_to(labels["layers"]["w"], params["layers"]["w"].shape).shape == params["layers"]["w"].shape
    )
    assert np.ravel(labels["layers"]["w"]).tolist() == units_of_layers(units, layers)
    assert np.shape(labels["layers"]["w"])[axis if axis == 0 else -2] == layers
    assert (labels["embeddings"], labels["pooler"], labels["head"]) == (0, units - 1, units - 1)


def test_layers_are_known_by_their_own_expression():
    labels = search_units(4, layers=r"stage(\d+)/", embeddings=groups.path("^stem"))(
        {"stem": 1.0, "stage0": {"w": 1.0}, "stage1": {"w": 1.0}, "classifier": 1.0}
    )
    assert labels == {"stem": 0, "stage0": {"w": 1}, "stage1": {"w": 2}, "classifier": 3}


@pytest.mark.parametrize(
    ("units", "error", "message"),
    [
        (2, ValueError, r"units must be in \[3, .*\], got 2"),
        (3.0, TypeError, "units must be an integer, got 3.0"),
    ],
)
def test_refuses_a_bad_number_of_units(units, error, message):
    with pytest.raises(error, match=message):
        search_units(units)


def test_refuses_an_expression_without_its_group():
    with pytest.raises(ValueError, match="layers must have one group"):
        search_units(3, layers="layer")


def test_refuses_more_units_than_layers_and_two():
    with pytest.raises(ValueError, match="units must be at most 8, two more than there are layers, got 9"):
        search_units(9)(model(6))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"embeddings": 1.0, "head": 1.0}, "no layer found"),
        ({"layers": [1.0], "head": 1.0}, "unit 0, embeddings, would be empty; there are"),
        ({"embeddings": 1.0, "layers": [1.0]}, "unit 2, the head, would be empty; there are"),
    ],
)
def test_refuses_a_unit_without_a_parameter(params, message):
    with pytest.raises(ValueError, match=message):
        search_units(3)(params)


def test_units_by_takes_the_first_rule_and_then_the_rest():
    params = {"kernel": {"query": 1.0}, "query": 1.0, "other": 1.0}
    rules = groups.path("^kernel"), groups.path("query")
    assert units_by(*rules)(params) == {"kernel": {"query": 0}, "query": 1, "other": 2}
    assert units_by(*rules, rest=False)(params) == {"kernel": {"query": 0}, "query": 1, "other": -1}


def test_units_by_refuses_no_rule_and_a_rule_that_covers_nothing():
    with pytest.raises(ValueError, match="units_by needs at least one rule"):
        units_by()
    with pytest.raises(ValueError, match="missing"):
        units_by(groups.path("missing"))({"x": 1.0})


def test_query_key_value_on_flax_attention():
    x = jnp.ones((1, 2, 4))
    params = nn.MultiHeadDotProductAttention(num_heads=2).init(jax.random.key(0), x)["params"]
    labels = query_key_value(params)
    by_name = {name: set(leaves.values()) for name, leaves in labels.items()}
    assert by_name == {"query": {0}, "key": {1}, "value": {2}, "out": {3}}


@pytest.mark.parametrize(
    "names",
    [("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"), ("wq", "wk", "wv")],
)
def test_query_key_value_on_names_of_other_models(names):
    attention = {name: {"kernel": 1.0} for name in names}
    labels = query_key_value({"layer": {"0": {"attention": attention, "output": 1.0}}, "head": 1.0})
    inner = labels["layer"]["0"]
    assert [inner["attention"][name]["kernel"] for name in names] == [0, 1, 2]
    assert inner["output"] == labels["head"] == 3


def test_query_key_value_refuses_fused_projections():
    with pytest.raises(ValueError, match="query"):
        query_key_value({"attention": {"qkv": 1.0, "out": 1.0}})
