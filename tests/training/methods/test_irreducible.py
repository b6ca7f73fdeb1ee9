"""Irreducible losses are found by id, and missing ones are named."""

import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import training
from optimiz.training import IrreducibleLosses


def table(ids=(5, 2, 9), losses=(0.5, 0.2, 0.9), **about):
    return IrreducibleLosses(np.array(ids), np.array(losses), about)


def test_comes_back_from_its_file(tmp_path):
    path = tmp_path / "irreducible.npz"
    table(model="held-out", steps=100).write(path)
    back = IrreducibleLosses.read(path)
    assert back.about == {"model": "held-out", "steps": 100}
    np.testing.assert_array_equal(back.ids, [2, 5, 9])
    np.testing.assert_array_equal(back.losses, np.float32([0.2, 0.5, 0.9]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["irreducible.npz"]


def test_losses_are_those_of_evaluation_by_id_without_the_padding():
    def loss(params, batch, key):
        assert key is None
        return params["w"] * batch["x"]

    arrays = {"x": np.arange(5, dtype=np.float32), "id": np.arange(50, 55)}
    batches = training.padded(arrays, 2)
    found = IrreducibleLosses.measure(loss, {"w": jnp.float32(2)}, batches, {})
    np.testing.assert_array_equal(found.of(np.array([54, 50, 52])), np.float32([8, 0, 4]))
    assert len(found.ids) == 5


def test_batches_get_them_by_id():
    def batches(step):
        return {"id": np.array([9, 5, 77]) + 0 * step, "weight": np.array([1.0, 1.0, 0.0], np.float32)}

    batch = table().joined(batches)(3)
    np.testing.assert_array_equal(batch["irreducible"], np.float32([0.9, 0.5, 0.0]))
    assert batch["irreducible"].dtype == np.float32 and set(batch) == {"id", "weight", "irreducible"}


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no irreducible losses for the examples 3, 70$"):
        table().of(np.array([5, 3, 9, 70]))
    with pytest.raises(ValueError, match="examples 10, 11, 12, 13, 14 and 5 more"):
        table().of(np.arange(10, 20))
    with pytest.raises(ValueError, match="for the examples 1"):
        IrreducibleLosses(np.zeros(0, int), np.zeros(0), {}).of(np.array([1]))
    with pytest.raises(ValueError, match=r"must have an entry 'id' with the ids of the examples, got \['x'\]"):
        table().joined(lambda step: {"x": np.zeros(2)})(0)
    with pytest.raises(ValueError, match=r"no irreducible losses at .*nowhere.npz: IrreducibleLosses.measure"):
        IrreducibleLosses.read(tmp_path / "nowhere.npz")


def test_a_truncated_file_or_one_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "irreducible.npz"
    table().write(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", ids=np.arange(2))
    for content in [whole[:size] for size in range(0, len(whole) - 1, 50)] + [
        b"text",
        (tmp_path / "other.npz").read_bytes(),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"irreducible\.npz does not hold irreducible losses: "):
            IrreducibleLosses.read(path)


@pytest.mark.parametrize(
    ("ids", "losses", "message"),
    [
        ([1, 2], [0.5], r"ids must be integers \[N\] and losses \[N\], got int64\[2\] and float64\[1\]"),
        ([1.0, 2.0], [0.5, 0.5], "ids must be integers"),
        ([3, 1, 3], [0.1, 0.2, 0.3], "ids must each have one finite loss; 3 is there twice"),
        ([3, 1], [0.1, np.nan], "1 is there with a loss that is not finite"),
    ],
)
def test_an_invalid_table_is_refused(ids, losses, message):
    with pytest.raises(ValueError, match=message):
        table(ids, losses)
