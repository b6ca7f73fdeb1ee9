"""A reference is read back exactly as it was written, or refused."""

import json
import math

import numpy as np
import pytest

from optimiz.training import Reference, Timing, Work

# arXiv 2307.06440, bert/rst/saved_rsts.py at a7e6599: seconds per micro-batch by active layers; a slip at 7.
BERT = [0.02521, 0.03837, 0.05177, 0.06508, 0.07847, 0.09188, 0.01052, 0.1186, 0.1319, 0.1454]


def reference(times=None, **fields):
    times = times or {Work("step", batch=8): 0.5, Work("forward", batch=8): 0.125}
    timings = {work: Timing(seconds, spread=0.001, n=200) for work, seconds in times.items()}
    return Reference(times=timings, about={"model": "tiny"}, **fields)


def test_comes_back_with_where_and_when_it_was_measured(tmp_path):
    path = tmp_path / "reference.json"
    written = reference(date="2026-01-02T03:04:05+00:00", environment={"device": "another"})
    written.write(path)
    assert Reference.read(path) == written
    assert [entry.name for entry in tmp_path.iterdir()] == ["reference.json"]
    fields = json.loads(path.read_text())
    assert fields["times"][0] == {
        "name": "step", "depth": None, "batch": 8, "seconds": 0.5, "spread": 0.001, "n": 200,
    }  # fmt: skip
    assert fields["schema"] == 2
    assert reference().environment["versions"]["jax"] and reference().date > "2026"


def test_work_that_was_not_measured_is_refused_with_what_was():
    table = reference()
    assert table.seconds("step", batch=8) == 0.5
    for name, sizes, asked in [
        ("hessian", {"batch": 8}, "hessian(batch=8)"),
        ("step", {"batch": 16}, "step(batch=16)"),
        ("step", {}, "step"),
        ("step", {"batch": 8, "depth": 2}, "step(depth=2, batch=8)"),
    ]:
        with pytest.raises(ValueError) as refused:
            table.seconds(name, **sizes)
        assert str(refused.value) == f"the reference lacks {asked}; it has step(batch=8), forward(batch=8)"


def test_prices_name_all_that_is_charged():
    assert reference().prices() == {"step(batch=8)": 0.5, "forward(batch=8)": 0.125}


def test_a_table_in_which_more_work_is_quicker_is_refused():
    by_depth = {Work("step", depth=depth, batch=128): s for depth, s in enumerate(BERT, start=1)}
    with pytest.raises(ValueError) as refused:
        reference(by_depth)
    assert str(refused.value) == (
        "step(depth=7, batch=128) cannot be faster than step(depth=1, batch=128), got 0.01052 and 0.02521 s"
    )
    reference(by_depth | {Work("step", depth=7, batch=128): 0.1053})
    with pytest.raises(ValueError, match=r"step\(batch=16\) cannot be faster than step\(batch=8\)"):
        reference({Work("step", batch=16): 0.1, Work("step", batch=8): 0.2})
    with pytest.raises(ValueError, match=r"step\(depth=2, batch=16\) cannot be faster"):
        reference({Work("step", 1, 8): 0.2, Work("step", 2, 16): 0.1})


def test_the_slip_stands_out_from_a_line():
    """golden: without the seventh entry seconds are .01172 + .01336 L."""
    depths = [depth for depth in range(1, 17) if depth != 7]
    times = [*BERT[:6], *BERT[7:], 0.1589, 0.1722, 0.1857, 0.1988, 0.212, 0.2253]
    slope, constant = np.polyfit(depths, times, 1)
    assert (constant, slope) == pytest.approx((0.01172, 0.01336), abs=5e-6)
    assert constant + 7 * slope == pytest.approx(0.1053, abs=5e-5)


def test_only_sizes_that_can_be_compared_are():
    reference({Work("step", 1, 16): 0.1, Work("step", 2, 8): 0.3, Work("step", 3, 4): 0.2})
    reference({Work("step", batch=8): 0.2, Work("forward", batch=16): 0.1, Work("step", depth=2): 0.1})
    reference({Work("step", batch=8): 0.2, Work("step", batch=16): 0.2})


@pytest.mark.parametrize("seconds", [0.0, -0.5, math.nan, math.inf])
def test_a_time_that_is_not_positive_and_finite_is_refused(tmp_path, seconds):
    with pytest.raises(ValueError, match=r"seconds of step\(batch=8\) must be in \[1e-09, 1e\+09\], got "):
        reference({Work("step", batch=8): seconds})
    path = tmp_path / "reference.json"
    reference().write(path)
    path.write_text(path.read_text().replace("0.5", json.dumps(seconds)))
    with pytest.raises(
        ValueError, match=r"reference.json is not a valid reference: seconds of step\(batch=8\)"
    ):
        Reference.read(path)


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ({}, ValueError, "times must hold at least one unit of work, got none"),
        ({Work(""): Timing(1.0, 0.0, 1)}, ValueError, "a unit of work must be a nonempty string, got ''"),
        ({Work("step", depth=0): Timing(1.0, 0.0, 1)}, ValueError, r"depth of step\(depth=0\) must be in \[1"),
        ({Work("step", batch=1.5): Timing(1.0, 0.0, 1)}, TypeError, "must be an integer, got 1.5"),
        ({Work("step"): Timing("1", 0.0, 1)}, TypeError, "seconds of step must be a number, got '1'"),
        ({Work("step"): Timing(1.0, -1.0, 1)}, ValueError, "spread of step must be in"),
        ({Work("step"): Timing(1.0, 0.0, 0)}, ValueError, "n of step must be in"),
    ],
)
def test_what_is_no_table_is_refused_by_name(times, error, message):
    with pytest.raises(error, match=message):
        Reference(times=times, about={})


def test_another_schema_is_refused_with_both(tmp_path):
    path = tmp_path / "reference.json"
    reference(schema=3).write(path)
    with pytest.raises(ValueError, match=r"reference.json has reference schema 3, this version reads 1 and 2"):
        Reference.read(path)


def test_a_file_cut_short_or_of_another_kind_is_refused_by_name(tmp_path):
    path = tmp_path / "reference.json"
    reference().write(path)
    whole = path.read_bytes()
    cuts = [whole[:size] for size in range(0, len(whole) - 2, 7)]
    twice = json.loads(whole)
    twice["times"] *= 2
    lacking = json.loads(whole)
    del lacking["times"][0]["seconds"]
    strange = json.loads(whole) | {"colour": "red"}
    others = [json.dumps(other).encode() for other in (twice, lacking, strange, [], {"schema": 1})]
    for content in [*cuts, *others, b"\xff"]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"reference\.json is not a"):
            Reference.read(path)
