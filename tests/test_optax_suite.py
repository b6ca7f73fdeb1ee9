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

import optax
import pytest

import optimiz

ROOT = Path(__file__).parents[1]
NAMES = [page.stem for page in (ROOT / "optimiz/optimizers").glob("*.py") if hasattr(optax, page.stem)]

# Module of release 0.2.8: SHA-256 of its file, and the least number of tests that are to pass.
SUITES = {
    "optax._src.alias_test": (
        "bd2520b4b30ec67351b6d99919f29da9d904846e0517d85f030b2fd597973614",
        15 * len(NAMES),
    ),
    "optax._src.float64_test": ("889e4fd34dcf8fe119e34a184b219a6e301e3611be0b2645e9bfb8e817f74b24", 4),
    "optax._src.sharding_test": ("22091024283a63b1174459b3112b3d073d4fa4a9b3d9cb1af75fc43731a6d1b1", 4),
    "optax.transforms._accumulation_test": (
        "b8d5793ee173c00fa022819442f503b22785c8efe48e21292cc8e35ada06e7d6",
        12,
    ),
}


@pytest.mark.parametrize(
    "module",
    [pytest.param(module, marks=pytest.mark.long if "accumulation" in module else ()) for module in SUITES],
)
def test_optax_suite(module):
    digest, least = SUITES[module]
    path = Path(importlib.util.find_spec(module).origin)
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        pytest.skip(f"{module} of Optax {optax.__version__} is not the one that was looked at")
    assert all(hasattr(optimiz, name) for name in NAMES)
    command = [sys.executable, "-m", "tests.optax_suite", module, ",".join(NAMES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    passed, failed, _ = map(int, re.findall(r"(\d+) (?:passed|failed|skipped)", done.stdout.splitlines()[-1]))
    assert failed == 0, done.stderr[-4000:]
    assert passed >= least
