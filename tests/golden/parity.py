"""Makes the golden trajectories of one method: its source, run in float64 on a problem that all share.

    pip install torch                                          # and what else the method's SOURCES name
    git clone https://github.com/google/automl CHECKOUTS/automl    # only for a source that is a repository
    python -m tests.golden.parity METHOD [CHECKOUTS]

writes ``parity/METHOD.npz``: the parameters of every case of the method's page after the steps of SNAPSHOTS
and, under ``provenance``, as JSON, what was run. The problem is in ``parity/problem.npz``. The cases are
``SOURCES`` of the method's test page, ``tests/optimizers/test_METHOD.py``. The source of a case is its authors'
code where that runs today, else PyTorch's, else a published package's; without any of them, its equations.

Gradients are given numbers, the same for every case, and so are what Sophia's estimators are made to return: a
trajectory then depends on the update rule and on nothing else.
"""

import dataclasses
import datetime
import functools
import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optax

from optimiz.methods import METHODS

FOLDER = Path(__file__).parent / "parity"
PROBLEM = FOLDER / "problem.npz"
SEED = 0
STEPS = 24
SNAPSHOTS = (1, 2, 3, 5, 10, 15, 20, 24)
REFRESH_EVERY = 10  # steps from one estimate of the curvature to the next
# Of four ranks; `matrix` alone is factored where a case sets Adafactor's threshold to 8.
SHAPES = {"kernel": (6, 4), "matrix": (12, 8), "bias": (5,), "scalar": (), "stack": (2, 3, 4)}
PARTS = ("params", "gradients", "curvatures")

Leaves = list[np.ndarray]
Step = Callable[[Any, "Case", float, list[Any] | None], None]


def _step(optimizer, case, rate, curvature):
    """One step of an optimizer whose parameters hold their gradients; no curvature between refreshes."""
    del case, curvature
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One source, its settings, and ours.

    Attributes:
        title: the method's name, with what tells this case from its page's others.
        paper: the paper, as a Markdown link where there is an address; by default that of the method's row.
        code: import path of the class; empty for the equations.
        equations: (case, problem) → the leaves after each step, for a method without code.
        home: the distribution that holds the class; or ``github:owner/name``, whose checkout is in CHECKOUTS.
        settings: its keyword arguments but the learning rate; a string is the import path of a value.
        step_settings: keyword arguments of its step.
        make: (class, parameters, settings) → the optimizer.
        step: how it is made to step.
        note: what has to be known of the comparison, else empty.
        ours: (schedule, settings) → our optimizer.
    """

    title: str
    home: str
    settings: Mapping[str, Any]
    ours: Callable[[optax.Schedule, Mapping[str, Any]], optax.GradientTransformation]
    paper: str = ""
    code: str = ""
    equations: Callable[["Case", dict[str, Any]], Iterable[Leaves]] | None = None
    step_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    make: Callable[[Any, list[Any], Mapping[str, Any]], Any] = lambda code, params, given: code(params, **given)
    step: Step = _step
    note: str = ""

    @property
    def repository(self) -> str | None:
        """Name on GitHub of the repository that holds the class; None for a distribution."""
        return self.home.removeprefix("github:") if self.home.startswith("github:") else None


# What several test pages say.
L2 = "The source's weight decay is an L2 penalty: optax.add_decayed_weights stands in front of ours."
CONSTANT_B1 = "momentum_decay is so large that the schedule of the source's β₁ is constant."
# β₂ is low enough for the second moment to fall again after the burst.
MOMENTS = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}


def l2(settings: Mapping[str, Any], tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Ours behind the L2 penalty of the source."""
    return optax.chain(optax.add_decayed_weights(settings["weight_decay"]), tx)


def moments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Adam's arguments in our words."""
    (b1, b2), eps = settings["betas"], settings["eps"]
    return {"b1": b1, "b2": b2, "eps": eps}


def pages() -> list[str]:
    """The pages of ``optimiz/optimizers`` that have golden trajectories.

    The line searches are held to their sources decision by decision, by line_search.py and problem_p.py.
    """
    return sorted({method.page for method in METHODS.values() if method.kind != "line search"})


@functools.cache
def cases(page: str) -> dict[str, Case]:
    """The cases of a page by their names."""
    return importlib.import_module(f"tests.optimizers.test_{page}").SOURCES


