"""Measures optimizers against their golden trajectories.

    python -m tests.golden.parity_record METHOD ...    measures these and merges them into the record
    python -m tests.golden.parity_record               measures all

The record is `tests/records/parity.json`, of which ``python -m examples.records`` renders the table in
docs/optimizers.md; the trajectories are `parity/METHOD.npz`.
"""

import datetime
import functools
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz.compare.record import environment
from tests.golden import parity

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests/records/parity.json"

DEVIATION = (
    "the greatest difference of an entry from the source's, over the greatest distance that the source has "
    "moved an entry of that array from its start; the largest over all arrays and snapshots, in float64"
)
STATE_SHAPE = (1024, 4096)
STATE = f"all of the state, scalars too, for one float32 parameter of {' × '.join(map(str, STATE_SHAPE))}"
BOUND = 1e-11


@functools.cache
def page_of() -> dict[str, str]:
    """The page of each case."""
    return {case: page for page in parity.pages() for case in parity.cases(page)}


def source(case: str) -> dict[str, np.ndarray]:
    """The source's parameters of a case by leaf, at the snapshots."""
    return parity.golden(page_of()[case])[1][case]


def provenance(case: str) -> dict[str, Any]:
    """What was run for a case, its version and the date among it."""
    run = parity.golden(page_of()[case])[0]
    about = {name: value for name, value in run.items() if name != "cases"}
    return run["cases"][case] | {"golden": about}


def _ours(case: str) -> optax.GradientTransformation:
    about = parity.cases(page_of()[case])[case]
    rates = parity.stored_problem()["rates"]
    return about.ours(lambda count: jnp.asarray(rates)[count], {**about.settings, **about.step_settings})


def _trajectory(tx: optax.GradientTransformation) -> dict[str, jax.Array]:
    """Parameters by leaf, [steps, ...], of an optimizer on the problem."""
    given = jax.tree.map(jnp.asarray, parity.stored_problem())
    params, gradients, curvatures = (given[part] for part in parity.PARTS)
    tx = optax.with_extra_args_support(tx)

    def step(carry, count):
        params, state = carry
        curvature = {name: h[count // parity.REFRESH_EVERY] for name, h in curvatures.items()}

        def logits_fn(p):
            # The logits are 0, so that the gradient on either label is the curvature, but for its sign.
            z = sum(jnp.sum(h * (p[name] - jax.lax.stop_gradient(p[name]))) for name, h in curvature.items())
            return jnp.stack([z, -z])

        def obj_fn(p):
            return sum(jnp.sum(h * p[name] ** 2) / 2 for name, h in curvature.items())

        gradient = {name: g[count] for name, g in gradients.items()}
        updates, state = tx.update(gradient, state, params, logits_fn=logits_fn, obj_fn=obj_fn)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(parity.STEPS))[1]


def snapshots(case: str) -> dict[str, np.ndarray]:
    """Ours by leaf, in float64, at the steps at which the source was recorded."""
    recorded = np.array(parity.SNAPSHOTS) - 1
    # Twenty-four small steps take no time; compiling them does.
    hurried = {"xla_backend_optimization_level": 0}
    with jax.enable_x64(True):
        trajectory = jax.jit(lambda: _trajectory(_ours(case)), compiler_options=hurried)()
        return {name: np.asarray(x)[recorded] for name, x in trajectory.items()}


def deviation(
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    start: Mapping[str, np.ndarray] | None = None,
) -> float:
    """How far a trajectory, [snapshots, ...] by leaf, is from another, as DEVIATION says.

    Args:
        ours: the one.
        theirs: the other.
        start: where both begin; None for the problem that all share.
    """

    def largest(x):
        return np.abs(x).reshape(len(x), -1).max(axis=1)

    def relative(difference, moved):  # where neither has moved, as at a first step that is skipped, it is 0
        return np.divide(difference, moved, out=np.zeros_like(difference), where=difference != 0)

    start = parity.stored_problem()["params"] if start is None else start
    return max(
        float(np.max(relative(largest(ours[name] - theirs[name]), largest(theirs[name] - start[name]))))
        for name in start
    )


def state_bytes_per_parameter(case: str) -> float:
    """What ours keeps, as STATE says, over the number of the parameter's entries."""
    state = jax.eval_shape(_ours(case).init, jax.ShapeDtypeStruct(STATE_SHAPE, jnp.float32))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / math.prod(STATE_SHAPE)


def described(case: str) -> dict[str, Any]:
    """What the record says of a case, but what depends on the machine."""
    return provenance(case) | {
        "bound": BOUND,
        "state_bytes_per_parameter": state_bytes_per_parameter(case),
    }


def measure(page: str) -> dict[str, Any]:
    """The cases of a page, measured on this machine."""
    measured = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "environment": environment(),
    }
    return {
        case: described(case)
        | {"max_relative_deviation": deviation(snapshots(case), source(case)), "measured": measured}
        for case in parity.cases(page)
    }


def render(record: Mapping[str, Any]) -> str:
    """The table, as Markdown for a page in docs."""
    lines = [
        "| method | source | max relative deviation | state bytes per parameter | page |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for case in record["cases"].values():
        code = f"`{case['code']}`" if case["code"] else "its equations"
        source = f"{case['paper']}; {code}, {case['home']} {case['version']}"
        deviation, state = case["max_relative_deviation"], round(case["state_bytes_per_parameter"], 3)
        page = f"[`{case['method']}`](../optimiz/optimizers/{case['method']}.py)"
        lines.append(f"| {case['title']} | {source} | {deviation:.1g} | {state:g} | {page} |")
    dates = sorted({case["measured"]["date"] for case in record["cases"].values()})
    legend = (
        f"Over {parity.STEPS} steps at a varying rate, {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}. "
        f"Deviation: {record['deviation']}. State: {record['state']}. "
        "[The record](../tests/records/parity.json) holds settings and versions, and says what is compared "
        "where a source differs."
    )
    return "\n".join(lines) + f"\n\n{legend}"


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write a record of parity."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def main(pages: list[str]) -> None:
    """Measure pages and merge them into the record."""
    known = page_of().values()
    if unknown := [page for page in pages if page not in known]:
        raise SystemExit(f"METHOD must be one of {', '.join(dict.fromkeys(known))}, got {unknown[0]}")
    before = json.loads(RECORD.read_text(encoding="utf-8"))["cases"] if RECORD.exists() else {}
    measured = {case: row for page in pages for case, row in measure(page).items()}
    kept = {case: row for case, row in (before | measured).items() if case in page_of()}
    write({"deviation": DEVIATION, "state": STATE, "cases": dict(sorted(kept.items()))}, RECORD)


if __name__ == "__main__":
    main(sys.argv[1:] or parity.pages())
