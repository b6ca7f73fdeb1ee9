"""What is not installed is asked for in one line, with the command."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def last_line(code, missing, tmp_path):
    # As Python starts, so that `python -m` is seen too.
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(missing=missing))
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("module", "missing", "said"),
    [
        ("optimiz.compare", ["matplotlib"], 'needs matplotlib: pip install "optimiz-jax[train]"'),
        ("optimiz.compare", ["markdown_it"], 'needs markdown_it: pip install "optimiz-jax[train]"'),
        ("optimiz.testing", ["chex"], 'needs chex: pip install "optimiz-jax[testing]"'),
        ("optimiz.testing", ["pytest"], 'needs pytest: pip install "optimiz-jax[testing]"'),
        ("optimiz.training", ["orbax", "filelock"], "needs filelock, orbax: pip install"),
    ],
)
def test_a_package_without_its_extra_says_what_to_install(module, missing, said, tmp_path):
    code, lines = last_line(["-c", f"import {module}"], missing, tmp_path)
    assert code == 1 and lines[-1].startswith(f"ModuleNotFoundError: {module} {said}")


@pytest.mark.quick(1)
@pytest.mark.parametrize("missing", ["flax", "tokenizers", "rich", "sklearn"])
def test_a_program_without_its_extra_is_one_line(missing, tmp_path):
    code, lines = last_line(["-m", "examples.finetune_text", "--output=x"], [missing], tmp_path)
    assert (code, lines) == (2, [f'error: examples needs {missing}: pip install "optimiz-jax[examples]"'])
