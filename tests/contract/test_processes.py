"""Two processes that share a batch give the parameters that one device gives, and agree to the last bit."""

import socket

import pytest


@pytest.mark.promise("two processes that share a batch agree with each other and with one device")
def test_two_processes_that_share_a_batch_agree_with_each_other_and_with_one_device(programs, methods):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    first, second = programs("tests.contract.processes", address, processes=2, timeout=300)
    assert first["digests"] == second["digests"]
    for differences in (first["differences"], second["differences"]):
        assert differences.keys() == methods
        assert max(differences.values()) <= 2e-5, differences
