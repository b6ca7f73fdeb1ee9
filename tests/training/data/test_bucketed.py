"""Batches of similar lengths neither lose nor repeat an example, and a run on them resumes bit for bit."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import training
from tests.training import tiny

N, T = 53, 12
LENGTHS = np.random.default_rng(0).integers(1, T + 1, N)
IDS = np.where(np.arange(T) < LENGTHS[:, None], np.arange(1, N + 1)[:, None] * 100 + np.arange(T), 0)
ARRAYS = {"ids": IDS.astype(np.float32), "row": np.arange(N)}
BOUNDS = [3, 6, 12]


def bucketed(batch_size=4, seed=0, share=(0, 1), bounds=BOUNDS, **arrays):
    given = {"batch_size": batch_size, "seed": seed, "share": share, "sequences": ["ids"]}
    return training.Bucketed(ARRAYS | arrays, LENGTHS, bounds, **given)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 53, 60])
def test_every_epoch_holds_every_example_once_and_whole(batch_size):
    batches = bucketed(batch_size)
    assert batches.steps_per_epoch == -(-N // batch_size)
    orders = []
    for epoch in range(3):
        rows = []
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            batch = batches(step)
            length = batch["ids"].shape[1]
            assert batch["ids"].shape == (batch_size, length) and length in batches.bounds
            assert (LENGTHS[batch["row"]] <= length).all()
            np.testing.assert_array_equal(batch["ids"], ARRAYS["ids"][batch["row"], :length])
            rows += batch["row"][batch["weight"] > 0].tolist()
            assert set(batch["weight"]) <= {0.0, 1.0}
        assert sorted(rows) == list(range(N))
        orders.append(rows)
    assert orders[0] != orders[1] != orders[2]


def test_what_does_not_fill_a_batch_goes_on_into_the_next_bucket():
    # Of 5, 4 and 2 examples: the fifth short one is in a batch of length 6, and that of 12 has three rows.
    lengths = np.array([3, 3, 1, 2, 3, 4, 5, 6, 6, 7, 12])
    ids = np.ones((11, 12), np.float32)
    batches = training.Bucketed({"ids": ids}, lengths, BOUNDS, batch_size=4, seed=1, sequences=["ids"])
    found = sorted((batch["ids"].shape[1], batch["weight"].sum()) for batch in map(batches, range(3)))
    assert found == [(3, 4), (6, 4), (12, 3)]
    assert batches.padding == pytest.approx(1 - lengths.sum() / (3 * 4 + 6 * 4 + 12 * 3))
    assert [batch["ids"].shape[1] for batch in batches.one_of_each()] == batches.bounds == BOUNDS


def test_a_batch_depends_on_seed_and_step_alone_on_any_machine():
    forward = bucketed(seed=5)
    expected = [forward(step)["row"].tolist() for step in range(30)]
    backward = bucketed(seed=5)
    assert [backward(step)["row"].tolist() for step in reversed(range(30))] == expected[::-1]
    other = bucketed(seed=6)
    assert [other(step)["row"].tolist() for step in range(30)] != expected
    assert [batch["row"].tolist() for batch in map(bucketed(seed=0), range(3))] == GOLDEN


GOLDEN = [[37, 20, 38, 52], [9, 45, 18, 21], [14, 15, 1, 17]]


def test_the_shares_of_a_batch_are_the_batch():
    whole = bucketed(6)
    for parts in (2, 3):
        shares = [bucketed(6, share=(part, parts)) for part in range(parts)]
        for step in range(2 * whole.steps_per_epoch):
            for name, array in whole(step).items():
                np.testing.assert_array_equal(np.concatenate([share(step)[name] for share in shares]), array)


def test_weights_of_examples_are_kept():
    weight = np.linspace(1, 2, N).astype(np.float32)
    batches = bucketed(7, weight=weight)
    for step in range(batches.steps_per_epoch):
        batch = batches(step)
        real = batch["weight"] > 0
        np.testing.assert_array_equal(batch["weight"][real], weight[batch["row"][real]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bounds": []}, r"bounds must be lengths of at least 1 that ascend, got \[\]"),
        ({"bounds": [6, 3, 12]}, r"bounds must be lengths of at least 1 that ascend, got \[6, 3, 12\]"),
        ({"bounds": [3, 6]}, r"bounds must reach the longest example, 12, got \[3, 6\]"),
        (
            {"bounds": [3, 20]},
            r"sequences must name arrays \[N, T, …\] with T ≥ 20, got 'ids' of shape \[53, 12\]",
        ),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"share": (0, 3)}, r"n a divisor of 4, got \(0, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        bucketed(**changes)


def task(batches, traces=()):
    """The mean of the tokens of a row, times a parameter, is to be 1; what is padding does not count."""

    def loss(params, batch, key):
        traces.append(batch["ids"].shape) if isinstance(traces, list) else None
        real = batch["ids"] > 0
        mean = jnp.sum(jnp.where(real, batch["ids"] / 5300, 0), 1) / real.sum(1)
        return (params["w"] * mean - 1) ** 2

    return training.Task(lambda key: {"w": jnp.ones(())}, loss, batches)


def test_a_run_compiles_a_step_for_each_length_and_resumes_bit_for_bit(tmp_path):
    traces = []
    settings = tiny.settings(steps=20, log_every=1, evaluate_every=0, save_every=7)
    given = {"identity": {}}
    whole = training.fit(task(bucketed(), traces), optax.adam(0.1), settings, tmp_path / "whole", **given)
    assert sorted(traces) == [(4, bound) for bound in BOUNDS]

    batches = bucketed()
    training.fit(
        task(batches), optax.adam(0.1), tiny.settings(steps=9, evaluate_every=0), tmp_path / "parts", **given
    )
    parts = training.fit(task(batches), optax.adam(0.1), settings, tmp_path / "parts", resume=True, **given)
    assert parts.params["w"].tolist() == whole.params["w"].tolist()
    losses = [[row["loss"] for row in result.history if "loss" in row] for result in (whole, parts)]
    assert losses[0] == losses[1] and len(losses[0]) == 20

    # The same batches, padded to one length.
    def uncut(step):
        batch = batches(step)
        return batch | {"ids": ARRAYS["ids"][batch["row"]]}

    one = training.fit(task(uncut), optax.adam(0.1), settings, tmp_path / "one", **given)
    np.testing.assert_allclose(one.params["w"], whole.params["w"], rtol=1e-5)


def test_what_charges_or_selects_by_one_shape_is_refused(tmp_path):
    methods = training.Methods(selection=training.SelectiveBackprop(batch=2))
    with pytest.raises(ValueError, match=r"cannot be Bucketed, of several shapes, with Methods\(selection=\)"):
        training.fit(task(bucketed()), optax.adam(0.1), tiny.settings(), tmp_path, identity={}, methods=methods)
