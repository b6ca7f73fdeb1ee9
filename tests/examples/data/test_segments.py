import numpy as np
import pytest

from examples.data.segments import fit, laid_out


@pytest.mark.parametrize("seed", range(3))
def test_pieces_fit_and_each_is_there_once(seed):
    lengths = np.random.default_rng(seed).integers(1, 33, 200).tolist()
    rows = fit(lengths, 32)
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert sorted(i for row in rows for i in row) == list(range(200)) and max(filled) <= 32
    # Best fit, longest first, needs at most 11/9 of the least number of rows, and that one is at least:
    assert len(rows) <= 11 / 9 * -(-sum(lengths) // 32) + 1


def test_pieces_that_do_not_fit_are_refused():
    for length in (0, 9):
        with pytest.raises(ValueError, match=f"a piece must have 1 to 8 tokens, got {length}"):
            fit([3, length], 8)


def test_segments_restart():
    first = np.array([1, 2, 3]), np.array([False, True, True])
    second = np.array([4, 5, 6, 7]), np.array([False, False, True, True])
    arrays = laid_out([first, second], [[1, 0], [0]], 6)
    assert arrays["ids_BT"].tolist() == [[4, 5, 6, 1, 2, 0], [1, 2, 0, 0, 0, 0]]
    assert arrays["targets"].tolist() == [[-1, 6, 7, 2, 3, -1], [2, 3, -1, -1, -1, -1]]
    assert arrays["segments_BT"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]
    assert arrays["positions_BT"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]]
    assert arrays["weight"].tolist() == [4.0, 2.0]
