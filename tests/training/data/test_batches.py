"""Shuffled batches neither lose nor repeat an example; padded batches keep the mean exact."""

import numpy as np
import pytest

from optimiz.training import mean_loss, padded, shuffled

ARRAYS = {"x": np.arange(10) * 1.5, "row": np.arange(10)}


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_every_epoch_holds_every_example_once(batch_size):
    batch = shuffled(ARRAYS, batch_size, seed=0)
    rows = np.concatenate([batch(step)["row"] for step in range(30 // batch_size + 1)])
    epochs = rows[:30].reshape(3, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_batch_depends_on_seed_and_step_alone():
    forward = shuffled(ARRAYS, 4, seed=5)
    expected = [forward(step)["row"].tolist() for step in range(8)]
    backward = shuffled(ARRAYS, 4, seed=5)
    assert [backward(step)["row"].tolist() for step in reversed(range(8))] == expected[::-1]
    other = shuffled(ARRAYS, 4, seed=6)
    assert [other(step)["row"].tolist() for step in range(8)] != expected


def test_the_order_does_not_change_between_versions():
    batch = shuffled(ARRAYS, 10, seed=0)
    assert batch(0)["row"].tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]


def test_entries_stay_together():
    batch = shuffled(ARRAYS, 4, seed=0)(3)
    np.testing.assert_array_equal(batch["x"], batch["row"] * 1.5)
    assert batch["x"].dtype == ARRAYS["x"].dtype


def test_the_shares_of_a_batch_are_the_batch():
    whole = shuffled(ARRAYS, 6, seed=0)
    for parts in (2, 3):
        shares = [shuffled(ARRAYS, 6, 0, (part, parts)) for part in range(parts)]
        for step in range(4):
            rows = np.concatenate([share(step)["row"] for share in shares])
            np.testing.assert_array_equal(rows, whole(step)["row"])


@pytest.mark.parametrize("share", [(0, 4), (2, 2), (-1, 2)])
def test_unequal_shares_are_refused_with_the_numbers(share):
    with pytest.raises(ValueError, match=rf"n a divisor of 6, got \({share[0]}, {share[1]}\)"):
        shuffled(ARRAYS, 6, 0, share)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_padded_batches_hold_every_example_in_order_and_the_exact_mean(batch_size):
    batches = padded(ARRAYS, batch_size)
    rows = np.concatenate([batch["row"][batch["weight"] > 0] for batch in batches])
    np.testing.assert_array_equal(rows, np.arange(10))
    assert {batch["x"].shape for batch in batches} == {(batch_size,)}
    weights = [batch["weight"].sum() for batch in batches]
    means = [float(mean_loss(np.float32(batch["x"]), batch)) for batch in batches]
    assert np.average(means, weights=weights) == pytest.approx(ARRAYS["x"].mean(), rel=1e-6)


def test_padding_keeps_existing_weights():
    weight = np.array([2.0, 0.0, 4.0], np.float32)
    [batch] = padded({"x": np.arange(3), "weight": weight}, 4)
    assert batch["weight"].tolist() == [2, 0, 4, 0]
    assert batch["weight"].dtype == np.float32


@pytest.mark.parametrize("make", [lambda a, b: shuffled(a, b, 0), padded])
@pytest.mark.parametrize(
    ("arrays", "batch_size", "message"),
    [
        (ARRAYS, 0, "batch_size must be at least 1, got 0"),
        ({}, 1, "at least one array"),
        ({"x": np.zeros((0, 3))}, 1, r"at least one example, got none in \['x'\]"),
        ({"x": np.float32(1)}, 1, "at least one example"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, 1, "the same length, got {'x': 3, 'y': 2}"),
    ],
)
def test_bad_arrays_are_refused_by_name(make, arrays, batch_size, message):
    with pytest.raises(ValueError, match=message):
        make(arrays, batch_size)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        shuffled(ARRAYS, 1, seed=-1)
