"""A record comes back as it was, or is refused."""

import dataclasses
import json
import math

import numpy as np
import optax
import pytest

from optimiz import compare, training
from optimiz.compare import report
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


def test_extra_fields_and_numbers_that_were_not_measured_round_trip(tmp_path):
    unmeasured = dict.fromkeys(
        ("seconds", "compile_seconds", "forward_equivalents", "state_bytes_per_parameter", "temporary_bytes")
    )
    written = dataclasses.replace(
        record(run("adamw", 0.8, extra={"state": "int8", "moved": [0.5, None]}, **unmeasured)),
        extra={"untrained": {"accuracy": 0.1}},
    )
    written.write(tmp_path / "record.json")
    read = compare.Record.read(tmp_path / "record.json")
    assert json.dumps(dataclasses.asdict(read)) == json.dumps(dataclasses.asdict(written))
    text = report.render(written, metric="accuracy")
    row = next(line for line in text.splitlines() if line.startswith("| adamw"))
    assert row == "| adamw | 0.01 | 0.800 | 0.800 | 0.200 | 3 | not measured | not measured | not measured |"


def test_what_is_measured_at_every_update_is_read_by_name():
    one = run("salsa", 0.8, losses=(2.0, None))
    history = [{**row, "step_size": [0.1, 0.2]} if "loss" in row else row for row in one.history]
    searched = dataclasses.replace(one, history=history)
    assert searched.per_update("step_size") == [[0.1, 0.2]] * 2
    assert searched.per_update("loss")[0] == 2.0 and math.isnan(searched.per_update("loss")[1])
    with pytest.raises(ValueError, match="the update has no metric 'rate'; it has step, loss, gradient_no"):
        searched.per_update("rate")


def test_extra_fields_are_those_of_json():
    result = training.Result({"w": np.zeros(2)}, [], steps=0, seconds=1.0, compile_seconds=0.1)
    made = lambda **extra: compare.Run.of(  # noqa: E731
        result, optax.sgd(0.1), optimizer="sgd", learning_rate=0.1, seed=0, test={}, extra=extra
    )
    assert made(moved=math.nan, of=(1, 2)).extra == {"moved": None, "of": [1, 2]}
    with pytest.raises(TypeError, match=r"extra\['moved'\] must be plain JSON"):
        made(moved=np.float32(0.5))


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
        (lambda text: text[: len(text) // 2], compare.TornRecord, "is not a complete record"),
        (lambda text: "[1, 2]", compare.TornRecord, "is not a complete record"),
        (lambda text: json.dumps({"runs": []}), compare.TornRecord, "is not a complete record"),
        (lambda text: json.dumps({"schema": 2, "runs": []}), compare.TornRecord, "is not a complete record"),
        (lambda text: json.dumps({"schema": 2}), compare.TornRecord, "is not a complete record"),
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


OTHERS = [
    "a",
    1.5,
    -1,
    True,
    None,
    [],
    {},
    ["a"],
    {"a": "b"},
    [None],
    {"a": None},
    [[1]],
    float("nan"),
    10**400,
]


def places(value, where=()):
    """Every place in a tree of JSON."""
    yield where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*where, key))


def put(value, where, other):
    """The tree with another thing in a place."""
    if not where:
        return other
    copy = value.copy()
    copy[where[0]] = put(value[where[0]], where[1:], other)
    return copy


def written():
    budget = {"budget": 1.0, "reference_seconds": 1.0, "rate": None, "fingerprint": "ab"}
    history = [{"step": 0, "loss": 1.0, "fraction": 0.0, "learning_rate": 0.1, "block_norms": {"w": 1.0}}]
    history += [{"step": 1, "loss": None, "fraction": 0.5, "clipped_share": 0.5}]
    history += [{"steps": 2, "evaluation": {"loss": 0.5, "accuracy": 0.5}}]
    runs = [run("a", 0.5), run("b", 0.5, history=history, steps=2, heterogeneity={"gini_norm": 0.5}, **budget)]
    return dataclasses.replace(
        record(*runs), samples={"a": ["b"]}, left_out={"c": "d"}, pictures={"e.png": "f"}
    )


