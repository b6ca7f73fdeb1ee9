import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from examples.benchmarks import update_report, update_speed
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A record of two methods on the smallest model, filled in two calls, and the command."""
    output = tmp_path_factory.mktemp("update")
    command = [
        sys.executable,
        "-m",
        "examples.benchmarks.update",
        "--model=tiny",
        "--rounds=3",
        f"--output={output}",
    ]
    for methods in ("sgd_sai", "sgd_sai,clip + adamw"):
        subprocess.run([*command, f"--methods={methods}"], check=True, cwd=ROOT, capture_output=True)
    return output, command


def test_measures_each_method_once_and_renders_what_it_wrote(measured):
    output, _ = measured
    record = json.loads((output / "record.json").read_text())
    assert [row["method"] for row in record["rows"]] == ["sgd_sai", "clip + adamw"]
    parameters = record["settings"]["parameters"]
    for row, arrays in zip(record["rows"], (5, 8), strict=True):  # read and written, per parameter
        assert row["bytes"] == pytest.approx(4 * arrays * parameters, rel=1e-3)
        assert {len(seconds) for seconds in row["seconds"].values()} == {3}
        assert row["programs"]["optimiz"]["hlo_ops"] > 10
    text = (output / "report.md").read_text()
    assert text == update_report.report(record) and "| clip + adamw | " in text


def test_refuses_a_method_it_does_not_have_and_a_record_of_other_settings(measured):
    _, command = measured
    for arguments, message in (
        (["--methods=adamv"], "flag --methods=['adamv']: must be of adafactor, adagrad,"),
        (["--dtype=bfloat16"], "record.json has other settings"),
    ):
        other = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert other.returncode == 2 and message in other.stderr


def test_every_method_can_be_named_by_the_flag():
    assert not any("," in name for name in update_speed.METHODS)


def test_compilation_is_measured_together_with_optax():
    assert {"adamw", "lamb"} <= {name for name, leaves in update_speed.COMPILED if leaves == 100}
    row = update_speed.compilation("lion", 2)
    assert (row["method"], row["leaves"]) == ("lion", 2)
    for who in ("optimiz", "optax"):
        assert row[who]["hlo_ops"] > 10 and len(row[who]["compile_seconds"]) == 5
    assert "| lion | 2 | " in update_report.compilation({"compilation": [row]})


def test_a_ratio_is_of_times_of_one_round():
    seconds = {"optimiz": [1.0, 4.0, 9.0], "optax": [2.0, 4.0, 6.0]}
    assert update_report.ratio(seconds, "optax") == 1.0
    assert update_report.ratio(seconds, "torch fused") is None


def test_the_shapes_are_those_of_gpt2():
    shapes = update_speed.structs(update_speed.gpt2(*update_speed.MODELS["gpt2"]), "float32")
    sizes = [p.size for p in jax.tree.leaves(shapes)]
    assert (len(sizes), int(np.sum(sizes))) == (148, 124_439_808)
