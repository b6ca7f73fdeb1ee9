"""The flags of one program, and the checks of their values when they are parsed."""

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from absl import flags

LARGEST_INTEGER, LARGEST_FLOAT = 2**31 - 1, 1e30  # an array holds both, and products with the second

# Limits of flags that mean the same in all programs: more than any model here could use, and far less than
# would exhaust a machine's memory.
_LARGEST = {
    "batch_size": 2**16,
    "heads": 2**16,
    "hidden_size": 2**16,
    "image_size": 2**12,
    "layers": 1000,
    "length": 2**17,
    "seeds": 10_000,
    "vocab_size": 2**20,
    "width": 2**16,
}


class _PathParser(flags.ArgumentParser):
    """Expands a leading ``~``, which no shell does in ``--output=~/runs``."""

    def parse(self, argument: str) -> str:
        if not argument.strip():
            raise ValueError("a path must not be empty")
        if not argument.startswith("~"):
            return argument
        try:
            return str(Path(argument).expanduser())
        except RuntimeError:
            raise ValueError(
                f"there is no home directory for {argument!r}; for a file of this name, write ./{argument}"
            ) from None


class Flags(flags.FlagValues):
    """The flags of one program, separate from those of others: two programs can be imported into one process.

    Values that no flag can have are refused here: a number that is below 0, not finite or too large for an
    array, an empty string, and a list that is empty or has an item twice. `check` adds more restrictions.
    """

    def _define(self, define: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return define(*args, flag_values=self, **kwargs)

    def DEFINE_float(self, *args: Any) -> flags.FlagHolder:
        """A number in [0, LARGEST_FLOAT]; `check` can narrow the domain."""
        holder = flags.DEFINE_float(*args, flag_values=self)
        check(lambda x: 0 <= x <= LARGEST_FLOAT, "must be finite, at least 0 and at most 1e30", holder)
        return holder

    def DEFINE_integer(self, name: str, *args: Any, lower_bound: int = 0) -> flags.FlagHolder:
        """An integer that is at least lower_bound."""
        bounds = {"lower_bound": lower_bound, "upper_bound": _LARGEST.get(name, LARGEST_INTEGER)}
        return flags.DEFINE_integer(name, *args, flag_values=self, **bounds)

    def DEFINE_list(self, *args: Any) -> flags.FlagHolder:
        """One or more items, separated by commas, each once."""
        holder = flags.DEFINE_list(*args, flag_values=self)
        check(lambda items: items and all(items), "must not be empty or have an empty item", holder)
        check(lambda items: len({*items}) == len(items), "must have each item once", holder)
        return holder

    def DEFINE_string(self, *args: Any, may_be_empty: bool = False) -> flags.FlagHolder:
        """A string."""
        holder = flags.DEFINE_string(*args, flag_values=self)
        check(lambda text: may_be_empty or text, "must not be empty", holder)
        return holder

    DEFINE_bool = functools.partialmethod(_define, flags.DEFINE_bool)
    DEFINE_enum = functools.partialmethod(_define, flags.DEFINE_enum)
    DEFINE_path = functools.partialmethod(
        _define, functools.partial(flags.DEFINE, _PathParser(), serializer=flags.ArgumentSerializer())
    )

    def join(self, program: str) -> None:
        """Add these flags, at their defaults, to those of the process.

        Args:
            program: the program whose --help and --helpfull show them, including those that another module
                defines for it.
        """
        self.unparse_flags()
        flags.FLAGS.append_flag_values(self)
        for members in self.flags_by_module_dict().values():
            for flag in members:
                flags.FLAGS.register_flag_by_module(program, flag)
        self.mark_as_parsed()


def check(holds: Callable[[Any], Any], domain: str, *holders: flags.FlagHolder) -> None:
    """Refuse values of flags outside a domain when they are parsed; None passes.

    Args:
        holds: value → whether it is inside the domain; false for NaN.
        domain: the domain in words, such as "must be in [0, 1)".
        *holders: the flags.
    """
    for holder in holders:
        flags.register_validator(holder, lambda value: value is None or holds(value), domain)


def check_each(known: Callable[[str], Any], *holders: flags.FlagHolder) -> None:
    """Refuse values, or items of lists, for which a function raises a ValueError.

    Args:
        known: function of a value or item; the message of its ValueError is shown.
        *holders: the flags.
    """

    def hold(value: Any) -> bool:
        try:
            for item in value if isinstance(value, list) else [] if value is None else [value]:
                known(item)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from None
        return True

    for holder in holders:
        flags.register_validator(holder, hold)


def check_among(known: Iterable[str], *holders: flags.FlagHolder) -> None:
    """Refuse lists with an unknown item."""
    names = list(known)
    check(lambda items: {*items} <= {*names}, f"must be among {', '.join(names)}", *holders)


def check_rates(*holders: flags.FlagHolder) -> None:
    """Refuse lists that are not of distinct numbers above 0."""
    check_numbers(lambda x: 0 < x <= LARGEST_FLOAT, "above 0 and at most 1e30", *holders)


def check_numbers(holds: Callable[[float], bool], domain: str, *holders: flags.FlagHolder) -> None:
    """Refuse lists that are not of distinct numbers inside a domain; None passes.

    Args:
        holds: number → whether it is inside the domain; false for NaN.
        domain: the domain in words, such as "in [0, 1)".
        *holders: the flags.
    """

    def number(item: str) -> float:
        try:
            return float(item)
        except ValueError:
            return math.nan

    domain = f"must be different numbers {domain}"
    check(lambda items: all(holds(number(item)) for item in items), domain, *holders)
    check(lambda items: len({*map(number, items)}) == len(items), domain, *holders)


def check_together(
    holds: Callable[[dict[str, Any]], Any], domain: str, own: Flags, *holders: flags.FlagHolder
) -> None:
    """Refuse combinations of flags when they are parsed.

    Args:
        holds: {name: value} → whether they may be combined; it may raise a ValueError with its own message.
        domain: message of the refusal.
        own: the program's flags.
        *holders: the flags.
    """

    def hold(values: dict[str, Any]) -> bool:
        try:
            return bool(holds(values))
        except ValueError as error:
            raise flags.ValidationError(str(error)) from None

    names = [holder.name for holder in holders]
    flags.register_multi_flags_validator(names, hold, domain, flag_values=own)
