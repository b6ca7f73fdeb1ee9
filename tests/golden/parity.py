"""Makes the golden trajectories: each method's source, run in float64 over one shared problem.

    pip install -e ".[parity]"
    git clone https://github.com/Liuhong99/Sophia CHECKOUTS/Sophia
    git clone https://github.com/google/automl CHECKOUTS/automl
    python tests/golden/parity.py CHECKOUTS

writes `parity.npz` beside this script: the problem, the parameters of every case after the steps of SNAPSHOTS,
and under `provenance`, as JSON, what was run. The source of a case is its authors' code where that runs today,
else PyTorch's, else a published package's; for the one method that has no source it is the equations, below.

Gradients are given numbers, the same for every case, and so are what Sophia's estimators are made to return: a
trajectory then depends on the update rule and on nothing else.
"""

import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SEED = 0
STEPS = 24
SNAPSHOTS = (1, 2, 3, 5, 10, 15, 20, 24)
REFRESH_EVERY = 10  # steps from one estimate of the curvature to the next
# Of four ranks; `matrix` alone is factored where a case sets Adafactor's threshold to 8.
SHAPES = {"kernel": (6, 4), "matrix": (12, 8), "bias": (5,), "scalar": (), "stack": (2, 3, 4)}
CHECKOUTS = {"Sophia": "Liuhong99/Sophia", "automl": "google/automl"}


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


Step = Callable[[Any, "Case", float, list[Any] | None], None]


def _step(optimizer, case, rate, curvature):
    """One step of an optimizer whose parameters hold their gradients; no curvature between refreshes."""
    del case, curvature
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def _step_with_the_rate_inside_the_momentum(optimizer, case, rate, curvature):
    del curvature
    for group in optimizer.param_groups:
        group["lr"] = 1.0
        group["trust_coeff"] = rate * case.settings["trust_coeff"]
    optimizer.step()


def _step_of_sophia_g(optimizer, case, rate, curvature):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if curvature is not None:
        gradients = [p.grad for p in params]
        for p, g_hat in zip(params, curvature, strict=True):
            p.grad = g_hat
        optimizer.update_hessian()
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step(bs=case.step_settings["bs"])


