"""The record of Optax's optimizers is that of the promises, of the optimizers and of the Optax there are."""

import json

import optax
import pytest

from tests.testing import optax_record

RECORD = json.loads(optax_record.PATH.read_text(encoding="utf-8"))


def test_every_promise_of_every_optimizer_is_recorded():
    assert RECORD["optimizers"].keys() == optax_record.OPTIMIZERS.keys(), optax_record.STALE
    names = {promise.name for promise in optax_record.promises()}
    for outcomes in RECORD["optimizers"].values():
        assert {name for found in outcomes.values() for name in found} == names, optax_record.STALE


def test_what_is_by_design_or_has_a_cause_is_broken():
    broken = {(name, promise) for name, found in RECORD["optimizers"].items() for promise in found["broken"]}
    assert broken >= optax_record.BY_DESIGN.keys()
    assert {promise for _, promise in broken} >= optax_record.CAUSES.keys()


@pytest.mark.long
@pytest.mark.parametrize("name", ["sgd", pytest.param("adam", marks=pytest.mark.long)])
def test_an_optimizer_is_found_as_it_was_recorded(name):
    if RECORD["environment"]["versions"]["optax"] != optax.__version__:
        pytest.skip("another Optax than the recorded one")
    found, recorded = optax_record.measure(name), RECORD["optimizers"][name]
    assert {status: found[status].keys() for status in found} == {
        status: recorded[status].keys() for status in recorded
    }, optax_record.STALE
