"""Makes the golden states of PyTorch's optimizers, which ours go on from.

    pip install torch
    python -m tests.golden.torch_state

writes ``torch_state.npz``: for every case the parameters and the ``state_dict`` after FIRST and after LAST
steps and, under ``provenance``, as JSON, what was run and the groups of both. The parameters and gradients are
those of ``parity/problem.npz``; how PyTorch's are laid out, and what becomes of them here, is in FROM_PYTORCH.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import parity

PATH = Path(__file__).parent / "torch_state.npz"
FIRST, LAST = 10, 20
# PyTorch's parameters from the arrays of the problem.
FROM_PROBLEM = {
    "dense.weight": lambda arrays: arrays["kernel"].swapaxes(-1, -2),
    "qkv.weight": lambda arrays: arrays["matrix"].swapaxes(-1, -2),
    "dense.bias": lambda arrays: arrays["bias"],
    "scale": lambda arrays: arrays["scalar"],
    "stack": lambda arrays: arrays["stack"],
}
# And ours from PyTorch's: a tree of paths, by the oracle's own transposes and slices.
FROM_PYTORCH = {
    "dense/kernel": lambda arrays: arrays["dense.weight"].swapaxes(-1, -2),
    "dense/bias": lambda arrays: arrays["dense.bias"],
    "query/kernel": lambda arrays: arrays["qkv.weight"][..., :3, :].swapaxes(-1, -2),
    "value/kernel": lambda arrays: arrays["qkv.weight"][..., 3:, :].swapaxes(-1, -2),
    "scale": lambda arrays: arrays["scale"],
    "stack": lambda arrays: np.moveaxis(arrays["stack"], -3, -1),
}
# Where a step depends on a parameter as a whole, it is one here too.
WHOLE = FROM_PYTORCH | {
    "qkv/kernel": lambda arrays: arrays["qkv.weight"].swapaxes(-1, -2),
    "stack": lambda arrays: arrays["stack"],
}
WHOLE = {path: take for path, take in WHOLE.items() if path not in ("query/kernel", "value/kernel")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One optimizer of PyTorch.

    Attributes:
        code: its class.
        groups: settings of each group, with the names of its parameters.
        dtype: dtype of the parameters.
        late: number of steps, by name, that a parameter has no gradient for.
        decays: whether a scheduler multiplies every rate by 1 / (1 + steps / 10).
    """

    code: str
    groups: tuple[Mapping[str, Any], ...]
    dtype: str = "float64"
    late: Mapping[str, int] = dataclasses.field(default_factory=dict)
    decays: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the parameters in the order of the groups."""
        return [name for group in self.groups for name in group["params"]]

    @property
    def paths(self) -> Mapping[str, Any]:
        """Our parameters from PyTorch's."""
        return WHOLE if self.code == "Adafactor" else FROM_PYTORCH


def one(**settings: Any) -> tuple[Mapping[str, Any], ...]:
    """One group of all parameters."""
    return ({"params": list(FROM_PROBLEM), **settings},)


