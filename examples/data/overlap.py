"""Keep examples that metrics are measured on out of training."""

from collections.abc import Hashable, Mapping, Sequence

_MOST = 0.1  # of a part; more of it in training than that is a mistake, and not for us to remove


def apart(
    train: Sequence[Hashable], others: Mapping[str, Sequence[Hashable]], sources: Mapping[str, str], what: str
) -> list[int]:
    """The rows of training examples that are in no other part.

    Args:
        train: a key of each example, equal for equal examples; None for one that does not count.
        others: other part → the same.
        sources: other part → where it comes from.
        what: what the examples are, such as "texts".

    Raises:
        ValueError: more than a tenth of a part is in training, or nothing is left of training.

    Example:
        >>> apart(["a", "b", "c"], {"test": ["b", "d"]}, {"test": "test.csv"}, "texts")
        [0, 2]
    """
    trained, held_out = set(train) - {None}, set()
    for name, keys in others.items():
        shared = sum(key in trained for key in keys)
        held_out |= {key for key in keys if key in trained}
        if shared > max(1, _MOST * len(keys)) or (shared and trained == held_out):
            raise ValueError(
                f"{sources[name]}: {shared} of its {len(keys)} {what} are in --data too, from which a model "
                f"learns them; remove them from one of the two, or omit --{name}, for a part of --data"
            )
    return [row for row, key in enumerate(train) if key not in held_out]


def note(what: str) -> str:
    """What is said of examples that were left out of training."""
    return f"{what} left out of training, as another part has them"
