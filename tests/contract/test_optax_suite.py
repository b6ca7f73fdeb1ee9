"""Optax's own published tests pass with our factories in place of theirs.

The test files come from the installed wheel and run unmodified (see optax_suite.py). They are pinned by hash: a
new release of Optax is looked at before its tests are trusted.
"""

import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from tests.conftest import ROOT, on_devices

# Suite of release 0.2.8: SHA-256 of its file, and how many of its tests start an optimizer of ours:
# more, when we have more.
SUITES = {
    "optax._src.alias_test.AliasTest": (
        "bd2520b4b30ec67351b6d99919f29da9d904846e0517d85f030b2fd597973614",
        302,
    ),
    "optax._src.float64_test": ("889e4fd34dcf8fe119e34a184b219a6e301e3611be0b2645e9bfb8e817f74b24", 7),
    "optax._src.sharding_test": ("22091024283a63b1174459b3112b3d073d4fa4a9b3d9cb1af75fc43731a6d1b1", 15),
    "optax.contrib._common_test": ("4084b44210d315ff2198e1e6092cafb1dc252189981bbd3368f6eff351429b6f", 184),
    "optax.contrib._schedule_free_test": (
        "cb3a57dc0c6cedf36addf081d48f0b46c0ca5c9d5e3083f3246c5d7d6944da31",
        16,
    ),
    "optax.transforms._accumulation_test": (
        "b8d5793ee173c00fa022819442f503b22785c8efe48e21292cc8e35ada06e7d6",
        6,
    ),
}
LONG = {
    "optax._src.alias_test.AliasTest",
    "optax._src.float64_test",
    "optax.contrib._common_test",
    "optax.transforms._accumulation_test",
}


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "suite", [pytest.param(suite, marks=pytest.mark.long if suite in LONG else ()) for suite in SUITES]
)
def test_optax_suite(suite):
    digest, least = SUITES[suite]
    module = re.sub(r"\.[A-Z]\w*$", "", suite)
    path = Path(importlib.util.find_spec(module).origin)
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        pytest.skip(f"{module} of Optax {optax.__version__} is not the one that was looked at")
    command = [sys.executable, "-m", "tests.contract.optax_suite", suite]
    environment = on_devices(8)  # as sharding_test asks
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    passed, failed = map(int, re.findall(r"(\d+) (?:passed|failed)", done.stdout.splitlines()[-1]))
    assert failed == 0
    assert passed >= least


def test_where_the_one_unshared_test_fails_ours_is_nearer_to_float64():
    def trained(tx, dtype):
        params = jnp.array([1.0, 2.0], dtype)
        state = tx.init(params)
        for _ in range(5):
            updates, state = tx.update(2 * params, state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params, np.float64)

    def error(make):
        tx = optax.contrib.schedule_free(make(1.0, b1=0.0, weight_decay=1e-4), learning_rate=1.0, b1=0.9)
        single = trained(tx, jnp.float32)
        with jax.enable_x64(True):
            return np.abs(single - trained(tx, jnp.float64)).max()

    assert error(optimiz.adamw) < 0.1 * error(optax.adamw)  # 1e-7 and 4e-6
