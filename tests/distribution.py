"""Checks what is published: ``python -m build && python -m tests.distribution dist``, which .ci/run calls.

The wheel holds the library and nothing else; the sdist also has the programs, and neither of the two has tests.
In a fresh environment, with no extra, every module of the wheel can be imported or says what to install.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import optimiz


def check_contents(dist: Path) -> None:
    """Check that the wheel and the sdist in a folder hold what they must and no more."""
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    for path in (wheel, sdist):
        assert path.name.startswith(f"optimiz_jax-{optimiz.__version__}"), path.name
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [name for name in names if not name.startswith(("optimiz/", "optimiz_jax-"))]
    strangers += [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert not strangers, strangers
    assert "optimiz/py.typed" in names
    package = Path(optimiz.__file__).parent
    sources = {path.relative_to(package.parent) for path in package.rglob("*.py")}
    assert {Path(name) for name in names if name.endswith(".py")} == sources
    with tarfile.open(sdist) as file:
        kept = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "optimiz/py.typed"} <= kept
    programs = {str(path.relative_to(package.parent)) for path in (package.parent / "examples").rglob("*.py")}
    assert programs <= kept
    assert not [name for name in kept if name.startswith(("build/", "dist/", "runs/", "tests/"))]


_IMPORT_ALL = """
import importlib, pkgutil, optimiz
for module in pkgutil.iter_modules(optimiz.__path__, "optimiz."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert 'pip install "optimiz-jax[' in str(error), error
optimiz.adamw(1e-3)
"""


def check_wheel_alone(dist: Path) -> None:
    """Install the wheel in a fresh environment, and import every module there."""
    [wheel] = dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin/python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel.resolve()], cwd=folder, check=True)
        subprocess.run([python, "-c", _IMPORT_ALL], cwd=folder, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("python -m tests.distribution DIST")
    check_contents(Path(sys.argv[1]))
    check_wheel_alone(Path(sys.argv[1]))
