"""A record comes back as it was, or is refused."""

import dataclasses
import json
import math

import numpy as np
import optax
import pytest

from optimiz import compare, training
from tests.compare.records import record, run


def test_record_round_trips(tmp_path):
    written = record(run("sgd_sai", 0.8), run("adamw", None, losses=(1.0, None, None)))
    written.write(tmp_path / "record.json")
    read = compare.Record.read(tmp_path / "record.json")
    assert json.dumps(dataclasses.asdict(read)) == json.dumps(dataclasses.asdict(written))
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_round_trips(tmp_path):
    written = run("adamw", 0.8, rate=None, fingerprint="ab", heterogeneity={"gini_norm": 0.5})
    written.write(tmp_path / "result.json")
    assert compare.Run.read(tmp_path / "result.json") == written


def test_work_is_counted_by_active_layers_and_with_looks_at_candidates():
    layers = {0: 1, 1: 1, 2: 2}
    history = [
        {"step": i, "loss": 1.0, "active_layers": on, "looks": 2.0 * (i + 1)} for i, on in layers.items()
    ]
    result = training.Result({"w": np.zeros(2)}, history, steps=3, seconds=1.0, compile_seconds=0.1)
    counted = compare.Run.of(result, optax.sgd(0.1), optimizer="sgd", learning_rate=0.1, seed=0, test={})
    assert counted.forward_equivalents == 3 * (0.5 + 0.5 + 1) + 6


def test_record_tells_the_machine_the_versions_and_the_date():
    fields = dataclasses.asdict(record(run("adamw", 0.8)))
    assert {"device", "cpu_cores", "python", "versions"} <= fields["environment"].keys()
    assert {"jax", "optax"} <= fields["environment"]["versions"].keys()
    assert fields["date"].endswith("+00:00")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda text: text[: len(text) // 2], compare.TornRecord, "is not a whole record"),
        (lambda text: "[1, 2]", compare.TornRecord, "is not a whole record"),
        (lambda text: json.dumps({"runs": []}), compare.TornRecord, "is not a whole record"),
        (lambda text: json.dumps({"schema": 2, "runs": []}), compare.TornRecord, "is not a whole record"),
        (lambda text: json.dumps({"schema": 2}), compare.TornRecord, "is not a whole record"),
        (
            lambda text: text.replace('"schema": 2', '"schema": 9'),
            ValueError,
            "has record schema 9, this version reads 2",
        ),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, damage, error, message):
    path = tmp_path / "record.json"
    record(run("adamw", 0.8)).write(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(error, match=message):
        compare.Record.read(path)


def test_a_record_never_holds_a_number_that_json_has_not():
    with pytest.raises(ValueError, match=r"test\['accuracy'\] must be finite, as .* got NaN"):
        record(run("adamw", math.nan))
