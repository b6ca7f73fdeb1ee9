"""Names in code become links: those of this suite to the reference, others to Optax's, JAX's and Flax's pages.

A name that is written as code, such as ``optimiz.adamw`` or ``jax.jit``, links to where it is documented, with
or without arguments behind it. A name of the three libraries that the installed version does not have is a
warning. What their documentation does not list, or ``inventories.py`` was not run for, is left as it is.
"""

import functools
import inspect
import re
from collections.abc import Container, Mapping
from pathlib import Path

import inventories
import reference
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from optimiz import methods

MAPPING = {name: (url, str(inventories.FOLDER / f"{name}.inv")) for name, url in inventories.SITES.items()}
_CODE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(\([^()]*\))?")
_LOGGER = logging.getLogger(__name__)


def setup(app):
    """Connect the transform, the search for what a role names, and links to source."""
    app.add_transform(Names)
    app.connect("missing-reference", _found_elsewhere)
    app.connect("viewcode-follow-imported", lambda app, *entry: source_of(*entry))


def in_full(name: str, documented: Container[str]) -> str | None:
    """What a role in a docstring means by a name that its module, but not the reference, has there.

    Args:
        name: such as ``over_steps`` or ``Layout.params``.
        documented: full names of the entries of the reference.
    """
    return next((full for m in reference.MODULES if (full := f"{m}.{name}") in documented), None)


def _found_elsewhere(app, env, node, content):
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    full = in_full(node["reftarget"], domain.objects)
    if full is None:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)


def source_of(module: str, name: str) -> str | None:
    """The module to whose source an entry links, or its own, which has no such source, for no link.

    A source leads back to one entry: to that in the module it is from, where a second module has it too.

    Args:
        module: of the entry, as it is called in the reference.
        name: of the entry, such as ``environment`` or ``Layout.params``.
    """
    name = name.partition(".")[0]
    value = getattr(reference.MODULES.get(module), name, None)
    source = getattr(value, "__module__", None)
    if source is None or not (inspect.isclass(value) or inspect.isroutine(value)):
        return None
    homes = [home for home in reference.MODULES if source.startswith(f"{home}.") and home != "optimiz"]
    is_elsewhere = any(
        home != module and getattr(reference.MODULES[home], name, None) is value for home in homes
    )
    return module if is_elsewhere else source


def listed() -> set[str]:
    """The names in the inventories."""
    lines = [line for path in inventories.FOLDER.glob("*.inv") for line in Path(path).read_text().splitlines()]
    return {line.split()[0] for line in lines if not line.startswith("#")}


def own() -> Mapping[str, str]:
    """How a name of this suite is written, and what it is called in full."""
    found = {name: f"optimiz.{name}" for name in methods.METHODS}
    for module, value in reference.MODULES.items():
        names = [f"{module}.{name}" for name in reference.public(value)]
        classes = [item for item in reference.public(value).items() if inspect.isclass(item[1])]
        members = [f"{name}.{member}" for name, each in classes for member in _members(each)]
        names += [f"{module}.{member}" for member in members]
        found |= {name: name for name in names}
        if "." in module:
            found |= {module: module} | {name.removeprefix("optimiz."): name for name in names}
        found |= {member: f"{module}.{member}" for member in members if member not in found}
    return found


def _members(each: type) -> list[str]:
    """The methods and properties of a class that have an entry."""
    kinds = (property, functools.cached_property, classmethod, staticmethod)
    return [
        name
        for name, value in vars(each).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, kinds))
        and value.__doc__
    ]


class Names(SphinxTransform):
    """Links around code that is a name."""

    default_priority = 500
    _own: Mapping[str, str] = own()
    _listed: set[str] = listed()

    def apply(self, **kwargs):
        """Wrap what has a target."""
        for node in list(self.document.findall(nodes.literal)):
            parents = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature)
            if not isinstance(node.parent, parents) and (target := self._target(node)):
                link = addnodes.pending_xref(
                    "",
                    refdomain="py",
                    reftype="obj",
                    reftarget=target,
                    refexplicit=True,
                    refwarn=True,
                    refdoc=self.env.docname,
                )
                node.replace_self(link)
                link += node

    def _target(self, node):
        match = _CODE.fullmatch(node.astext())
        if match is None:
            return None
        name = inventories.in_full(match[1])
        if name.partition(".")[0] not in inventories.SITES or "." not in name:
            return self._own.get(name)
        if name in self._listed:
            return name
        if inventories.value_of(name) is None:
            _LOGGER.warning("%s does not exist", name, location=node)
        return None
