"""The time to compile an update is measured next to Optax's, and the table is filled in several calls."""

import json

import jax
import pytest
from absl.testing import flagsaver

from examples.benchmarks import compilation, compilation_report, update_speed
from examples.shared import command


def call(*argv):
    """The program, in this process."""
    with flagsaver.flagsaver():
        command.parse(["benchmarks.compilation", *argv], compilation.FLAGS)
        command.guarded(compilation.main)


@pytest.fixture
def caches():
    """Whether JAX caches what it compiles, as before."""
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def test_a_method_is_compiled_next_to_optax_and_once(tmp_path, caches):
    arguments = ["--targets=cpu", "--leaves=2", "--rounds=3", f"--output={tmp_path}"]
    for methods in ("sign_sgd", "sign_sgd,sgd"):
        call(f"--methods={methods}", *arguments)
    first, second = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert (first["method"], second["method"], first["leaves"]) == ("sgd", "sign_sgd", 2)
    for seconds in (*first["seconds"].values(), *second["seconds"].values()):
        assert len(seconds) == 3 and all(0 < each < 60 for each in seconds)
    assert "| cpu | 2 | sign_sgd | " in (tmp_path / "report.md").read_text()


def test_ratios_are_of_medians_and_stand_in_a_column_for_each_device():
    def row(method, target, leaves, ours, theirs):
        seconds = {"optimiz": ours, "optax": theirs}
        return {"method": method, "target": target, "leaves": leaves, "date": "2026-11-30", "seconds": seconds}

    rows = [
        row("lamb", "cpu", 28, [3.0, 9.0, 1.0], [1.0, 2.0, 3.0]),
        row("lamb", "v5e", 100, [4.0, 4.0, 4.0], [1.0, 1.0, 1.0]),
        row("adamw", "cpu", 28, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
    ]
    environment = {"cpu_cores": 2, "versions": {"jax": "0", "optax": "1"}}
    lines = compilation_report.by_method({"environment": environment, "rows": rows}).splitlines()
    assert lines[0] == "| method | cpu, 28 | v5e, 100 |"
    assert lines[2:] == ["| lamb | 1.50 | 4.00 |", "| adamw | 1.00 |  |"]


def test_every_method_of_optax_has_a_row_and_what_is_no_number_is_refused(capsys, tmp_path):
    twins = {name for name, (_, theirs, _) in update_speed.METHODS.items() if theirs is not None}
    assert compilation.PEERS.keys() == twins | {"adamw in Int8"}
    with pytest.raises(SystemExit) as exit:
        call("--leaves=0", f"--output={tmp_path}")
    assert exit.value.code == command.EXIT_USAGE and "must be numbers ≥ 1" in capsys.readouterr().err
