import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from examples.benchmarks import update, update_report, update_speed
from examples.shared import command


def call(output, *argv):
    """The program on the smallest model, in this process."""
    argv = ["benchmarks.update", "--model=tiny", "--rounds=3", f"--output={output}", *argv]
    with flagsaver.flagsaver():
        command.parse(argv, update.FLAGS)
        command.guarded(update.main)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The directory of a record of two methods, filled in two calls."""
    output = tmp_path_factory.mktemp("update")
    for methods in ("sgd_sai", "sgd_sai,clip + adamw"):
        call(output, f"--methods={methods}")
    return output


@pytest.mark.long
def test_measures_each_method_once_and_renders_what_it_wrote(measured):
    record = json.loads((measured / "record.json").read_text())
    assert [row["method"] for row in record["rows"]] == ["sgd_sai", "clip + adamw"]
    parameters = record["settings"]["parameters"]
    for row, arrays in zip(record["rows"], (5, 8), strict=True):  # read and written, per parameter
        assert row["bytes"] == pytest.approx(4 * arrays * parameters, rel=1e-3)
        assert {len(seconds) for seconds in row["seconds"].values()} == {3}
        assert row["programs"]["optimiz"]["hlo_ops"] > 10
    text = (measured / "report.md").read_text()
    assert text == update_report.report(record) and "| clip + adamw | " in text


def test_refuses_a_method_it_does_not_have_and_a_record_of_other_settings(measured, capsys):
    for arguments, message in (
        (["--methods=adamv"], "flag --methods=['adamv']: must be among adafactor, adagrad,"),
        (["--dtype=bfloat16"], "record.json has other settings"),
    ):
        with pytest.raises(SystemExit) as exit:
            call(measured, *arguments)
        assert exit.value.code == command.EXIT_USAGE and message in capsys.readouterr().err


def test_every_method_can_be_named_by_the_flag():
    assert not any("," in name for name in update_speed.METHODS)


def test_a_ratio_is_of_times_of_one_round():
    seconds = {"optimiz": [1.0, 4.0, 9.0], "optax": [2.0, 4.0, 6.0]}
    assert update_report.ratio(seconds, "optax") == 1.0
    assert update_report.ratio(seconds, "torch fused") is None


def test_the_shapes_are_those_of_gpt2():
    shapes = update_speed.structs("gpt2", "float32")
    sizes = [p.size for p in jax.tree.leaves(shapes)]
    assert (len(sizes), int(np.sum(sizes))) == (148, 124_439_808)