def _step_of_sophia_h(optimizer, case, rate, curvature):
    for group in optimizer.param_groups:
        group["lr"] = rate / case.settings["p"]
    optimizer.step(hessian=curvature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One source and its settings.

    Attributes:
        method: the page of `optimiz/optimizers` that is held against it.
        title: the method's name, with what tells this case from its page's others.
        paper: the paper, as a Markdown link where there is an address.
        code: import path of the class; empty for the equations.
        home: the distribution that holds it, or its folder among CHECKOUTS.
        settings: its keyword arguments but the learning rate; a string is the import path of a value.
        step_settings: keyword arguments of its step.
        step: how it is made to step.
        note: what has to be known of the comparison, else empty.
    """

    method: str
    title: str
    paper: str
    code: str
    home: str
    settings: Mapping[str, Any]
    step_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: Step = _step
    note: str = ""


_L2 = "The source's weight decay is an L2 penalty: optax.add_decayed_weights stands in front of ours."
_CONSTANT_B1 = "momentum_decay is so large that the schedule of the source's β₁ is constant."
# β₂ is low enough for the second moment to fall again after the burst.
_MOMENTS = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
_SGD = "Robbins and Monro (1951)"
_POLYAK = "Polyak (1964)"
_NESTEROV = "Nesterov (1983)"
_ADAM = "Kingma and Ba, [1412.6980](https://arxiv.org/abs/1412.6980)"
_ADAMW = "Loshchilov and Hutter, [1711.05101](https://arxiv.org/abs/1711.05101)"
_DOZAT = "Dozat (ICLR workshop 2016)"
_HINTON = "Hinton, lecture 6e (2012)"
_SHAZEER = "Shazeer and Stern, [1804.04235](https://arxiv.org/abs/1804.04235)"
_BERNSTEIN = "Bernstein et al., [1802.04434](https://arxiv.org/abs/1802.04434)"
_LIU = "Liu et al., [2305.14342](https://arxiv.org/abs/2305.14342)"

CASES = {
    "sgd_sai": Case(
        method="sgd_sai",
        title="SGD-SaI",
        paper="Xu et al., [2412.11768](https://arxiv.org/abs/2412.11768)",
        code="sgd_sai.SGD_sai",
        home="sgd-sai",
        settings={"momentum": 0.9, "eps": 1e-8, "weight_decay": 0.1},
        note='The authors\' release; ours with degenerate="reference", for the parameter of one entry.',
    ),
    "sqrt_size_sgd": Case(
        method="sqrt_size_sgd",
        title="SGD with the rate √size, the control for SGD-SaI",
        paper="none, it is a baseline",
        code="",
        home="numpy",
        settings={"momentum": 0.9, "weight_decay": 0.1},
        note="The equations of its page in NumPy: nobody has published code of it.",
    ),
    "sgd": Case(
        method="sgd",
        title="SGD",
        paper=_SGD,
        code="torch.optim.SGD",
        home="torch",
        settings={"weight_decay": 0.1},
        note=_L2,
    ),
    "sgd_momentum": Case(
        method="sgd",
        title="SGD with momentum",
        paper=_POLYAK,
        code="torch.optim.SGD",
        home="torch",
        settings={"momentum": 0.9, "weight_decay": 0.1},
        note=_L2,
    ),
    "sgd_nesterov": Case(
        method="sgd",
        title="SGD with Nesterov's momentum",
        paper=_NESTEROV,
        code="torch.optim.SGD",
        home="torch",
        settings={"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        note=_L2,
    ),
    "adam": Case(
        method="adam",
        title="Adam",
        paper=_ADAM,
        code="torch.optim.Adam",
        home="torch",
        settings=_MOMENTS,
        note=_L2,
    ),
    "adamw": Case(
        method="adamw",
        title="AdamW",
        paper=_ADAMW,
        code="torch.optim.AdamW",
        home="torch",
        settings=_MOMENTS,
    ),
    "nadam": Case(
        method="nadam",
        title="NAdam",
        paper=_DOZAT,
        code="torch.optim.NAdam",
        home="torch",
        settings=_MOMENTS | {"momentum_decay": 1e6},
        note=f"{_CONSTANT_B1} {_L2}",
    ),
    "nadamw": Case(
        method="nadamw",
        title="NAdamW",
        paper=_DOZAT,
        code="torch.optim.NAdam",
        home="torch",
        settings=_MOMENTS | {"momentum_decay": 1e6, "decoupled_weight_decay": True},
        note=_CONSTANT_B1,
    ),
    "adamax": Case(
        method="adamax",
        title="AdaMax",
        paper=_ADAM,
        code="torch.optim.Adamax",
        home="torch",
        settings=_MOMENTS,
        note=_L2,
    ),
    "adamaxw": Case(
        method="adamax",
        title="AdaMaxW",
        paper=_ADAM,
        code="pytorch_optimizer.AdaMax",
        home="pytorch-optimizer",
        settings=_MOMENTS | {"weight_decouple": True},
    ),
    "amsgrad": Case(
        method="amsgrad",
        title="AMSGrad",
        paper="Reddi, Kale and Kumar (ICLR 2018)",
        code="torch.optim.AdamW",
        home="torch",
        settings=_MOMENTS | {"amsgrad": True},
        note="Ours with max_before_correction=True, which is PyTorch's order.",
    ),
    "adagrad": Case(
        method="adagrad",
        title="AdaGrad",
        paper="Duchi, Hazan and Singer (JMLR 12, 2011)",
        code="torch.optim.Adagrad",
        home="torch",
        settings={"eps": 1e-10, "weight_decay": 0.1},
        note=_L2,
    ),
    "rmsprop": Case(
        method="rmsprop",
        title="RMSprop",
        paper=_HINTON,
        code="torch.optim.RMSprop",
        home="torch",
        settings={"alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1},
        note=_L2,
    ),
    "rmsprop_centered": Case(
        method="rmsprop",
        title="RMSprop, centered, with momentum",
        paper=_HINTON,
        code="torch.optim.RMSprop",
        home="torch",
        settings={"alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1, "centered": True, "momentum": 0.9},
        note=_L2,
    ),
    "adafactor": Case(
        method="adafactor",
        title="Adafactor",
        paper=_SHAZEER,
        code="torch.optim.Adafactor",
        home="torch",
        settings={"beta2_decay": -0.8, "eps": [1e-30, 1e-3], "d": 1.0, "weight_decay": 0.1},
        note="The source's rate is at most 1/√t, which the rates given never exceed.",
    ),
    "adafactor_threshold": Case(
        method="adafactor",
        title="Adafactor, Big Vision's form, with momentum",
        paper="Zhai et al., [2106.04560](https://arxiv.org/abs/2106.04560)",
        code="timm.optim.AdafactorBigVision",
        home="timm",
        settings={
            "min_dim_size_to_factor": 8,
            "decay_rate": 0.8,
            "beta2_cap": 1.0,
            "momentum": 0.9,
            "momentum_dtype": "torch.float64",
            "eps": 1e-30,
            "weight_decay": 0.1,
            "clipping_threshold": 1.0,
        },
        note="Ours with multiply_by_parameter_scale=False. One array is long enough to be factored.",
    ),
    "lamb": Case(
        method="lamb",
        title="LAMB",
        paper="You et al., [1904.00962](https://arxiv.org/abs/1904.00962)",
        code="timm.optim.Lamb",
        home="timm",
        settings=_MOMENTS | {"eps": 1e-6, "max_grad_norm": None},
    ),
    "lars": Case(
        method="lars",
        title="LARS",
        paper="You, Gitman and Ginsburg, [1708.03888](https://arxiv.org/abs/1708.03888)",
        code="timm.optim.Lars",
        home="timm",
        settings={"momentum": 0.9, "weight_decay": 0.1, "trust_coeff": 0.1, "eps": 1e-8},
        step=_step_with_the_rate_inside_the_momentum,
        note="The source's rate is outside the momentum, the paper's inside: it comes in by trust_coeff.",
    ),
    "lion": Case(
        method="lion",
        title="Lion",
        paper="Chen et al., [2302.06675](https://arxiv.org/abs/2302.06675)",
        code="lion.lion_pytorch.Lion",
        home="automl",
        settings={"betas": [0.9, 0.99], "weight_decay": 0.1},
        note="The authors' repository.",
    ),
    "signum": Case(
        method="signum",
        title="Signum",
        paper=_BERNSTEIN,
        code="pytorch_optimizer.SignSGD",
        home="pytorch-optimizer",
        settings={"momentum": 0.9, "weight_decay": 0.1},
    ),
    "sign_sgd": Case(
        method="sign_sgd",
        title="SignSGD",
        paper=_BERNSTEIN,
        code="pytorch_optimizer.SignSGD",
        home="pytorch-optimizer",
        settings={"momentum": 0.0, "weight_decay": 0.1},
    ),
    "sophia_g": Case(
        method="sophia_g",
        title="Sophia-G (Gauss-Newton-Bartlett)",
        paper=_LIU,
        code="sophia.SophiaG",
        home="Sophia",
        settings={"betas": [0.96, 0.99], "rho": 0.04, "weight_decay": 0.1},
        step_settings={"bs": 50},
        step=_step_of_sophia_g,
        note="The authors' repository. The gradient on sampled labels is given; γ is rho × bs.",
    ),
    "sophia_h": Case(
        method="sophia_h",
        title="Sophia-H (Hutchinson)",
        paper=_LIU,
        code="pytorch_optimizer.SophiaH",
        home="pytorch-optimizer",
        settings={"betas": [0.96, 0.99], "p": 2.0, "eps": 1e-12, "weight_decay": 0.2},
        step=_step_of_sophia_h,
        note="The diagonal is given. The source clips at p without γ: γ is p, its rate η / γ, its decay γ λ.",
    ),
}


def _named(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def follow(case: Case, given: dict[str, Any]) -> list[list[np.ndarray]]:
    """The leaves after every step of a source written for PyTorch."""
    import torch

    # Else PyTorch keeps the product of NAdam's β₁, and the count of steps, in float32.
    torch.set_default_dtype(torch.float64)
    settings = {
        name: _named(value) if isinstance(value, str) else value for name, value in case.settings.items()
    }
    params = [torch.tensor(p, requires_grad=True) for p in given["params"].values()]
    optimizer = _named(case.code)(params, **settings)
    trajectory = []
    for count in range(STEPS):
        for p, g in zip(params, given["gradients"].values(), strict=True):
            p.grad = torch.tensor(g[count])
        curvature = None
        if count % REFRESH_EVERY == 0:
            curvature = [torch.tensor(h[count // REFRESH_EVERY]) for h in given["curvatures"].values()]
        case.step(optimizer, case, float(given["rates"][count]), curvature)
        trajectory.append([p.detach().numpy().copy() for p in params])
    return trajectory


def follow_sqrt_size_sgd(case: Case, given: dict[str, Any]) -> list[list[np.ndarray]]:
    """The leaves after every step of the equations of `sqrt_size_sgd`."""
    mu, decay = case.settings["momentum"], case.settings["weight_decay"]
    params = list(given["params"].values())
    momentum = [g[0] for g in given["gradients"].values()]
    trajectory = []
    for count, rate in enumerate(given["rates"]):
        if count > 0:
            latest = [g[count] for g in given["gradients"].values()]
            momentum = [mu * m + (1 - mu) * g for m, g in zip(momentum, latest, strict=True)]
        params = [p - rate * (np.sqrt(p.size) * m + decay * p) for p, m in zip(params, momentum, strict=True)]
        trajectory.append(params)
    return trajectory


def describe(case: Case) -> dict[str, Any]:
    """What the provenance says of a case, but its version."""
    return {
        "method": case.method,
        "title": case.title,
        "paper": case.paper,
        "code": case.code,
        "home": CHECKOUTS.get(case.home, case.home),
        "settings": {**case.settings, **case.step_settings},
        "note": case.note,
    }


def version(home: str, checkouts: Path) -> str:
    """Version of a distribution, or commit of a checkout."""
    if home not in CHECKOUTS:
        return importlib.metadata.version(home)
    command = ["git", "-C", str(checkouts / home), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(checkouts: Path) -> None:
    """Write every case."""
    sys.path += [str(checkouts / folder) for folder in CHECKOUTS]
    given = problem()
    arrays = {
        f"{kind}/{leaf}": x for kind in ("params", "gradients", "curvatures") for leaf, x in given[kind].items()
    }
    arrays["rates"] = given["rates"]
    cases = {}
    for name, case in CASES.items():
        trajectory = (follow if case.code else follow_sqrt_size_sgd)(case, given)
        for leaf, values in zip(SHAPES, zip(*trajectory, strict=True), strict=True):
            arrays[f"{name}/{leaf}"] = np.stack([values[step - 1] for step in SNAPSHOTS])
        cases[name] = describe(case) | {"version": version(case.home, checkouts)}
    provenance = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "dtype": "float64",
        "seed": SEED,
        "steps": STEPS,
        "snapshots": SNAPSHOTS,
        "refresh_every": REFRESH_EVERY,
        "versions": {home: version(home, checkouts) for home in ("numpy", "torch")},
        "cases": cases,
    }
    np.savez_compressed(HERE / "parity.npz", provenance=json.dumps(provenance, ensure_ascii=False), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
