"""All arrays of a run are laid out as specified from the start, and none is replicated by accident."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz import groups, training
from optimiz.training.distributed import sharding
from optimiz.training.distributed.sharding import Layout, make_mesh
from tests.training import tiny

MESH = AbstractMesh((4, 2), ("data", "model"))
PARAMS = {"w": np.zeros((8, 6), np.float32), "b": np.zeros(6, np.float32), "odd": np.zeros(7, np.float32)}
RULES = groups.label({P(None, "model"): groups.path("^w$"), P(): groups.everything})


def specs(tree):
    return jax.tree.map(lambda sharding: sharding.spec, tree)


def state_specs(layout, tx, params=PARAMS):
    return specs(layout.opt_state(jax.eval_shape(tx.init, params), params))


def test_parameters_are_replicated_or_split_by_their_rule():
    assert specs(Layout(MESH).params(PARAMS)) == {"w": P(), "b": P(), "odd": P()}
    assert specs(Layout(MESH, RULES).params(PARAMS)) == {"w": P(None, "model"), "b": P(), "odd": P()}


def test_state_is_split_like_its_parameter_and_with_zero_along_data_too():
    tx = optax.adam(0.1)
    mu = state_specs(Layout(MESH, RULES), tx)[0].mu
    assert mu == {"w": P(None, "model"), "b": P(), "odd": P()}
    found = state_specs(Layout(MESH, RULES, shard_state=True), tx)[0]
    assert found.nu == {"w": P("data", "model"), "b": P(), "odd": P()} and found.count == P()
    found = state_specs(Layout(MESH, shard_state=True), tx, PARAMS | {"b": np.zeros(8, np.float32)})[0]
    assert found.mu == {"w": P("data", None), "b": P("data"), "odd": P()}


def test_a_dimension_may_be_split_along_both_axes():
    layout = Layout(MESH, lambda params: {"w": P("model", None)}, shard_state=True)
    found = state_specs(layout, optax.trace(0.9), {"w": np.zeros((16, 3), np.float32)})
    assert found.trace == {"w": P(("model", "data"), None)}


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((8, 4096), P("data", None)),
        ((8, 16, 4096), P(None, "data", None)),
        ((7, 4096), P(None, "data")),
        ((4096,), P("data")),
    ],
)
def test_rows_stay_whole_if_another_dimension_is_divisible(shape, spec):
    found = state_specs(Layout(MESH, shard_state=True), optax.trace(0.9), {"w": np.zeros(shape, np.float32)})
    assert found.trace == {"w": spec}


def test_state_of_another_shape_is_split_along_the_same_axes():
    """Factored moments: a row and a column in place of the parameter."""
    params = {"w": np.zeros((256, 128), np.float32)}
    layout = Layout(MESH, lambda params: {"w": P(None, "model")}, shard_state=True)
    shapes = jax.eval_shape(optax.scale_by_factored_rms().init, params)
    found = layout.opt_state(shapes, params)
    for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(found), strict=True):
        shrunk = leaf.size // np.prod(place.shard_shape(leaf.shape), dtype=int)
        assert shrunk == (8 if leaf.size >= 128 else 1), leaf


def test_an_array_without_a_divisible_dimension_is_logged_with_its_shape(caplog):
    layout = Layout(MESH, shard_state=True)
    state = jax.eval_shape(optax.adam(0.1).init, PARAMS)
    with caplog.at_level(logging.WARNING):
        sharding.warn_of_whole(state, layout.opt_state(state, PARAMS))
    # Seven entries on eight devices are not large enough to be worth a word; six are the bias's.
    assert caplog.text == ""
    params = {"odd": np.zeros((7, 9), np.float32)}
    state = jax.eval_shape(optax.adam(0.1).init, params)
    with caplog.at_level(logging.WARNING):
        sharding.warn_of_whole(state, layout.opt_state(state, params))
    assert "every device keeps all of [0].mu['odd'] (7, 9), [0].nu['odd'] (7, 9)" in caplog.text
    assert "count" not in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (P("model"), r"params\['odd'\] has shape \(7,\), and .* dimension 0 into 2: 7 is not divisible"),
        (P(("model", "data")), r"dimension 0 into 8: 7 is not divisible"),
        (P(None, "model"), r"params\['odd'\] has shape \(7,\), which .* cannot split"),
        (P("expert"), r"of params\['odd'\] names axis 'expert'; the mesh has \['data', 'model'\]"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_with_the_numbers(spec, message):
    layout = Layout(MESH, lambda params: {"w": P(), "b": P(), "odd": spec})
    with pytest.raises(ValueError, match=message):
        layout.params(PARAMS)


@pytest.mark.parametrize("description", ["", "data", "data:0", "data:x", "data:4;model:2", ":4", "data:-1"])
def test_a_malformed_description_is_refused(description):
    with pytest.raises(
        ValueError, match=f'a mesh must be described as in "data:4,model:2", got "{description}"'
    ):
        make_mesh(description)


def test_a_mesh_of_the_wrong_number_of_devices_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match='mesh "data:4,model:2" needs 8 devices, got 1'):
        make_mesh("data:4,model:2", jax.devices()[:1])
    with pytest.raises(ValueError, match='the axes of a mesh must have different names, got "data:1,data:1"'):
        make_mesh("data:1,data:1")


def test_one_device_is_the_trivial_mesh(tmp_path):
    layout = Layout(make_mesh("data:1", jax.devices()[:1]), shard_state=True)
    arguments = {"identity": tiny.IDENTITY, "progress": None}
    alone = training.fit(tiny.task(), tiny.optimizer(), tiny.settings(), tmp_path / "alone", **arguments)
    result = training.fit(
        tiny.task(), tiny.optimizer(), tiny.settings(), tmp_path / "mesh", layout=layout, **arguments
    )
    for here, there in zip(result.history, alone.history, strict=True):
        assert here.get("loss", 0) == pytest.approx(there.get("loss", 0), abs=1e-6)
    assert layout.share == (0, 1) and Layout(make_mesh("model:1", jax.devices()[:1])).share == (0, 1)


class _Device:
    def __init__(self, process_index):
        self.process_index = process_index


def test_the_optimizer_sees_the_mesh_of_the_layout(tmp_path):
    seen = []

    def update_fn(updates, state, params=None, **extra):
        seen.append(jax.sharding.get_abstract_mesh().axis_names)
        return updates, state

    tx = optax.chain(optax.sgd(0.1), optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn))
    for layout, names in ((None, ()), (training.Layout(training.make_mesh("data:1")), ("data",))):
        seen.clear()
        training.fit(
            tiny.task(), tx, training.Settings(steps=1), tmp_path / f"{names}", identity={}, layout=layout
        )
        assert set(seen) == {names}


@pytest.mark.parametrize(
    ("processes", "share"),
    [
        ([[0, 0], [0, 0], [1, 1], [1, 1]], (0, 2)),
        ([[1, 1], [0, 0], [2, 2], [3, 3]], (1, 4)),
        ([[1, 0], [1, 0], [1, 0], [1, 0]], (0, 1)),
        ([[0, 1], [0, 1], [2, 3], [2, 3]], (0, 2)),
    ],
)
def test_processes_read_equal_parts(processes, share):
    assert _layout_of(processes).share == share


@pytest.mark.parametrize(
    "processes", [[[0, 1]] * 1 + [[1, 1]] * 2 + [[0, 1]], [[1, 1], [0, 0], [0, 0], [1, 1]]]
)
def test_unequal_parts_are_refused(processes):
    with pytest.raises(ValueError, match=r"process 0 has positions .* of 4 along data; they must be one"):
        _layout_of(processes).share  # noqa: B018


def _layout_of(processes):
    class Mesh:
        shape, axis_names = {"data": 4, "model": 2}, ("data", "model")
        axis_types = (AxisType.Auto,) * 2
        devices = np.array([[_Device(index) for index in row] for row in processes])

    return Layout(Mesh())


def test_bytes_per_device_are_those_of_the_parts():
    tree = {"w": jax.ShapeDtypeStruct((8, 6), jnp.bfloat16), "key": jax.eval_shape(lambda: jax.random.key(0))}
    places = {"w": NamedSharding(MESH, P("data", "model")), "key": NamedSharding(MESH, P())}
    assert training.bytes_per_device(tree, places) == 2 * 3 * 2 + 8


@pytest.mark.survives("resuming on another number of devices")
def test_on_eight_devices(program, tmp_path):
    report = program("tests.training.on_a_mesh", tmp_path, devices=8)
    # Matrices of 16 × 32 and 32 × 4, a bias of 32; AdamW keeps two moments of each, and three counters.
    wide, narrow, bias, counters = 4 * 512, 4 * 128, 4 * 32, 3 * 4
    matrices = wide + narrow
    # In eight bits: a byte an entry and four a row of the wide one; one more counter, and a zero in place of
    # the scales of the other four moments.
    codes, scales, rest = 512, 4 * 16, counters + 5 * 4
    wanted = {
        "data parallel": (
            matrices + bias,
            2 * (matrices + bias) + counters,
            2 * (codes + scales + narrow + bias) + rest,
        ),
        "ZeRO-1": (
            matrices + bias,
            2 * (matrices + bias) // 8 + counters,
            2 * (codes + scales + narrow + bias) // 8 + rest,
        ),
        # On data:4,model:2 the moments of the bias, which is whole, are split in four.
        "split parameters": (
            matrices // 2 + bias,
            2 * (matrices // 8 + bias // 4) + counters,
            2 * ((codes + scales + narrow) // 8 + bias // 4) + rest,
        ),
    }
    for name, (of_parameters, *of_optimizers) in wanted.items():
        for optimizer, of_optimizer in zip(("adamw", "low_bit adamw"), of_optimizers, strict=True):
            found = report["memory"][optimizer][name]
            assert found["parameters"] == [of_parameters] * 8, name
            assert found["optimizer"] == [of_optimizer] * 8, name
            assert found["reckoned"] == [of_parameters, of_optimizer]
            assert found["made"] == found["global"]  # no other copy is left on any device
    # Gradients are reduced once and, with them, the loss; with ZeRO the updates are gathered, and nothing else.
    of_parameters, loss = matrices + bias, 4
    reduced, gathered = {"all-reduce": of_parameters + loss}, {"all-gather": of_parameters}
    for optimizer in ("adamw", "low_bit adamw"):
        assert report["traffic"][optimizer] == {"data parallel": reduced, "ZeRO-1": reduced | gathered}
    assert report["moved"]["same bits"] and report["moved"]["difference"] <= 1e-5
    # In float64, whether a part lies on all devices (2 of 24) or not, and whatever tokens it has.
    assert report["micro-batches"].keys() == {"data parallel", "fully sharded", "tensor parallel"}
    assert max(report["micro-batches"].values()) <= 1e-14
    assert report["refused"] == {
        "batch": "a batch of 12 examples cannot be split along data:8",
        "mesh": 'mesh "data:3" needs 3 devices, got 8',
    }
