"""Measures line searches against their equations on problem P, and holds them to rows of their authors' code.

    python -m tests.golden.search_parity_record    writes `tests/records/search_parity.json`

``python -m examples.records`` renders the table in docs/line_search.md.
"""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax

import optimiz
from optimiz import compare
from optimiz.compare.record import environment
from optimiz.methods import METHODS
from tests.golden import line_search, parity_record, problem_p
from tests.golden.problem_p import THREE_UNITS, three_units

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests/records/search_parity.json"

DEVIATION = (
    "the greatest difference of a parameter from the equations', over the greatest distance that they have "
    "moved one of that array from its start; the largest over all arrays and steps, in float64"
)
BOUND = 1e-9
_DEPARTS = "none: it departs, as its page says"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A line search, and what it is compared with.

    Attributes:
        method: its name in ``METHODS``.
        title: what the table calls it.
        ours: makes it.
        equations: the same from its equations, in NumPy.
        rows: what its authors' code does; None where ours departs from it.
        decisions_of: where that code is, with its version.
    """

    method: str
    title: str
    ours: Callable[[], optax.GradientTransformationExtraArgs]
    equations: Callable[[], problem_p.Run]
    rows: problem_p.Golden | None = None
    decisions_of: str = ""


_UNGUARDED = {"max_step": jnp.inf, "on_failure": "keep", "tolerance": 0.0}
_FROM_ONE = {"init_step": 1.0}
_SALSA = "No-learning-rates-needed 717b41c"
_adam_sls = functools.partial(optimiz.adam_sls, 0.3, **_FROM_ONE, **_UNGUARDED)
_pla_sls = functools.partial(optimiz.pla_sls, three_units, 0.3, **_FROM_ONE, **_UNGUARDED)
_joint = functools.partial(line_search.adam_sls, units=THREE_UNITS, joint_slope=sum)
_class = functools.partial(line_search.adam_sls, beta=0.99, trials=200, joint_slope=lambda slopes: slopes[0])


def _skipping(**settings: Any) -> problem_p.Run:
    return _class(when=line_search.Frequency(10), **settings)


CASES = {
    "adam_sls": Case(
        method="adam_sls",
        title="ADAMSLS",
        ours=_adam_sls,
        equations=line_search.adam_sls,
        rows=problem_p.ADAM_SLS,
        decisions_of="Faster-Convergence dd23386",
    ),
    "armijo_sgd": Case(
        method="armijo_sgd",
        title="SGD with Armijo's rule",
        ours=lambda: optimiz.armijo_sgd(0.5, init_step=100.0, **_UNGUARDED),
        equations=line_search.armijo_sgd,
        rows=problem_p.ARMIJO_SGD,
        decisions_of="IssamLaradji/sls, with a growth of 2^(1/500)",
    ),
    "momentum_sls": Case(
        method="momentum_sls",
        title="momentum in the search",
        ours=lambda: optimiz.momentum_sls(**_FROM_ONE, **_UNGUARDED),
        equations=line_search.momentum_sls,
    ),
    "pla_sls": Case(
        method="pla_sls",
        title="PLASLS, three units",
        ours=_pla_sls,
        equations=lambda: _joint(others="frozen"),
    ),
    "pla_sls_prefix": Case(
        method="pla_sls",
        title="PLASLS, three units, `prefix`, no joint search",
        ours=lambda: _pla_sls(others="prefix", together=0),
        equations=lambda: _joint(others="prefix", together=0),
    ),
    "salsa_class": Case(
        method="salsa_class",
        title="SaLSa, the class",
        ours=lambda: optimiz.salsa_class(**_FROM_ONE),
        equations=_skipping,
        rows=problem_p.SALSA_CLASS_SKIPPING,
        decisions_of=_SALSA,
    ),
    "salsa_class_every_update": Case(
        method="salsa_class",
        title="SaLSa, the class, a search in every update",
        ours=lambda: optimiz.salsa_class(every_update=True, **_FROM_ONE),
        equations=_class,
        rows=problem_p.SALSA_CLASS,
        decisions_of=_SALSA,
    ),
    "salsa_class_units": Case(
        method="salsa_class",
        title="SaLSa, the class, three units",
        ours=lambda: optimiz.salsa_class(units=three_units, **_FROM_ONE),
        equations=lambda: _skipping(units=THREE_UNITS),
        rows=problem_p.SALSA_CLASS_THREE_UNITS_SKIPPING,
        decisions_of=_SALSA,
    ),
    "salsa_class_units_every_update": Case(
        method="salsa_class",
        title="SaLSa, the class, three units, a search in every update",
        ours=lambda: optimiz.salsa_class(units=three_units, every_update=True, **_FROM_ONE),
        equations=lambda: _class(units=THREE_UNITS),
        rows=problem_p.SALSA_CLASS_THREE_UNITS,
        decisions_of=_SALSA,
    ),
    "salsa_packaged": Case(
        method="salsa_packaged",
        title="SaLSa, the package",
        ours=optimiz.salsa_packaged,
        equations=line_search.salsa_packaged,
        rows=problem_p.SALSA_PACKAGED,
        decisions_of=_SALSA,
    ),
    "salsa_packaged_momentum": Case(
        method="salsa_packaged",
        title="SaLSa, the package, with momentum in the search",
        ours=lambda: optimiz.salsa_packaged(momentum_search=True),
        equations=functools.partial(line_search.salsa_packaged, momentum_search=True),
        rows=problem_p.SALSA_PACKAGED_MOMENTUM,
        decisions_of=_SALSA,
    ),
}


def deviation(ours: problem_p.Run, theirs: problem_p.Run) -> float:
    """How far the parameters of a run are from another's, as DEVIATION says."""
    return parity_record.deviation(ours.params, theirs.params, start=problem_p.PARAMS)


@functools.cache
def run(name: str) -> problem_p.Run:
    """What ours does in a case."""
    return problem_p.run(CASES[name].ours())


def described(name: str) -> dict[str, Any]:
    """What the record says of a case, but what depends on the machine."""
    case = CASES[name]
    return {
        "method": case.method,
        "title": case.title,
        "paper": METHODS[case.method].paper,
        "code": "",
        "decisions_of": case.decisions_of,
        "bound": BOUND,
    }


def render(record: Mapping[str, Any]) -> str:
    """The table, as Markdown for a page in docs."""
    head = ("line search", "repeats the decisions of", "max relative deviation from its equations")
    rows = [
        (case["title"], case["decisions_of"] or _DEPARTS, f"{case['max_relative_deviation']:.1g}")
        for case in record["cases"].values()
    ]
    legend = (
        f"Over {problem_p.STEPS} steps, {record['date']}. Deviation: {record['deviation']}. To repeat "
        "decisions: the same number of forward passes, and step sizes to 1e-9, wherever they were read off "
        "that code. [The record](../tests/records/search_parity.json) has versions and bounds."
    )
    return f"{compare.table(head, rows, words=2)}\n\n{legend}"


def main() -> None:
    """Measure all and write the record."""
    record = {
        "deviation": DEVIATION,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "environment": environment(),
        "cases": {
            name: described(name) | {"max_relative_deviation": deviation(run(name), case.equations())}
            for name, case in CASES.items()
        },
    }
    parity_record.write(record, RECORD)


if __name__ == "__main__":
    main()
