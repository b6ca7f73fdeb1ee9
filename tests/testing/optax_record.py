"""The record of Optax's own optimizers under the contract, which docs/optax_under_the_contract.md shows.

python -m tests.testing.optax_record adam lion    measures these anew
python -m tests.testing.optax_record all          measures all
python -m examples.records                        renders what was measured
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import optax

import optimiz.testing as ot
from optimiz.compare.record import environment

ROOT = Path(__file__).parents[2]
PATH = ROOT / "tests/records/optax_contract.json"
STALE = "measure again: see tests/testing/optax_record.py"


# Name in Optax → options of the check. The rate is one at which it minimizes the quadratic.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adafactor": {"rate": 0.05},
    "adagrad": {"rate": 0.3},
    "adam": {},
    "adamax": {},
    "adamw": {},
    "amsgrad": {},
    "fromage": {"rate": 0.05},
    "lamb": {"rate": 0.1},
    "lars": {"rate": 100.0},
    "lion": {},
    "nadam": {},
    "nadamw": {},
    "novograd": {"rate": 0.1},
    "rmsprop": {},
    "sgd": {},
    "sign_sgd": {},
    "signum": {},
    "yogi": {"rate": 0.1},
    "contrib.muon": {"rate": 0.1},
}

# What is behind a broken promise in Optax 0.2.8.
CAUSES = {
    "state keeps its tree, shapes, dtypes and weak types": "Moments begin in the parameters' dtype, and "
    "float32 gradients of bfloat16 parameters promote them. The update is compiled twice, and `lax.scan` "
    "refuses it.",
    "counters are int32 and saturate": "The counter saturates, but the decay rate is computed from the counter "
    "plus one, which overflows. It takes two billion steps.",
    "updates have the dtype of the parameters whatever the learning rate is": "A NumPy scalar as the learning "
    "rate promotes the updates. A Python number and a schedule do not. `optax.apply_updates` casts back.",
    "x64 mode changes nothing for float32 parameters": "Bias correction takes 1 − β₂ᵗ in the default float: in "
    "float32 it is off by 1e-5 of itself. With `muon` the state changes its dtype.",
    "statistics of low-precision parameters are accurate": "Second moments are in the parameters' dtype. In "
    "bfloat16, β₂ = 0.999 times a number rounds to the number, and the moment does not decay. In float16, "
    "squares of small gradients are zero.",
    "a gradient of zero is harmless": "ε = 1e-8 is zero in float16, and 0 / (0 + ε) is NaN.",
    "a tiny gradient is harmless": "The gradient is zero in float16, and then as for a gradient of zero.",
    "a huge gradient does no lasting harm": "The square overflows and the second moment stays infinite: its "
    "parameters never move again. In float16 a gradient of 300 is enough.",
    "an array without entries is harmless": "The orthogonalization divides by a size.",
}

# What an optimizer decides otherwise for a reason: optimizer, promise → the reason.
BY_DESIGN = {
    (
        "contrib.muon",
        "with a gradient of zero weight decay only shrinks",
    ): "`weight_decay` is for the matrices; the other parameters have `adam_weight_decay`.",
    ("contrib.muon", "weight decay spares what its mask names"): "as above.",
    ("fromage", "the first update is proportional to the learning rate"): "Fromage divides by √(1 + η²).",
}


def subject(name: str) -> ot.Subject:
    """An optimizer of Optax as the checks see it."""
    factory = optax
    for part in name.split("."):
        factory = getattr(factory, part)
    return ot.Subject(factory, **OPTIMIZERS[name])


def promises() -> list[ot.Promise]:
    """The promises of the record: all that can be checked on one device."""
    return [promise for promise in ot.PROMISES if promise.theme != "devices"]


def measure(name: str) -> dict[str, Any]:
    """What one optimizer keeps, breaks and how, and what does not apply to it."""
    cases = ot.promises(subject(name), conventions=True)
    outcomes = [case.outcome() for case in cases if case.promise.theme != "devices"]
    return {
        status: {str(o.promise): _message(o.message) for o in outcomes if o.status == status}
        for status in ("kept", "broken", "not applicable")
    }


def _message(text: str) -> str:
    """A message in one line, without the subject's name and without paths of this machine."""
    text = " ".join(text.partition("': ")[2].split() or text.split())
    text = re.sub(r"\S*/site-packages/", "", text)
    return text if len(text) < 240 else text[:240].rsplit(" ", 1)[0] + " …"


def render(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    found, versions = record["optimizers"], record["environment"]["versions"]
    broken: dict[str, list[str]] = {}
    for name, outcomes in found.items():
        for promise in outcomes["broken"]:
            if (name, promise) not in BY_DESIGN:
                broken.setdefault(promise, []).append(name)
    all_promises = promises()
    defects = [p for p in all_promises if p.name in broken and not p.convention]
    conventions = [p for p in all_promises if p.name in broken and p.convention]
    kept = [p for p in all_promises if not any(p.name in outcomes["broken"] for outcomes in found.values())]
    lines = [
        f"Optax {versions['optax']}, JAX {versions['jax']}, on a CPU; {len(found)} optimizers, "
        f"{len(all_promises)} promises.",
        "",
        "| promise | broken by |",
        "| --- | --- |",
        *(f"| {p.name} | {len(broken[p.name])} of {len(found)} |" for p in defects),
    ]
    for p in defects:
        names = broken[p.name]
        example = "adam" if "adam" in names else names[0]
        options = "".join(f", {key}={value!r}" for key, value in OPTIMIZERS[example].items())
        lines += [
            "",
            f"### {p.name[0].upper()}{p.name[1:]}",
            "",
            p.why,
            *(["", CAUSES[p.name]] if p.name in CAUSES else []),
            "",
            "Broken by " + ", ".join(f"`{name}`" for name in names) + ".",
            "",
            "```python",
            f'ot.check(optax.{example}{options}, only=["{p.name}"])',
            f"# {found[example]['broken'][p.name]}",
            "```",
        ]
    lines += [
        "",
        "## By design",
        "",
        *(f"- `{name}`, {promise}: {reason}" for (name, promise), reason in BY_DESIGN.items()),
        "",
        "## Conventions of this suite",
        "",
        "Promises of this suite that Optax never gave:",
        "",
        *(f"- {p.name}: not kept by {len(broken[p.name])} of {len(found)}" for p in conventions),
        "",
        "## Kept by all",
        "",
        *(f"- {p.name}" for p in kept),
    ]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    record = json.loads(PATH.read_text()) if PATH.is_file() else {"optimizers": {}}
    for name in OPTIMIZERS if names == ["all"] else names:
        found = measure(name)
        print(f"{name}: {len(found['kept'])} kept, {len(found['broken'])} broken", flush=True)
        for promise, message in found["broken"].items():
            print(f"    {promise}: {message}", flush=True)
        record["optimizers"][name] = found
        record["environment"] = environment()
        PATH.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
