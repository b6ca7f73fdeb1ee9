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
_TILE = re.compile(r"T\(([\d,]+)\)")
_NAME = re.compile(r"%([\w.-]+)")
_HEAD = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%(?P<name>[\w.-]+) = (?P<rest>.*)$")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array within a type.

    Attributes:
        bytes: size of the array, with the padding of a device's tiles.
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
        layout = found["layout"] or ""
        space, tile = _SPACE.search(layout), _TILE.search(layout)
        shape: Sequence[int] = [int(d.lstrip("<=")) for d in found["shape"].split(",") if d]
        entries = math.prod(shape)
        if tile:
            minor_to_major = [int(i) for i in layout.partition(":")[0].split(",") if i]
            by_place = [shape[i] for i in reversed(minor_to_major)]
            entries = padded_size(by_place, [int(length) for length in tile[1].split(",")])
        yield Array(math.ceil(entries * _bits(found["type"]) / 8), int(space[1]) if space else 0)


def padded_size(shape: Sequence[int], tile: Sequence[int]) -> int:
    """The entries of an array with whole tiles.

    Args:
        shape: its dimensions in their order in memory, the fastest last.
        tile: what the last dimensions are filled up to multiples of; an array of fewer dimensions has lengths
            of 1 before them.

    Example:
        >>> padded_size((50257, 768), (8, 128)), padded_size((), (128,))
        (38602752, 128)
    """
    lengths = [*[1] * (len(tile) - len(shape)), *shape]
    outer, inner = lengths[: len(lengths) - len(tile)], lengths[len(lengths) - len(tile) :]
    return math.prod(outer) * math.prod(-(-n // part) * part for n, part in zip(inner, tile, strict=True))


def _bits(name: str) -> int:
    if name in _BITS:
        return _BITS[name]
    digits = re.match(r"[a-z]+(\d+)", name)
    return int(digits[1]) if digits else 0
