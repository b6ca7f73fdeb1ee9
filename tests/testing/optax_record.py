"""The record of Optax's own optimizers under the contract, and the page rendered from it.

python -m tests.testing.optax_record adam lion    measures these anew, and renders
python -m tests.testing.optax_record all          measures all
python -m tests.testing.optax_record              renders what was measured before
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optimiz.testing as ot
from optimiz.compare.record import environment

ROOT = Path(__file__).parents[2]
PATH = ROOT / "tests/records/optax_contract.json"
PAGE = ROOT / "docs/optax_under_the_contract.md"
STALE = "measure or render again: see tests/testing/optax_record.py"


def _curvature(g, p):
    """The function whose curvature Sophia estimates."""
    return {
        "obj_fn": lambda q: sum(
            (jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(q)), jnp.float32(0)
        )
    }


# Name in Optax → options of the check. The rate is one at which it minimizes the quadratic.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adafactor": {"rate": 0.05},
    "adagrad": {"rate": 0.3},
    "adam": {},
    "adamax": {},
    "adamw": {},
    "adan": {},
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
    "contrib.sophia": {"extra_args": _curvature},
}

# What is behind a broken promise in Optax 0.2.8, and what it means in practice.
NOTES = {}


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
