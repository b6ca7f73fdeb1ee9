"""On eight devices, kernels on their parts make the codes and the noise of the whole array."""

import pytest


@pytest.mark.long
def test_parts_are_updated_as_the_whole(program):
    report = program("tests.numerics.block_kernels.parts", devices=8)
    assert report.keys() == {"tpu", "gpu"}
    for kernel, by_layout in report.items():
        assert by_layout.keys() == {"whole", "across", "ragged", "stacked"}
        for layout, differing in by_layout.items():
            assert differing < 2e-3, (kernel, layout)
