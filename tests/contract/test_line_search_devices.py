"""Line searches on devices that share a batch take the decisions of one device, or are refused by name."""

import socket

import pytest


def check(by_optimizer, programs):
    assert by_optimizer.keys() == {"adam_sls", "pla_sls", "salsa"}
    for name, found in by_optimizer.items():
        ours, alone = found["trials"]
        assert ours == alone, name
        assert len(alone) == 20
        assert alone[-1] > alone[0] > 1, name
        assert found["loss"] <= 1e-9, name
        assert found["params"] <= 1e-9, name
        assert found["programs"] == programs, name


@pytest.mark.long
def test_every_layout_on_four_devices_takes_the_decisions_of_one(program):
    report = program("tests.contract.line_search_devices", devices=4)
    # One program for all steps, searched or not.
    programs = {
        "with_sharded_batch": 1,
        "with_shard_map_that_checks": 1,
        "with_shard_map_that_does_not_check": 1,
        "with_pmap": None,
    }
    assert report["differences"].keys() == programs.keys()
    for layout, by_optimizer in report["differences"].items():
        check(by_optimizer, programs[layout])
    told = report["refused"]
    assert told.pop("nothing") is None
    reason = "differs over the mesh axis data; reduce it first, with jax.lax.pmean"
    assert told == {name: f"{name} {reason}" for name in ("value", "grad", "value_fn")}


@pytest.mark.long
def test_two_processes_take_the_decisions_of_one(programs):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for report in programs("tests.contract.line_search_devices", address, processes=2, timeout=600):
        check(report["with_two_processes"], 1)
