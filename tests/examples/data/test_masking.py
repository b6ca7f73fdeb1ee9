import numpy as np
import pytest

from examples.data.masking import mask, predictions

ORDINARY = np.arange(5, 50)
MASK = 4


def batch(rows=400, length=40):
    rows_BT = np.random.default_rng(0).integers(5, 50, (rows, length)).astype(np.int32)
    rows_BT[:, 0], rows_BT[:, -1] = 2, 3
    return rows_BT


def test_what_is_chosen():
    rows_BT = batch()
    hidden = mask(rows_BT, MASK, ORDINARY, seed=0, step=0)
    positions_BP = hidden["positions_BP"]
    assert positions_BP.shape == (400, 6) == (400, predictions(40))
    assert (np.diff(positions_BP, axis=1) > 0).all()
    assert positions_BP.min() >= 1 and positions_BP.max() <= 38  # never the start or the end
    np.testing.assert_array_equal(hidden["targets_BP"], np.take_along_axis(rows_BT, positions_BP, 1))
    elsewhere = np.ones(rows_BT.shape, bool)
    np.put_along_axis(elsewhere, positions_BP.astype(int), False, 1)
    np.testing.assert_array_equal(hidden["ids_BT"][elsewhere], rows_BT[elsewhere])
    counts = np.bincount(positions_BP.ravel(), minlength=39)[1:]
    assert abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


def test_eighty_ten_ten():
    rows_BT = batch(rows=2_000)
    hidden = mask(rows_BT, MASK, ORDINARY, seed=0, step=0)
    written = np.take_along_axis(hidden["ids_BT"], hidden["positions_BP"].astype(int), 1)
    is_mask, stays = written == MASK, written == hidden["targets_BP"]
    n = written.size
    # A random token is the old one in a case of 45.
    for share, expected in ((is_mask, 0.8), (stays, 0.1 + 0.1 / 45)):
        assert abs(share.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    random = written[~is_mask & ~stays]
    assert set(random.tolist()) == set(ORDINARY.tolist())


def test_seed_and_step_decide():
    rows_BT = batch(rows=2)
    first = mask(rows_BT, MASK, ORDINARY, seed=0, step=3)
    for other, same in (((0, 3), True), ((0, 4), False), ((1, 3), False)):
        again = mask(rows_BT, MASK, ORDINARY, *other)
        assert all(np.array_equal(first[name], again[name]) for name in first) == same


def test_a_row_of_special_tokens_still_has_its_number():
    hidden = mask(np.zeros((1, 20), np.int32), MASK, ORDINARY, seed=0, step=0)
    assert len(set(hidden["positions_BP"][0].tolist())) == 3


def test_predictions():
    assert [predictions(length) for length in (1, 8, 128, 512)] == [1, 1, 19, 77]


def test_without_ordinary_tokens_nothing_can_be_hidden():
    with pytest.raises(ValueError, match="ordinary must hold at least one id, got none"):
        mask(batch(rows=1), MASK, np.array([], np.int64), seed=0, step=0)