def two(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Matrices in one group, all others in another."""
    matrices = [name for name in FROM_PROBLEM if name.endswith("weight")]
    rest = [name for name in FROM_PROBLEM if name not in matrices]
    return ({"params": matrices, **first}, {"params": rest, **second})


MOMENTS = {"betas": (0.9, 0.95), "weight_decay": 0.1}
CASES = {
    # The first six are in the default suite.
    "adamw, two groups, one late, one frozen": Case(
        code="AdamW",
        groups=two({"lr": 0.02, **MOMENTS}, {"lr": 0.05, "weight_decay": 0.0, "betas": (0.8, 0.9)}),
        late={"dense.bias": 4, "scale": LAST},
        decays=True,
    ),
    "adam, amsgrad, maximize": Case(code="Adam", groups=one(lr=0.02, amsgrad=True, maximize=True, **MOMENTS)),
    "sgd, nesterov": Case(code="SGD", groups=one(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "sgd, dampening": Case(
        code="SGD",
        groups=two({"lr": 0.02, "momentum": 0.9, "dampening": 0.3}, {"lr": 0.05}),
        late={"qkv.weight": LAST},
    ),
    # 1 / √t is below the first rate from the fifth step on; ε₁ is reached by all.
    "adafactor, bounded": Case(
        code="Adafactor",
        groups=two(
            {"lr": 0.5, "weight_decay": 0.1, "eps": (0.2, 1e-3), "d": 0.8}, {"lr": 0.02, "beta2_decay": -0.6}
        ),
        late={"dense.bias": 4},
        decays=True,
    ),
    "adamw, float32": Case(code="AdamW", groups=one(lr=0.02, **MOMENTS), dtype="float32"),
    "adamw": Case(code="AdamW", groups=one(lr=0.02, **MOMENTS)),
    "adamw, amsgrad, maximize": Case(code="AdamW", groups=one(lr=0.02, amsgrad=True, maximize=True, **MOMENTS)),
    "adam": Case(code="Adam", groups=one(lr=0.02, **MOMENTS)),
    "sgd": Case(code="SGD", groups=one(lr=0.02, weight_decay=0.1), decays=True),
    "sgd, momentum": Case(code="SGD", groups=one(lr=0.02, momentum=0.9, weight_decay=0.1, maximize=True)),
    "adafactor": Case(code="Adafactor", groups=one(lr=0.02, weight_decay=0.1)),
    "sgd, float32": Case(code="SGD", groups=one(lr=0.02, momentum=0.9, weight_decay=0.1), dtype="float32"),
    "adafactor, float32": Case(code="Adafactor", groups=one(lr=0.02, weight_decay=0.1), dtype="float32"),
}


@functools.cache
def gradients(dtype: str) -> dict[str, np.ndarray]:
    """PyTorch's gradients [steps, ...] by name."""
    given = parity.stored_problem()["gradients"]
    return {name: np.array(take(given), dtype, order="C") for name, take in FROM_PROBLEM.items()}


class Run:
    """An optimizer of PyTorch, and the parameters that it trains."""

    def __init__(self, case: Case) -> None:
        import torch

        self.case, self.made = case, 0
        start = parity.stored_problem()["params"]
        self.params = {
            name: torch.tensor(np.array(take(start), case.dtype, order="C"), requires_grad=True)
            for name, take in FROM_PROBLEM.items()
        }
        groups = [
            {**group, "params": [(name, self.params[name]) for name in group["params"]]}
            for group in case.groups
        ]
        self.optimizer = getattr(torch.optim, case.code)(groups)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda steps: 1 / (1 + steps / 10) if case.decays else 1.0
        )

    def train(self, steps: int) -> None:
        """Make steps."""
        import torch

        for _ in range(steps):
            for name, p in self.params.items():
                g = gradients(self.case.dtype)[name][self.made]
                p.grad = torch.tensor(g) if self.made >= self.case.late.get(name, 0) else None
            self.optimizer.step()
            self.scheduler.step()
            self.made += 1

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters, by name."""
        return {name: p.detach().numpy().copy() for name, p in self.params.items()}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, with arrays in place of tensors."""
        given = self.optimizer.state_dict()
        state = {
            key: {name: None if x is None else x.numpy().copy() for name, x in entry.items()}
            for key, entry in given["state"].items()
        }
        return {"state": state, "param_groups": given["param_groups"]}


@functools.cache
def stored() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What was run, and all arrays."""
    with np.load(PATH) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("provenance"))), arrays


def params_of(case: str, steps: int) -> dict[str, np.ndarray]:
    """PyTorch's parameters after FIRST or LAST steps, by name."""
    _, arrays = stored()
    return {name: arrays[f"{case}/{steps}/params/{name}"] for name in FROM_PROBLEM}


def state_dict_of(case: str, steps: int) -> dict[str, Any]:
    """The ``state_dict`` after FIRST or LAST steps."""
    provenance, arrays = stored()
    prefix, state = f"{case}/{steps}/state/", {}
    for key, x in arrays.items():
        if key.startswith(prefix):
            number, name = key.removeprefix(prefix).split("/")
            state.setdefault(int(number), {})[name] = x
    return {"state": state, "param_groups": provenance["cases"][case]["groups"][str(steps)]}


def main() -> None:
    """Write the golden states."""
    arrays, about = {}, {}
    for title, case in CASES.items():
        run, groups = Run(case), {}
        for steps in (FIRST, LAST):
            run.train(steps - run.made)
            state_dict = run.state_dict()
            groups[steps] = state_dict["param_groups"]
            arrays |= {f"{title}/{steps}/params/{name}": x for name, x in run.arrays().items()}
            for key, entry in state_dict["state"].items():
                arrays |= {
                    f"{title}/{steps}/state/{key}/{name}": x for name, x in entry.items() if x is not None
                }
        about[title] = {"code": f"torch.optim.{case.code}", "dtype": case.dtype, "groups": groups}
    provenance = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "torch")},
        "cases": about,
    }
    np.savez_compressed(PATH, provenance=json.dumps(provenance), **arrays)


if __name__ == "__main__":
    main()
