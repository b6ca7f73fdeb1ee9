"""The example of ``jax.pmap`` learns on several devices."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT, on_devices


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("salsa", marks=pytest.mark.long)])
def test_it_learns_the_digits(optimizer):
    command = [sys.executable, "-m", "examples.pmap_digits", f"--optimizer={optimizer}"]
    done = subprocess.run(command, cwd=ROOT, env=on_devices(2), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith(f"{optimizer} on 2 devices: 0.9"), done.stdout
