"""Labels of parameters: names for ``optax.partition``, multipliers, or how a mesh splits them."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import optax

from optimiz import checks
from optimiz.groups.rules import read


def label(
    rules: Mapping[Hashable, Any | Callable[[optax.Params], Any]], default: Hashable | None = None
) -> Callable[[optax.Params], Any]:
    """Label each parameter by the first rule that covers it.

    Labels are names for ``optax.partition``, multipliers for ``optimiz.scale_by_groups``, or the
    ``PartitionSpec`` of a mesh's layout.

    Args:
        rules: rule by label, or another function from the parameters to a tree of booleans, or such a tree. The
            first rule that is True for a parameter decides.
        default: label of parameters that no rule covers; None to refuse them.

    Returns:
        A function from a tree of parameters to the tree of labels. It raises ValueError for a
        parameter without a label and, on a whole tree, for a label without a parameter.

    Raises:
        TypeError: a rule is neither a function of the parameters nor a tree of booleans.

    Example:
        >>> from optimiz.groups import everything, path
        >>> label({"head": path("^head"), "rest": everything})({"head": 1.0, "stem": 1.0})
        {'head': 'head', 'stem': 'rest'}
        >>> label({10.0: path("^head")}, default=1.0)({"head": 1.0, "stem": 1.0})  # ten times the rate
        {'head': 10.0, 'stem': 1.0}
    """
    answers_of = {name: checks.mask(f"the rule of label {name!r}", rule) for name, rule in rules.items()}

    def labels(params: optax.Params) -> Any:
        reading = read(params)
        covered = {
            name: jax.tree.leaves(jax.tree.broadcast(answers(params), params))
            for name, answers in answers_of.items()
        }
        answers = [
            next((name for name in rules if covered[name][i]), default) for i in range(len(reading.leaves))
        ]
        bare = [x.path for x, answer in zip(reading.leaves, answers, strict=True) if answer is None]
        if bare:
            raise ValueError(f"no rule covers {', '.join(bare)}; the labels are {list(rules)}")
        for name in rules if reading.whole else ():
            if name not in answers:
                why = (
                    f"earlier rules cover all that {rules[name]!r} matches"
                    if any(covered[name])
                    else f"{rules[name]!r} matches none of {reading.some_paths()}"
                )
                raise ValueError(f"label {name!r} names no parameter: {why}")
        return reading.tree(answers)

    return labels
