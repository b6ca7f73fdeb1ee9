"""What is computed twice in place of being held is the same on one device and on eight."""

import pytest


@pytest.mark.long
def test_every_layout_on_eight_devices_makes_the_updates_of_one(program):
    report = program("tests.contract.lean_devices", devices=8)
    assert report.keys() == {"with_split_rows", "with_split_columns", "with_shard_map", "with_pmap"}
    for layout, by_optimizer in report.items():
        for name, difference in by_optimizer.items():
            assert difference < 1e-6, (layout, name)
