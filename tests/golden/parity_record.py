"""Measures every optimizer against the golden trajectories.

python -m tests.golden.parity_record    writes `tests/records/parity.json` from `parity.npz`
python -m examples.records              renders the table in docs/optimizers.md from it
"""

import datetime
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz
from optimiz.compare.record import environment

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "parity.npz"
RECORD = ROOT / "tests/records/parity.json"

DEVIATION = (
    "the greatest difference of an entry from the source's, over the greatest distance that the source has "
    "moved an entry of that array from its start; the largest over all arrays and snapshots, in float64"
)
STATE_SHAPE = (1024, 4096)
STATE = f"all of the state, scalars too, for one float32 parameter of {' × '.join(map(str, STATE_SHAPE))}"
BOUND = 1e-11


def _l2(settings: Mapping[str, Any], tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(settings["weight_decay"]), tx)


def _moments(settings: Mapping[str, Any]) -> dict[str, Any]:
    (b1, b2), eps = settings["betas"], settings["eps"]
    return {"b1": b1, "b2": b2, "eps": eps}


def _adafactor(rate, s):
    eps, eps_of_scale = s["eps"]
    assert eps_of_scale == 1e-3  # the paper's, and the only one that ours has
    return optimiz.adafactor(
        rate,
        min_dim_size_to_factor=1,
        decay_rate=-s["beta2_decay"],
        clipping_threshold=s["d"],
        weight_decay=s["weight_decay"],
        eps=eps,
    )


def _adafactor_threshold(rate, s):
    return optimiz.adafactor(
        rate,
        min_dim_size_to_factor=s["min_dim_size_to_factor"],
        decay_rate=s["decay_rate"],
        multiply_by_parameter_scale=False,
        clipping_threshold=s["clipping_threshold"],
        momentum=s["momentum"],
        dtype_momentum=jnp.result_type(float),
        weight_decay=s["weight_decay"],
        eps=s["eps"],
    )


def _rmsprop(rate, s):
    options = {"centered": s.get("centered", False), "momentum": s.get("momentum")}
    return _l2(s, optimiz.rmsprop(rate, s["alpha"], s["eps"], **options))


# How to say the source's settings in our words.
OURS: dict[str, Callable[[optax.Schedule, Mapping[str, Any]], optax.GradientTransformation]] = {
    "sgd_sai": lambda rate, s: optimiz.sgd_sai(rate, degenerate="reference", **s),
    "sqrt_size_sgd": lambda rate, s: optimiz.sqrt_size_sgd(rate, **s),
    "sgd": lambda rate, s: _l2(s, optimiz.sgd(rate)),
    "sgd_momentum": lambda rate, s: _l2(s, optimiz.sgd(rate, s["momentum"])),
    "sgd_nesterov": lambda rate, s: _l2(s, optimiz.sgd(rate, s["momentum"], s["nesterov"])),
    "adam": lambda rate, s: _l2(s, optimiz.adam(rate, **_moments(s))),
    "adamw": lambda rate, s: optimiz.adamw(rate, weight_decay=s["weight_decay"], **_moments(s)),
    "nadam": lambda rate, s: _l2(s, optimiz.nadam(rate, **_moments(s))),
    "nadamw": lambda rate, s: optimiz.nadamw(rate, weight_decay=s["weight_decay"], **_moments(s)),
    "adamax": lambda rate, s: _l2(s, optimiz.adamax(rate, **_moments(s))),
    "adamaxw": lambda rate, s: optimiz.adamaxw(rate, weight_decay=s["weight_decay"], **_moments(s)),
    "amsgrad": lambda rate, s: optimiz.amsgrad(
        rate, max_before_correction=True, weight_decay=s["weight_decay"], **_moments(s)
    ),
    "adagrad": lambda rate, s: _l2(s, optimiz.adagrad(rate, eps=s["eps"])),
    "rmsprop": _rmsprop,
    "rmsprop_centered": _rmsprop,
    "adafactor": _adafactor,
    "adafactor_threshold": _adafactor_threshold,
    "lamb": lambda rate, s: optimiz.lamb(rate, weight_decay=s["weight_decay"], **_moments(s)),
    "lars": lambda rate, s: optimiz.lars(
        rate, s["weight_decay"], trust_coefficient=s["trust_coeff"], eps=s["eps"], momentum=s["momentum"]
    ),
    "lion": lambda rate, s: optimiz.lion(rate, *s["betas"], weight_decay=s["weight_decay"]),
    "signum": lambda rate, s: optimiz.signum(rate, s["momentum"], weight_decay=s["weight_decay"]),
    "sign_sgd": lambda rate, s: optimiz.sign_sgd(rate, weight_decay=s["weight_decay"]),
    "sophia_g": lambda rate, s: optimiz.sophia_g(
        rate, *s["betas"], weight_decay=s["weight_decay"], gamma=s["rho"] * s["bs"], classes=2
    ),
    "sophia_h": lambda rate, s: optimiz.sophia_h(
        rate, *s["betas"], s["eps"] * s["p"], s["weight_decay"] / s["p"], gamma=s["p"]
    ),
}


