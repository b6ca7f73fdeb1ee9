"""Measure the update alone: time, memory and program size, compared with Optax and PyTorch.

    python -m examples.benchmarks.update --output=runs/update
    python -m examples.benchmarks.update --model=gpt2-xl --dtype=bfloat16 --methods=adamw,lion --output=runs/xl

A step is ``update`` and ``optax.apply_updates`` in one compiled function with donated parameters and state, on
the shapes of a GPT-2. In each round, all implementations take one step in turn, in one process, so that the two
times of a ratio are measured within a second of each other. A plain copy of as many numbers is timed too: the
bytes it moves per second are the bandwidth. Rows that are already in the record of --output are kept, so that
the table can be filled in several calls. PyTorch's fused optimizers are included if torch is installed.
"""

import datetime
from pathlib import Path

import jax

from examples.benchmarks import update_report, update_speed
from examples.shared import command, markdown, program_flags, terminal
from optimiz import compare

FLAGS = program_flags.Flags()
_METHODS = FLAGS.DEFINE_list("methods", list(update_speed.METHODS), "Methods to measure.")
_MODEL = FLAGS.DEFINE_enum("model", "gpt2", list(update_speed.MODELS), "Model whose shapes are used.")
_DTYPE = FLAGS.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of parameters and gradients.")
_ROUNDS = FLAGS.DEFINE_integer("rounds", 9, "Timed steps of each method.", lower_bound=3)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)
program_flags.check_among(update_speed.METHODS, _METHODS)


def main() -> None:
    """Measure what the flags ask for, and write the record and the report."""
    path = Path(_OUTPUT.value) / "record.json"
    params = update_speed.structs(_MODEL.value, _DTYPE.value)
    settings = {
        "model": _MODEL.value,
        "dtype": _DTYPE.value,
        "parameters": sum(p.size for p in jax.tree.leaves(params)),
    }
    record = {"settings": settings, "environment": compare.environment(), "rows": []}
    if path.exists():
        record = markdown.read_record(path, update_report.report)
        if record.get("settings") != settings:
            raise ValueError(f"{path} has other settings: {record.get('settings')}, not {settings}")
    for name in _METHODS.value:
        if name not in [row["method"] for row in record["rows"]]:
            record["rows"].append(
                update_speed.measured(name, params, _ROUNDS.value) | {"date": str(datetime.date.today())}
            )
            terminal.show(update_report.table(record))
        markdown.write_record(record, path, update_report.report)
    markdown.write_record(record, path, update_report.report)


if __name__ == "__main__":
    command.run(main, FLAGS)
