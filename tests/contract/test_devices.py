"""Eight devices give the parameters that one gives, in every layout and with every optimizer."""

import pytest


@pytest.mark.promise("every layout on eight devices agrees with one device")
def test_every_layout_on_eight_devices_agrees_with_one_device(program, methods):
    differences = program("tests.contract.devices", devices=8)
    assert differences.keys() == {"with_pmap", "with_sharded_state", "with_explicit_axes"}
    for layout, by_optimizer in differences.items():
        assert by_optimizer.keys() == methods
        assert max(by_optimizer.values()) <= 2e-5, (layout, by_optimizer)
