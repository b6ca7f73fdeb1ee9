"""Inventories of Optax's, JAX's and Flax's documentation, so that names link there without a network.

    python docs/site/inventories.py --optax=CLONE --jax=CLONE --flax=CLONE

reads in clones of the repositories of the three on which page of the documentation each name stands, and writes
the names that these pages and docstrings mention to ``inventories``, in version 1 of Sphinx's format, which is
plain text.
"""

import argparse
import importlib
import posixpath
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "inventories"
SITES = {
    "optax": "https://optax.readthedocs.io/en/latest/",
    "jax": "https://docs.jax.dev/en/latest/",
    "flax": "https://flax.readthedocs.io/en/latest/",
}
_SOURCES = {"optax": "docs", "jax": "docs", "flax": "docs_nnx"}
_SHORT = {"jnp": "jax.numpy", "nnx": "flax.nnx", "lax": "jax.lax"}
_NAME = re.compile(r"(?<![\w./])(?:optax|jax|flax|jnp|nnx|lax)(?:\.[A-Za-z]\w*)+")


def in_full(name: str) -> str:
    """A name without abbreviations of modules, such as ``jax.numpy.where`` for ``jnp.where``."""
    first, dot, rest = name.partition(".")
    return _SHORT.get(first, first) + dot + rest


def mentioned() -> set[str]:
    """The names of the three libraries in pages and docstrings."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/tutorials/*.md")]
    texts = [path.read_text(encoding="utf-8") for path in [*pages, *ROOT.glob("optimiz/**/*.py")]]
    return {in_full(name) for text in texts for name in _NAME.findall(text)}


def documented(clone: str, folder: str) -> Iterator[tuple[str, str]]:
    """Each name that the documentation in a clone has, and its page.

    Args:
        clone: path of the clone; it may be bare.
        folder: folder of the documentation's sources.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", clone, *arguments], check=True, capture_output=True, text=True
        ).stdout

    for path in git("ls-tree", "-r", "--name-only", "HEAD", folder).split():
        if not path.endswith(".rst") or "/_templates/" in path:
            continue
        page, module, listed = path.removeprefix(f"{folder}/").removesuffix(".rst"), "", None
        for line in git("show", f"HEAD:{path}").splitlines():
            directive = re.match(r"\s*\.\. ([\w-]+):: *(\S*)", line)
            option = re.match(r"\s+:(toctree|module|class|function): *(\S*)", line)
            if directive:
                kind, name = directive.groups()
                listed = "" if kind == "autosummary" else None
                module = name if kind in ("currentmodule", "automodule") else module
                if kind in ("autofunction", "autoclass", "autodata"):
                    yield name if "." in name else f"{module}.{name}", f"{page}.html"
            elif option and option[1] == "toctree" and listed is not None:
                listed = posixpath.join(posixpath.dirname(page), option[2].rstrip("/"))
            elif option and option[1] == "module":
                module = option[2]
            elif option and option[1] in ("class", "function"):
                yield f"{module}.{option[2].partition('<')[0]}", f"{page}.html"
            elif listed and re.fullmatch(r"\s+[\w.]+\s*", line):
                name = f"{module}.{line.strip()}"
                yield name, f"{listed}/{name}.html"
            elif line and not line.startswith(" "):
                listed = None


def value_of(name: str) -> Any:
    """What a name stands for; None if the installed version does not have it."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            value = getattr(value, part, None)
        return value
    return None


def described(pages: Mapping[str, str], wanted: Iterable[str]) -> dict[str, str]:
    """The page of each wanted name, which may be documented under another name of the same thing."""
    found = {}
    for name in sorted(wanted):
        last, value = name.rpartition(".")[2], value_of(name)
        others = [other for other in pages if re.fullmatch(rf"\w[\w.]*[._]{last}", other)]
        same = [other for other in others if other == name or value_of(other) is value is not None]
        if same:
            found[name] = pages[name if name in same else same[0]]
    return found


def _kind(name: str) -> str:
    value = value_of(name)
    return "class" if isinstance(value, type) else "function" if callable(value) else "data"


def main() -> None:
    """Write the three inventories."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for library in SITES:
        parser.add_argument(f"--{library}", required=True, help=f"clone of {library}'s repository")
    clones, wanted = vars(parser.parse_args()), mentioned()
    FOLDER.mkdir(exist_ok=True)
    for library in SITES:
        own = {name for name in wanted if name.startswith(f"{library}.")}
        found = described(dict(documented(clones[library], _SOURCES[library])), own)
        lines = [f"{name} {_kind(name)} {page}" for name, page in found.items()]
        head = ["# Sphinx inventory version 1", f"# Project: {library}", "# Version: latest"]
        (FOLDER / f"{library}.inv").write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
        print(f"{library}: {len(lines)} names; not documented: {', '.join(sorted(own - set(found)))}")


if __name__ == "__main__":
    main()