def problem() -> dict[str, Any]:
    """Initial parameters, gradients [STEPS, ...] and curvatures [refreshes, ...] by leaf, and rates [STEPS].

    Gradients have a scale per entry, a mean that turns slowly, noise, and a burst at the fourth step, after
    which what keeps a maximum differs from what averages. The rate changes at every step.
    """
    random = np.random.default_rng(SEED)
    t = np.arange(STEPS)

    def gradient(shape):
        along_steps = (STEPS,) + (1,) * len(shape)
        scale = np.exp(random.normal(-1.0, 1.0, shape))
        phase = random.uniform(0, 2 * np.pi, shape)
        mean = np.cos(phase + t.reshape(along_steps) / 6)
        burst = np.where(t == 3, 5.0, 1.0).reshape(along_steps)
        return scale * burst * (mean + 0.5 * random.normal(size=(STEPS, *shape)))

    def curvature(shape):
        size = (len(range(0, STEPS, REFRESH_EVERY)), *shape)
        return random.choice([-1.0, 1.0], size, p=[0.2, 0.8]) * np.exp(random.normal(size=size))

    return {
        "params": {name: random.normal(0.0, 0.5, shape) for name, shape in SHAPES.items()},
        "gradients": {name: gradient(shape) for name, shape in SHAPES.items()},
        "curvatures": {name: curvature(shape) for name, shape in SHAPES.items()},
        "rates": 0.02 * np.minimum(1, (t + 1) / 4) * (1 - t / 32) * (1 + 0.2 * np.cos(t)),
    }


@functools.cache
def stored_problem() -> dict[str, Any]:
    """The problem that the golden trajectories are of, to the last bit."""
    with np.load(PROBLEM) as file:
        found = {part: {leaf: file[f"{part}/{leaf}"] for leaf in SHAPES} for part in PARTS}
        return found | {"rates": file["rates"]}


@functools.cache
def golden(page: str) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """What was run for a page, and by case and leaf the parameters at SNAPSHOTS."""
    with np.load(FOLDER / f"{page}.npz") as file:
        arrays = dict(file)
    provenance = json.loads(str(arrays.pop("provenance")))
    return provenance, {
        case: {leaf: arrays[f"{case}/{leaf}"] for leaf in SHAPES} for case in provenance["cases"]
    }


def _named(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def follow(case: Case, given: dict[str, Any]) -> Iterable[Leaves]:
    """The leaves after every step of a source written for PyTorch."""
    import torch

    # Else PyTorch keeps the product of NAdam's β₁, and the count of steps, in float32.
    torch.set_default_dtype(torch.float64)
    settings = {
        name: _named(value) if isinstance(value, str) else value for name, value in case.settings.items()
    }
    params = [torch.tensor(p, requires_grad=True) for p in given["params"].values()]
    optimizer = case.make(_named(case.code), params, settings)
    for count in range(STEPS):
        for p, g in zip(params, given["gradients"].values(), strict=True):
            p.grad = torch.tensor(g[count])
        curvature = None
        if count % REFRESH_EVERY == 0:
            curvature = [torch.tensor(h[count // REFRESH_EVERY]) for h in given["curvatures"].values()]
        case.step(optimizer, case, float(given["rates"][count]), curvature)
        yield [p.detach().numpy().copy() for p in params]


def snapshots(case: Case) -> dict[str, np.ndarray]:
    """The source's parameters by leaf at SNAPSHOTS."""
    trajectory = list((case.equations or follow)(case, stored_problem()))
    return {
        leaf: np.stack([values[step - 1] for step in SNAPSHOTS])
        for leaf, values in zip(SHAPES, zip(*trajectory, strict=True), strict=True)
    }


def describe(page: str, case: Case) -> dict[str, Any]:
    """What the provenance says of a case, but its version."""
    paper = next(method.paper for method in METHODS.values() if method.page == page)
    return {
        "method": page,
        "title": case.title,
        "paper": case.paper or paper,
        "code": case.code,
        "home": case.repository or case.home,
        "settings": {**case.settings, **case.step_settings},
        "note": case.note,
    }


def version(case: Case, checkouts: Path | None) -> str:
    """Version of the distribution of a case, or commit of its checkout."""
    if case.repository is None:
        return importlib.metadata.version(case.home)
    if checkouts is None:
        raise SystemExit(f"the source is {case.repository}: name the folder that its checkout is in")
    checkout = checkouts / case.repository.partition("/")[2]
    command = ["git", "-C", str(checkout), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(page: str, checkouts: Path | None = None) -> None:
    """Write the golden trajectories of a page."""
    if page not in pages():
        raise SystemExit(f"METHOD must be one of {', '.join(pages())}, got {page}")
    if checkouts is not None:
        sys.path += map(str, checkouts.iterdir())
    arrays, about = {}, {}
    for name, case in cases(page).items():
        arrays |= {f"{name}/{leaf}": x for leaf, x in snapshots(case).items()}
        about[name] = describe(page, case) | {"version": version(case, checkouts)}
    used = {"numpy", *("torch" for case in cases(page).values() if case.code)}
    provenance = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "dtype": "float64",
        "seed": SEED,
        "steps": STEPS,
        "snapshots": SNAPSHOTS,
        "refresh_every": REFRESH_EVERY,
        "versions": {name: importlib.metadata.version(name) for name in sorted(used)},
        "cases": about,
    }
    path = FOLDER / f"{page}.npz"
    np.savez_compressed(path, provenance=json.dumps(provenance, ensure_ascii=False), **arrays)
    print(f"wrote {path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else f"wrote {path}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("python -m tests.golden.parity METHOD [CHECKOUTS]")
    main(sys.argv[1], *map(Path, sys.argv[2:]))
