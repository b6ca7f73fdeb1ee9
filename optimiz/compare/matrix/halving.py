"""Successive halving: many arms at a part of the budget, and the best of them at the whole of it.

At each rung, the arms of an optimizer that are left run at a share of the budget, from every seed and from the
start, and decay fully at its end. As many of the best by validation go on as make every rung about equally
expensive: of n at a share f, ⌈n f/f'⌉ at the next share f'. The last ones run at the whole budget.

An arm is judged by runs that have decayed, because a rate that is still high hides what it has learnt: at equal
progress of undecayed runs, low rates look better than they are. What remains is the bias of a short run. It
favours what learns fast at first, usually higher rates, shorter warm-ups and less decay than are best at the
whole budget. Each optimizer is halved alone, so that none is judged by short runs against another.

Source: Jamieson and Talwalkar, arXiv 1502.07943; Li et al., Hyperband, arXiv 1603.06560.

Departures: arms start again at each rung, where the sources continue them; the share of arms that goes on
follows from the rungs.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from optimiz import checks


def check_halving(halving: Any, budget: float | None) -> None:
    """Check the argument ``halving`` of ``run_matrix``.

    Raises:
        TypeError: it is not a list of numbers.
        ValueError: the shares do not ascend in (0, 1), or there is no budget.
    """
    checks.kinds({"halving": (halving, Sequence, "a list of shares of the budget, such as [0.25, 0.5]")})
    for share in halving:
        checks.number("each of halving", share, gt=0, lt=1)
    if any(a >= b for a, b in itertools.pairwise(halving)):
        raise ValueError(f"halving must ascend, got {list(halving)}")
    if halving and budget is None:
        raise ValueError(
            "halving needs Settings(budget=), as a schedule over steps does not end at a share of them; got "
            f"halving={list(halving)} without a budget"
        )


def promoted(levels: Mapping[str, float], share: float, next_share: float) -> list[str]:
    """The arms that go on to the next rung, the best first.

    Args:
        levels: name of the arm → mean validation score at this rung, -∞ if a run diverged; at least one.
        share: share of the budget at this rung, in (0, 1).
        next_share: that at the next one, in (share, 1].

    Returns:
        ⌈n share / next_share⌉ names of n; among equals, the first by name.

    Example:
        >>> promoted({"a 0.1": 0.5, "a 0.3": 0.7, "a 0.2": 0.5, "a 0.4": 0.6}, 0.25, 0.5)
        ['a 0.3', 'a 0.4']
        >>> promoted({"b": 0.5, "a": 0.5, "c": 0.1}, 0.25, 1.0)
        ['a']
    """
    number = math.ceil(len(levels) * share / next_share - 1e-9)  # 3 · ⅓ is one, whatever the rounding
    return sorted(levels, key=lambda name: (-levels[name], name))[:number]
