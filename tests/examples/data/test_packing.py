import numpy as np
import pytest

from examples.data.packing import pack


def stream(*ids):
    return np.array(ids, np.int32)


def test_every_token_is_there_once_in_order():
    rows = pack(stream(1, 2, 3, 9, 9, 4, 5, 9), length=2)
    assert rows.ravel().tolist() == [1, 2, 3, 9, 9, 4, 5, 9]
    assert rows.dtype == np.int32


def test_with_an_overlap_every_token_but_the_first_is_told_once():
    rows = pack(stream(*range(11)), length=4, overlap=1)
    assert rows[:, 1:].ravel().tolist() == list(range(1, 10))
    assert rows[:, 0].tolist() == [0, 3, 6]


def test_rows_are_read_from_a_file_when_they_are_taken(tmp_path):
    np.arange(1000, dtype=np.int32).tofile(tmp_path / "ids")
    ids = np.memmap(tmp_path / "ids", np.int32, mode="r")
    rows = pack(ids, length=10, overlap=1)
    assert np.shares_memory(rows, ids) and rows[[3, 0]].tolist() == [[*range(27, 37)], [*range(10)]]


def test_less_than_a_row_is_refused():
    assert pack(stream(1, 2, 0), length=3).shape == (1, 3)
    with pytest.raises(ValueError, match="must have the 4 tokens of a row, got 3"):
        pack(stream(1, 2, 0), length=4)


@pytest.mark.parametrize("overlap", [-1, 3, 4])
def test_an_overlap_that_would_never_end_is_refused(overlap):
    with pytest.raises(ValueError, match=rf"overlap must be in \[0, 3\), got {overlap}"):
        pack(stream(1, 2, 3, 4, 0), length=3, overlap=overlap)