@functools.cache
def golden() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What was run, and the arrays: the problem's, and the snapshots of each case by ``case/leaf``."""
    with np.load(GOLDEN) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("provenance"))), arrays


def leaves(prefix: str) -> dict[str, np.ndarray]:
    """The arrays of a case, or of a part of the problem, by leaf."""
    _, arrays = golden()
    return {name.removeprefix(f"{prefix}/"): x for name, x in arrays.items() if name.startswith(f"{prefix}/")}


def _ours(case: str) -> optax.GradientTransformation:
    provenance, arrays = golden()
    return OURS[case](lambda count: jnp.asarray(arrays["rates"])[count], provenance["cases"][case]["settings"])


def _trajectory(tx: optax.GradientTransformation) -> dict[str, jax.Array]:
    """Parameters by leaf, [steps, ...], of an optimizer on the problem."""
    provenance, _ = golden()
    params, gradients, curvatures = (
        jax.tree.map(jnp.asarray, leaves(part)) for part in ("params", "gradients", "curvatures")
    )
    tx = optax.with_extra_args_support(tx)

    def step(carry, count):
        params, state = carry
        curvature = {name: h[count // provenance["refresh_every"]] for name, h in curvatures.items()}

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

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(provenance["steps"]))[1]


def snapshots(case: str) -> dict[str, np.ndarray]:
    """Ours by leaf, in float64, at the steps at which the source was recorded."""
    recorded = np.array(golden()[0]["snapshots"]) - 1
    # Twenty-four small steps take no time; compiling them does.
    hurried = {"xla_backend_optimization_level": 0}
    with jax.enable_x64(True):
        trajectory = jax.jit(lambda: _trajectory(_ours(case)), compiler_options=hurried)()
        return {name: np.asarray(x)[recorded] for name, x in trajectory.items()}


def deviation(ours: Mapping[str, np.ndarray], source: Mapping[str, np.ndarray]) -> float:
    """How far a trajectory, [snapshots, ...] by leaf, is from another, as DEVIATION says."""

    def largest(x):
        return np.abs(x).reshape(len(x), -1).max(axis=1)

    start = leaves("params")
    return max(
        float(np.max(largest(ours[name] - source[name]) / largest(source[name] - start[name])))
        for name in start
    )


def state_bytes_per_parameter(case: str) -> float:
    """What ours keeps, as STATE says, over the number of the parameter's entries."""
    state = jax.eval_shape(_ours(case).init, jax.ShapeDtypeStruct(STATE_SHAPE, jnp.float32))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / math.prod(STATE_SHAPE)


def measure() -> dict[str, Any]:
    """The record: every case, measured on this machine."""
    provenance, _ = golden()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "environment": environment(),
        "golden": {name: value for name, value in provenance.items() if name != "cases"},
        "deviation": DEVIATION,
        "state": STATE,
        "cases": {
            name: source
            | {
                "max_relative_deviation": deviation(snapshots(name), leaves(name)),
                "bound": BOUND,
                "state_bytes_per_parameter": state_bytes_per_parameter(name),
            }
            for name, source in provenance["cases"].items()
        },
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
    legend = (
        f"Over {record['golden']['steps']} steps at a varying rate, {record['date']}. "
        f"Deviation: {record['deviation']}. State: {record['state']}. "
        "[The record](../tests/records/parity.json) holds settings and versions, and says what is compared "
        "where a source differs."
    )
    return "\n".join(lines) + f"\n\n{legend}"


def main() -> None:
    """Write the record."""
    record = measure()
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    RECORD.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
