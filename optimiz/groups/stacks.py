"""Stacked layers that ``scanned`` does not declare: they show in norms, and where attention's widths differ."""

import re
from collections.abc import Iterable, Mapping

from optimiz.groups.rules import Leaf, Reading, norms

_DECLARE = 'declare them, as in scanned={"^layers/": 0}, or scanned={} if nothing is stacked'


def refuse_undeclared_stacks(reading: Reading, kinds: Mapping[str, str], named: Iterable[str] = ()) -> None:
    """Refuse stacked layers that are not declared, whose kernels would be misread.

    A norm has one axis; with two, it is that of stacked layers. Queries take as many inputs as attention has
    outputs; where they do not, the first axis counts layers.

    Args:
        reading: a whole tree.
        kinds: the kind of each parameter by its path.
        named: patterns of paths that are not asked.

    Raises:
        ValueError: there is such a norm, or such attention.
    """
    leaves = [leaf for leaf in reading.leaves if not any(re.search(pattern, leaf.path) for pattern in named)]
    for leaf in leaves:
        if norms.test(leaf) and sum(side > 1 for side in _of_a_layer(leaf)) > 1:
            raise ValueError(
                f"the norm {leaf.path} of shape {leaf.shape} looks like that of stacked layers: {_DECLARE}"
                if leaf.scanned is None
                else f"the norm {leaf.path} of shape {leaf.shape} has more axes than its own and the declared "
                f"{leaf.scanned}, as in nested stacks: override their kernels, and this norm, by name"
            )
    outs = {_module(leaf): leaf for leaf in leaves if kinds[leaf.path] == "o" and leaf.rank == 3}
    for leaf in leaves:
        out = outs.get(_module(leaf))
        if kinds[leaf.path] != "q" or leaf.rank != 3 or out is None:
            continue
        if _of_a_layer(leaf)[0] != _of_a_layer(out)[-1]:
            raise ValueError(
                f"{leaf.path} of shape {leaf.shape} and {out.path} of {out.shape} look like those of stacked "
                f"layers: {_DECLARE}"
            )


def _of_a_layer(leaf: Leaf) -> list[int]:
    return [side for axis, side in enumerate(leaf.shape) if axis != leaf.scanned]


def _module(leaf: Leaf) -> str:
    """The module of attention that a projection's kernel is in."""
    return "/".join(leaf.path.split("/")[:-2])
