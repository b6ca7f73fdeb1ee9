import numpy as np
import pytest

from examples.data.packing import pack


def test_every_token_is_there_once_in_order():
    documents = [[1, 2, 3], [], [4, 5]]
    rows = pack(documents, end=9, length=2)
    assert rows.ravel().tolist() == [1, 2, 3, 9, 9, 4, 5, 9]
    assert rows.dtype == np.int32


def test_with_an_overlap_every_token_but_the_first_is_told_once():
    rows = pack([list(range(10))], end=10, length=4, overlap=1)
    assert rows[:, 1:].ravel().tolist() == list(range(1, 10))
    assert rows[:, 0].tolist() == [0, 3, 6]


def test_less_than_a_row_is_refused():
    assert pack([[1, 2]], end=0, length=3).shape == (1, 3)
    with pytest.raises(ValueError, match="must have the 4 tokens of a row, got 3"):
        pack([[1, 2]], end=0, length=4)


@pytest.mark.parametrize("overlap", [-1, 3, 4])
def test_an_overlap_that_would_never_end_is_refused(overlap):
    with pytest.raises(ValueError, match=rf"overlap must be in \[0, 3\), got {overlap}"):
        pack([[1, 2, 3, 4]], end=0, length=3, overlap=overlap)


def test_no_documents():
    with pytest.raises(ValueError, match="there are no documents"):
        pack([], end=0, length=3)
