"""The smallest example learns, and the README shows its lines."""

import re
import subprocess
import sys

from tests.conftest import ROOT


def test_it_learns_the_digits():
    command = [sys.executable, "-m", "examples.minimal"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.removeprefix("test accuracy: ")) > 0.96


def test_the_readme_shows_its_core():
    example = (ROOT / "examples/minimal.py").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 15 and len(example.splitlines()) <= 40
    rest = iter(example.splitlines())
    assert all(line in rest for line in lines)  # in the same order
