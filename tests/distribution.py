"""Checks what is published: ``python -m build && python -m tests.distribution dist``, which .ci/run calls.

The wheel holds the library and nothing else; the sdist also has the programs, and neither of the two has tests.
In a fresh environment, with no extra, every module of the wheel can be imported or says what to install. The
first cells of the tutorials, which install a release, find all packages where an index has these files.
"""

import os
import re
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
import importlib, sys, optimiz
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert 'pip install "optimiz-jax[' in str(error), (name, error)
optimiz.adamw(1e-3)
"""


def check_wheel_alone(dist: Path) -> None:
    """Install the wheel in a fresh environment, and import every module there."""
    [wheel] = dist.glob("*.whl")
    files = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin/python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel.resolve()], cwd=folder, check=True)
        subprocess.run([python, "-c", _IMPORT_ALL, *modules], cwd=folder, check=True)


def check_first_cells(dist: Path) -> None:
    """Run the first cells of the tutorials, all but the installation itself, whose packages must be found."""
    pages = Path(__file__).parent.parent.glob("docs/tutorials/*.md")
    cells = {re.search(r":tags: \[skip-execution\]\n\n(.*?)```", page.read_text(), re.DOTALL) for page in pages}
    assert None not in cells, "a tutorial has no first cell that installs a release"
    for cell in {found[1] for found in cells if found is not None}:
        script = re.sub("^[%!]", "", cell, flags=re.MULTILINE)
        script = re.sub(r"\bpip install", "pip install --dry-run", script)
        with tempfile.TemporaryDirectory() as folder:
            found = os.environ | {"PIP_FIND_LINKS": str(dist.resolve())}
            subprocess.run(["bash", "-ec", script], cwd=folder, env=found, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("python -m tests.distribution DIST")
    check_contents(Path(sys.argv[1]))
    check_wheel_alone(Path(sys.argv[1]))
    check_first_cells(Path(sys.argv[1]))
