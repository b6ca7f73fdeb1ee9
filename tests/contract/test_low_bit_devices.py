"""Low-bit state and stochastic rounding are the same on one device and on eight, also across a block."""

import pytest


@pytest.mark.long
def test_every_layout_on_eight_devices_stores_what_one_does(program):
    report = program("tests.contract.low_bit_devices", devices=8)
    assert report.keys() == {"with_sharded_parameters", "with_explicit_axes", "with_pmap"}
    for layout, by_format in report.items():
        assert by_format.keys() == {"int8", "int4", "bfloat16"}
        for fmt, differing in by_format.items():
            # Compiled apart, sums differ in their last bit, and one in thousands then rounds to another code.
            assert differing < 2e-3, (layout, fmt)