def test_whatever_stands_in_a_record_it_is_rendered_or_refused_in_one_line(tmp_path):
    path = tmp_path / "record.json"
    written().write(path)
    whole, refused, shown = json.loads(path.read_text()), 0, 0
    for i, where in enumerate(places(whole)):
        for other in OTHERS[i % 2 :: 2]:
            path.write_text(json.dumps(put(whole, where, other)))
            try:
                read = compare.Record.read(path)
            except ValueError as error:
                said = str(error)
                assert said.startswith(f"{path} ") and "\n" not in said and len(said) < 600, (
                    where,
                    other,
                    said,
                )
                known = [part for part in where if isinstance(part, str)]
                assert not known or any(part in said for part in known), (where, other, said)
                refused += 1
                continue
            try:
                report.render(read, metric="accuracy")
            except ValueError as error:  # of runs that do not go together
                assert "\n" not in str(error), (where, other)
            shown += 1
    assert refused > 500 and shown > 50


def test_a_run_is_sealed_by_its_digest_and_one_without_is_read(tmp_path):
    path = tmp_path / "result.json"
    run("a", 0.5).write(path)
    fields = json.loads(path.read_text())
    forged = {**fields, "run": {**fields["run"], "seconds": 9.0}}
    path.write_text(json.dumps(forged))
    with pytest.raises(
        compare.TornRecord, match=r"result\.json is not a complete record: run differs from its SHA-256"
    ):
        compare.Run.read(path)
    del forged["sha256"]  # as all were before there was one
    path.write_text(json.dumps(forged))
    assert compare.Run.read(path).seconds == 9.0


def test_whatever_stands_in_a_run_it_is_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "result.json"
    written().runs[1].write(path)
    whole = json.loads(path.read_text())
    del whole["sha256"]
    refused = 0
    for where in places(whole):
        for other in OTHERS:
            path.write_text(json.dumps(put(whole, where, other)))
            try:
                compare.Run.read(path)
            except ValueError as error:
                assert str(error).startswith(f"{path} ") and "\n" not in str(error), (where, other, str(error))
                refused += 1
    assert refused > 200


def test_what_is_not_utf_8_is_read_back(tmp_path):
    odd = dataclasses.replace(record(run("a", 0.5)), task={"data": "b\udcffc"})
    odd.write(tmp_path / "record.json")
    assert compare.Record.read(tmp_path / "record.json").task == {"data": "b\udcffc"}
    run("a\udcff", 0.5).write(tmp_path / "result.json")
    assert compare.Run.read(tmp_path / "result.json").optimizer == "a\udcff"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"title": 3}, TypeError, "title must be a string, got 3 of type int"),
        ({"task": {"data": {1, 2}}}, TypeError, r"task\['data'\] must be plain JSON, got"),
        ({"task": {3: "a"}}, TypeError, "a key of task must be a string, got 3 of type int"),
        ({"settings": {"rate": float("nan")}}, ValueError, r"settings\['rate'\] must be finite"),
        (
            {"baselines": {"tf": {"test": {}}}},
            ValueError,
            r"baselines\['tf'\] must have the parts validation and",
        ),
        (
            {"baselines": {"tf": {"accuracy": 0.5}}},
            TypeError,
            r"baselines\['tf'\]\['accuracy'\] must be a mapping",
        ),
        (
            {"baselines": {"tf": {"test": {"f1": None}}}},
            TypeError,
            r"\['test'\]\['f1'\] must be a number, got null",
        ),
        ({"test_examples": 0}, ValueError, r"test_examples must be in \[1, "),
        ({"lower_is_better": "loss"}, TypeError, 'lower_is_better must be a list, got "loss" of type str'),
        (
            {"lower_is_better": ["a"], "higher_is_better": ["a"]},
            ValueError,
            "'a' cannot be in both lower_is_better and",
        ),
        (
            {"pictures": {"../a.png": "b"}},
            ValueError,
            r"pictures must be PNG files next to the report, .* '\.\./a.png'",
        ),
        ({"runs": [{}]}, TypeError, r"runs\[0\] must be a Run, got \{\} of type dict"),
    ],
)
def test_a_record_is_refused_when_it_is_made_and_not_when_it_is_written(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(record(), **changes)
