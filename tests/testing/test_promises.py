"""No promise is vacuous: each is broken by an optimizer that breaks it and no other."""

import pytest

import optimiz.testing as ot
from tests.testing.mutants import DEVICE_MUTANTS, MUTANTS, SOUND, sound

PROMISES = {promise.name: promise for promise in ot.PROMISES}
EVERYWHERE = [name for name in PROMISES if name not in DEVICE_MUTANTS]


def test_each_promise_has_a_mutant_a_reason_and_a_name_of_its_own():
    assert len(PROMISES) == len(ot.PROMISES)
    assert PROMISES.keys() == MUTANTS.keys() | DEVICE_MUTANTS.keys()
    for promise in ot.PROMISES:
        assert promise.why and promise.why.endswith("."), promise


@pytest.fixture(scope="module")
def subject():
    return ot.Subject(sound, trees=MUTANTS["the given trees come back as they are"].options["trees"], **SOUND)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_sound_optimizer_keeps_it(subject, name):
    PROMISES[name].check(subject)


@pytest.mark.parametrize("name", MUTANTS)
def test_its_mutant_breaks_it(name):
    mutant = MUTANTS[name]
    with pytest.raises(ot.BrokenPromise, match="breaks"):
        PROMISES[name].check(ot.Subject(mutant.factory, **mutant.options))


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_its_mutant_breaks_nothing_else(name):
    mutant = MUTANTS[name]
    report = ot.check(mutant.factory, conventions=True, **mutant.options)
    assert {outcome.promise.name for outcome in report.broken} == {name, *mutant.also}, report


@pytest.mark.long
def test_promises_about_devices_are_kept_and_broken_on_four(program):
    broken = program("tests.testing.on_devices", devices=4)
    assert broken.pop("sound") == []
    assert broken.keys() == DEVICE_MUTANTS.keys()
    for name, mutant in DEVICE_MUTANTS.items():
        assert set(broken[name]) == {name, *mutant.also}
