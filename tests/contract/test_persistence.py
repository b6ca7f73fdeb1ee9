"""What is saved comes back bit for bit, and a run goes on from it as if it had never stopped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.contract import persistence
from tests.contract.table import avals, each, params, run


@pytest.mark.quick(6)
@pytest.mark.promise("what Orbax or msgpack saved comes back bit for bit")
@each
@pytest.mark.parametrize("library", persistence.FORMATS)
def test_what_orbax_or_msgpack_saved_comes_back_bit_for_bit(row, library, tmp_path):
    write, read = persistence.FORMATS[library]
    tx, p = row.make(0.1), params() | {"half": params(jnp.bfloat16)}
    trained = run(tx, p, 2, jax.jit(tx.update))
    write(tmp_path, trained)
    restored = read(tmp_path, (p, tx.init(p)))
    assert jax.tree.structure(restored) == jax.tree.structure(trained)
    assert avals(restored) == avals(trained)
    assert persistence.digests(restored) == persistence.digests(trained)


def one_device():
    return Mesh(np.array(jax.devices()[:1]), ("data",))


@pytest.mark.promise("a run resumed in a new process continues bit for bit")
def test_a_run_resumed_in_a_new_process_continues_bit_for_bit(program, tmp_path, methods):
    straight = program("tests.contract.persistence", "save", tmp_path, devices=1)
    resumed = program("tests.contract.persistence", "resume", tmp_path, devices=1)
    assert resumed.keys() == persistence.FORMATS.keys()
    for report in resumed.values():
        assert report["restored"] == straight["saved"]
        assert report["finished"] == straight["finished"]
    assert straight["finished"] != straight["saved"]


@pytest.mark.long
@pytest.mark.promise("what eight devices saved is restored on two and on one")
def test_what_eight_devices_saved_is_restored_on_two_and_on_one(program, tmp_path, methods):
    eight = program("tests.contract.persistence", "save", tmp_path, devices=8)
    assert eight["split"] > 0
    for reports in (
        program("tests.contract.persistence", "resume", tmp_path, devices=2),
        persistence.resume(tmp_path, one_device()),
    ):
        for report in reports.values():
            assert report["restored"] == eight["saved"] and report["placed"]
            assert max(report["differences"].values()) <= 2e-5, report["differences"]
