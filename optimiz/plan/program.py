"""Parse the text of a compiled program: computations, their instructions, and the sizes of their types."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

HOST = 5
"""The memory space of the host."""

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"(?P<type>[a-z]\w*)\[(?P<shape>[\d,<=]*)\](?:\{(?P<layout>[^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.-]+)")
_HEAD = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%(?P<name>[\w.-]+) = (?P<rest>.*)$")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array within a type.

    Attributes:
        bytes: size of the array, without the padding of a device's tiles.
        space: memory space of the array; 0 is the device's main memory, ``HOST`` that of the host.
    """

    bytes: int
    space: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    root: bool
    number: int | None = None  # index of a parameter, or value of an integer constant

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result."""
        return tuple(_arrays(self.type))

    def called(self, *attributes: str) -> list[str]:
        """The computations that any of these attributes names."""
        found = []
        for attribute in attributes:
            for listed in re.findall(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.-]+)", self.attributes):
                found += _NAME.findall(listed)
        return found


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """An optimized HLO module.

    Attributes:
        computations: name → instructions by name, in their order.
        entry: name of the computation that runs.
    """

    computations: Mapping[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Read the text of a compiled module.

    Args:
        text: the result of ``jax.stages.Compiled.as_text``.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, into = None, None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            into = computations.setdefault(head["name"], {})
            if head["entry"]:
                entry = head["name"]
        elif into is not None and (found := _INSTRUCTION.match(line)):
            into[found["name"]] = _instruction(found["name"], found["rest"], bool(found["root"]))
    if entry is None:
        raise ValueError("the text is not that of a compiled module: it has no entry computation")
    return Program(computations, entry)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    type_end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode, _, after = rest[type_end:].lstrip().partition("(")
    end = _closing("(" + after, 0) - 1
    operands = tuple(_NAME.findall(after[: end - 1])) if end > 1 else ()
    given = after[: end - 1] if opcode in ("parameter", "constant") else ""
    number = int(given) if given.isdecimal() else None
    return Instruction(name, opcode, rest[:type_end], operands, after[end:], root, number)


def _closing(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _arrays(text: str) -> Iterator[Array]:
    for found in _ARRAY.finditer(text):
        space = _SPACE.search(found["layout"] or "")
        shape: Sequence[int] = [int(d.lstrip("<=")) for d in found["shape"].split(",") if d]
        size = math.ceil(math.prod(shape) * _bits(found["type"]) / 8)
        yield Array(size, int(space[1]) if space else 0)


def _bits(name: str) -> int:
    if name in _BITS:
        return _BITS[name]
    digits = re.match(r"[a-z]+(\d+)", name)
    return int(digits[1]) if digits else 0
