"""The losses are the same on one device and on many, in every layout, and in several processes."""

import json

import pytest

from tests.training import layouts_record
from tests.training.layouts_record import OPTIMIZERS, ROWS, TOLERANCE


def check(differences):
    assert set(differences) == set(ROWS)
    for layout, by_optimizer in differences.items():
        assert set(by_optimizer) == set(OPTIMIZERS), layout
        assert max(by_optimizer.values()) <= TOLERANCE, layout


@pytest.mark.long
def test_split_state_on_two_devices_gives_the_losses_of_one(tmp_path):
    names = ["salsa", "low_bit adamw"]
    found = layouts_record.losses(tmp_path, names, ["one device", "ZeRO-1"], devices=2)
    for name in names:
        assert layouts_record.difference(found["ZeRO-1"][name], found["one device"][name]) <= TOLERANCE


@pytest.mark.long
def test_every_layout_gives_the_losses_of_one_device(tmp_path):
    check(layouts_record.differences(tmp_path))


def test_the_committed_table_is_of_every_layout_and_within_the_tolerance():
    record = json.loads(layouts_record.PATH.read_text(encoding="utf-8"))
    assert record["tolerance"] == TOLERANCE
    check(record["differences"])
