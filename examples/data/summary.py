"""Summarize what to know about data before training on them, for the screen and for the report."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from examples.data import shown
from optimiz import compare

_SHOWN = 20  # classes
_UNEVEN = 10  # times as many examples of one class as of another
_TWICE = 2  # times as many examples of another part as of training: are two files mixed up?
_FEW = 50  # examples, on which a metric is coarse


@dataclasses.dataclass(frozen=True)
class Summary:
    """Facts about data, and warnings.

    Attributes:
        facts: name → value, as text.
        warnings: one sentence each.
    """

    facts: Mapping[str, str]
    warnings: Sequence[str] = ()

    def __or__(self, other: "Summary") -> "Summary":
        return Summary({**self.facts, **other.facts}, [*self.warnings, *other.warnings])

    def show(self) -> None:
        """Print the summary."""
        lines = [f"{name}: {value}" for name, value in self.facts.items()]
        for line in [*lines, *(f"warning: {warning}" for warning in self.warnings)]:
            print(compare.shown(" ".join(line.split())), flush=True)

    def rows(self) -> dict[str, str]:
        """The summary as rows of a report's task."""
        warnings = {f"warning {i}": text for i, text in enumerate(self.warnings, 1)}
        return {**self.facts, **warnings}


def counted(count: int, what: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "texts"), counted(2, "texts")
        ('1 text', '2 texts')
    """
    return f"{count} {what.removesuffix('s') if count == 1 else what}"


def of_classes(labels: Mapping[str, np.ndarray], names: Sequence[str]) -> Summary:
    """The number of examples of each part, and of each class in training.

    Args:
        labels: part → indices of classes; "train" is one of the parts.
        names: names of the classes.

    Example:
        >>> summary = of_classes({"train": np.array([0, 0, 1]), "test": np.array([0] * 60)}, ["a", "b"])
        >>> summary.facts["classes"]
        '2; in training: a 2, b 1'
        >>> summary.warnings
        ["test has no example of the class 'b'", 'test has more than twice as many examples as train, 60 and 3']
    """
    counts = {part: np.bincount(of_part, minlength=len(names)) for part, of_part in labels.items()}
    in_training = counts["train"]
    order = np.argsort(-in_training, kind="stable") if len(names) > _SHOWN else np.arange(len(names))
    listed = [f"{shown.name(names[i])} {in_training[i]}" for i in order[:_SHOWN]]
    if len(names) > _SHOWN:
        listed += [f"…, {shown.name(names[order[-1]])} {in_training[order[-1]]}"]
    facts = {
        "examples": ", ".join(f"{count.sum()} {part}" for part, count in counts.items()),
        "classes": f"{len(names)}; in training: {', '.join(listed)}",
    }
    warnings = []
    total = sum(count.sum() for count in counts.values())
    if 2 * len(names) > total:
        told = f"{len(names)} classes of {total} examples"
        warnings.append(f"{told}: do the labels name classes, or are they numbers or the examples' own names?")
    for part, count in counts.items():
        missing = [shown.value(names[i]) for i in np.flatnonzero(count == 0)]
        if missing:
            more = f" and {len(missing) - 3} more" * (len(missing) > 3)
            classes = "the class" if len(missing) == 1 else "the classes"
            warnings.append(f"{part} has no example of {classes} {', '.join(missing[:3])}{more}")
        if part != "train" and count.sum() > _TWICE * in_training.sum():
            warnings.append(
                f"{part} has more than twice as many examples as train, {count.sum()} and {in_training.sum()}"
            )
        if part != "train" and count.sum() < _FEW:
            one = f"each of them is {1 / max(count.sum(), 1):.1%} of its accuracy"
            warnings.append(f"{part} has only {counted(count.sum(), 'examples')}: {one}")
    most, least = in_training.argmax(), in_training.argmin()
    if in_training[most] >= _UNEVEN * in_training[least] > 0:
        warnings.append(
            f"the classes are uneven, in training {in_training[most]} of {shown.value(names[most])} and "
            f"{in_training[least]} of {shown.value(names[least])}: look at macro_f1 or mcc besides the accuracy"
        )
    return Summary(facts, warnings)


def of_equals(keys: Mapping[str, Sequence[Any]], labels: Mapping[str, np.ndarray], what: str) -> Summary:
    """The number of examples that occur more than once: in two parts, or with two classes.

    Args:
        keys: part → a hashable key of each example, equal for equal examples; "train" is the first.
        labels: part → the class of each example.
        what: what the examples are, such as "images".

    Example:
        >>> of_equals({"train": "ab", "test": "a"}, {"train": [0, 1], "test": [1]}, "images").warnings
        ['test shares 1 image with train: its metrics are optimistic', \
'1 image with two classes or more']
    """
    seen: dict[str, set[Any]] = {}
    facts, warnings = {}, []
    classes: dict[Any, set[int]] = {}
    total = 0
    for part, of_part in keys.items():
        total += len(of_part)
        for key, label in zip(of_part, labels[part], strict=True):
            classes.setdefault(key, set()).add(int(label))
        for other, others in seen.items():
            if shared := sum(key in others for key in of_part):
                shares = f"{part} shares {counted(shared, what)} with {other}"
                warnings.append(f"{shares}: its metrics are optimistic")
        seen[part] = set(of_part)
    several = sum(len(found) > 1 for found in classes.values())
    if several:
        warnings.append(f"{counted(several, what)} with two classes or more")
    if total > len(classes):
        facts["duplicates"] = counted(total - len(classes), what)
    return Summary(facts, warnings)
