"""The table of planned updates says what fits, what does not, and what is unknown."""

import pytest

from examples.benchmarks import plan_report
from optimiz import plan

PLANNED = plan.Plan(
    target="h200",
    mesh={"data": 1},
    arguments={"parameters": 2**34, "state": 2**35, "gradients": 2**34},
    temporary=0,
    peak=2**36,
    memory=2**37,
    traffic=plan.Traffic(2**36, 2**37, 3, {"all-reduce": plan.Collective(2, 8)}, 0),
    bound=2**36,
    bandwidth=2**42,
    compile_seconds=2.0,
)
TOO_LARGE = {"temporary": None, "peak": None, "traffic": None, "failure": "RESOURCE_EXHAUSTED"}


def row(**changed):
    return plan_report.row("adamw", PLANNED, 2**32) | changed


@pytest.mark.parametrize(
    ("changed", "cells"),
    [
        ({}, "0.00 GiB | 64.00 GiB | yes | 64.00 GiB to 128.00 GiB | 1.00 to 2.00 | 15.6 ms to 31.2 ms"),
        ({"memory": 2**35}, "0.00 GiB | 64.00 GiB | no | "),
        ({"memory": None}, "0.00 GiB | 64.00 GiB | unknown | "),
        ({"bandwidth": None}, "1.00 to 2.00 |  | 2 all-reduce (0.00 GiB) |"),
        (TOO_LARGE, "32.00 GiB |  |  | no |  |  |  |  | 2 s |"),
    ],
)
def test_the_table_says_what_fits_and_what_moves(changed, cells):
    line = plan_report.table([row(**changed)]).splitlines()[-1]
    assert line.startswith("| `adamw` | 16.00 GiB | 16.00 GiB | 32.00 GiB | ") and cells in line


def test_devices_are_side_by_side_with_bytes_per_parameter():
    about = {"model": "gpt2", "target": "v5e", "dtype": "float32"}
    record = {"settings": about, "environment": {"versions": {"jax": "0.10.2"}}, "rows": [row()]}
    other = record | {"settings": about | {"target": "h200", "dtype": "bfloat16"}}
    *_, head, _, first, second = plan_report.by_device([record, other]).splitlines()
    assert head == "| optimizer | parameters | v5e | h200 |"
    assert first == "| `adamw` | float32 | 16.0 to 32.0 (1.00 to 2.00) |  |"
    assert second == "| `adamw` | bfloat16 |  | 8.0 to 16.0 (1.00 to 2.00) |"


def test_a_whole_step_has_operations_where_the_compiler_counts_them():
    for flops, cell in ((2.5e12, "2,500.0 G"), (None, "")):
        header, _, line = plan_report.table([row(flops=flops)], whole=True).splitlines()
        assert header.startswith("| optimizer | parameters | state | temporary | ")  # as gradients are
        assert f"| 15.6 ms to 31.2 ms | {cell} | 2 all-reduce (0.00 GiB) | 2 s |" in line


def test_a_row_of_the_record_is_the_plan_again():
    assert plan_report.planned_in(row()) == PLANNED
    older = row()
    del older["flops"]
    assert plan_report.planned_in(older) == PLANNED


def test_what_is_on_the_host_has_columns_where_there_is_any():
    moved = {"least": 2**36, "greatest": 2**36, "kernels": 3, "collectives": {}, "unknown_loops": 0}
    traffic = moved | {"from_host": 2**35, "to_host": 2**35}
    table = plan_report.table([row(), row(host=2**35, link=2**36, traffic=traffic)])
    header, _, plain, offloaded = table.splitlines()
    assert header.startswith("| optimizer | parameters | gradients | state | on the host | ")
    assert "| moved | copied each way | " in header
    assert plain.startswith("| `adamw` | 16.00 GiB | 16.00 GiB | 32.00 GiB | 0.00 GiB | ")
    assert "| 0.00 GiB | 1.00 to 2.00 |" in plain and "| 32.00 GiB, 500.0 ms | 1.00 | 500.0 ms |" in offloaded
    assert "on the host" not in plan_report.table([row()])
