"""What a compiled program moves: bytes to and from a device's memory, kernels, and collectives.

The operands and results of every kernel are counted, if they lie in the device's main memory. An array that is
only sliced counts with its slices, and one that is updated in place with what is written. A loop counts as
often as it runs. The program does not determine which branch of a ``conditional`` a step takes, so there are
two counts: one for the branches that move least, one for those that move most.

The compilers' own estimate, ``cost_analysis()["bytes accessed"]``, counts prefetches twice and every branch.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from optimiz.plan.program import HOST, Array, Computation, Instruction, Program

# Names, tuples, and the ends of what an earlier instruction started: they move nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "domain"}
_FREE |= {"after-all", "add-dependency", "partition-id", "replica-id", "async-update"}
_FREE |= {"send", "recv", "infeed", "outfeed"}
_COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"}
_COLLECTIVES |= {"collective-permute", "collective-broadcast"}
_CUTS = {"dynamic-slice", "slice", "gather"}
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind.

    Attributes:
        count: number of collectives in a step.
        bytes: total bytes of their results on one device.
    """

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one run of a program moves on one device.

    Attributes:
        least: bytes if every ``conditional`` takes the branch that moves least.
        greatest: bytes if every ``conditional`` takes the branch that moves most.
        kernels: number of fusions, copies, reductions, products and other calls in the branch that moves most.
        collectives: kind → number and bytes, in the branch that moves most.
        unknown_loops: number of loops with an unknown number of iterations; their bodies are counted once.
        from_host: bytes that the branch that moves most reads from the host's memory.
        to_host: bytes that it writes there.
    """

    least: int
    greatest: int
    kernels: int
    collectives: Mapping[str, Collective]
    unknown_loops: int
    from_host: int = 0
    to_host: int = 0


@dataclasses.dataclass
class _Sum:
    least: int = 0
    greatest: int = 0
    kernels: int = 0
    loops: int = 0
    from_host: int = 0
    to_host: int = 0
    count: Counter = dataclasses.field(default_factory=Counter)
    bytes: Counter = dataclasses.field(default_factory=Counter)

    def add(self, other: "_Sum", times: int = 1) -> None:
        self.least += other.least * times
        self.greatest += other.greatest * times
        self.kernels += other.kernels * times
        self.from_host += other.from_host * times
        self.to_host += other.to_host * times
        self.loops += other.loops
        for mine, theirs in ((self.count, other.count), (self.bytes, other.bytes)):
            mine.update({kind: n * times for kind, n in theirs.items()})


def traffic(program: Program) -> Traffic:
    """Count what a program moves.

    Args:
        program: the program of one device.
    """
    total = _of(program, program.entry, set())
    collectives = {kind: Collective(total.count[kind], total.bytes[kind]) for kind in sorted(total.count)}
    return Traffic(
        total.least, total.greatest, total.kernels, collectives, total.loops, total.from_host, total.to_host
    )


def _of(program: Program, name: str, channels: set[str]) -> _Sum:
    """What a computation moves; the channels of collectives that were counted are added to."""
    computation, total = program.computations[name], _Sum()
    for instruction in computation.values():
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            continue
        if opcode == "conditional":
            attributes = ("branch_computations", "true_computation", "false_computation")
            branches = [_of(program, branch, channels) for branch in instruction.called(*attributes)]
            most = max(branches, key=lambda branch: branch.greatest)
            total.add(dataclasses.replace(most, least=min(branch.least for branch in branches)))
        elif opcode == "while":
            trips = _trips(program, instruction)
            total.loops += trips is None
            for body in instruction.called("body"):
                total.add(_of(program, body, channels), trips or 1)
        elif opcode == "call" or (opcode == "async-start" and not _wraps_one(program, instruction)):
            for called in instruction.called("to_apply", "calls", "called_computation"):
                total.add(_of(program, called, channels))
        else:
            total.add(_kernel(program, computation, instruction))
            for collective in _collectives(program, instruction, channels):
                kind = collective.opcode.removesuffix("-start")
                total.count[kind] += 1
                total.bytes[kind] += sum(array.bytes for array in _result(collective))
    return total


def _trips(program: Program, loop: Instruction) -> int | None:
    """How often a loop runs; None if the program does not say.

    A loop that a TPU's compiler makes of a product and its collective, to overlap the two, has no count: a
    counter runs from 0 in constant steps while it is below a constant.
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    (name,), (body,) = loop.called("condition"), loop.called("body")
    if "windowed_dot_general" not in name:
        return None
    condition, body = program.computations[name], program.computations[body]
    compared = [condition[each] for each in _root(condition).operands]
    index = next(_INDEX.search(each.attributes) for each in compared if each.opcode == "get-tuple-element")
    assert index is not None
    increased = body[_root(body).operands[int(index[1])]]
    limit, step = _constant(compared), _constant([body[each] for each in increased.operands])
    return None if limit is None or step is None else -(-limit // step)


def _root(computation: Computation) -> Instruction:
    return next(each for each in computation.values() if each.root)


def _constant(among: Iterable[Instruction]) -> int | None:
    return next((each.number for each in among if each.opcode == "constant"), None)


def _collectives(program: Program, instruction: Instruction, channels: set[str]) -> Iterator[Instruction]:
    """The collectives that an instruction is, or is fused with.

    A TPU fuses one with the kernels that it is to overlap: it then stands in several fusions, within loops and
    before them, by one channel.

    Args:
        program: the program.
        instruction: one of its instructions.
        channels: channels of the collectives that were counted; what is found is added.
    """
    fused = [program.computations[name] for name in instruction.called("calls")]
    for each in (instruction, *itertools.chain.from_iterable(body.values() for body in fused)):
        if each.opcode.removesuffix("-start") in _COLLECTIVES:
            channel = _CHANNEL.search(each.attributes)
            if channel is None or channel[1] not in channels:
                yield each
            if channel is not None:
                channels.add(channel[1])


def _wraps_one(program: Program, instruction: Instruction) -> bool:
    """Whether an asynchronous instruction wraps one operation, which its own operands describe."""
    bodies = [program.computations[name] for name in instruction.called("calls")]
    return all(sum(each.opcode not in _FREE for each in body.values()) == 1 for body in bodies)


def _kernel(program: Program, computation: Computation, instruction: Instruction) -> _Sum:
    called = instruction.called("calls")
    fused = program.computations[called[0]] if instruction.opcode == "fusion" else None
    moved = _written(instruction, fused, computation)
    for i, operand in enumerate(instruction.operands):
        if operand in computation:
            moved += _read(instruction, i, computation[operand], fused)
    operands = [computation[operand] for operand in instruction.operands if operand in computation]
    return _Sum(
        moved,
        moved,
        kernels=1,
        from_host=sum(_in_memory(operand.arrays, HOST) for operand in operands),
        to_host=_in_memory(_result(instruction), HOST),
    )


def _in_memory(arrays: Iterable[Array], space: int = 0) -> int:
    return sum(array.bytes for array in arrays if array.space == space)


def _result(instruction: Instruction) -> tuple[Array, ...]:
    """The arrays that an instruction produces; most asynchronous ones also list operands and context."""
    arrays = instruction.arrays
    match instruction.opcode:
        case "copy-start":
            return arrays[:1]
        case "all-reduce-start":
            return arrays
        case opcode if opcode.endswith("-start"):
            operands = len(instruction.operands)
            return arrays[operands : 2 * operands]
        case _:
            return arrays


def _written(instruction: Instruction, fused: Computation | None, computation: Computation) -> int:
    if instruction.opcode == "dynamic-update-slice":
        return _in_memory(computation[instruction.operands[1]].arrays)
    if fused is None:
        return _in_memory(_result(instruction))
    root = _root(fused)
    parts = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    written = 0
    for part, array in zip(parts, instruction.arrays, strict=False):
        source = _source(part, fused)
        if array.space == 0:
            updated = source.opcode == "dynamic-update-slice"
            result = fused[source.operands[1]].arrays if updated else (array,)
            written += sum(each.bytes for each in result)
    return written


def _source(instruction: Instruction, fused: Computation) -> Instruction:
    while instruction.opcode == "bitcast":
        instruction = fused[instruction.operands[0]]
    return instruction


def _read(instruction: Instruction, index: int, operand: Instruction, fused: Computation | None) -> int:
    """Bytes that a kernel reads from one of its operands."""
    whole = _in_memory(operand.arrays)
    if instruction.opcode in _CUTS or (instruction.opcode == "slice-start"):
        return sum(array.bytes for array in _result(instruction)) if whole and index == 0 else whole
    if instruction.opcode == "dynamic-update-slice" and index == 0:
        return 0
    if fused is None or not whole:
        return whole
    inner = next((each for each in fused.values() if each.number == index), None)
    if inner is None:
        return whole
    users = _users(inner.name, fused)
    if users and all(_touches_part(user, name) for user, name in users):
        return sum(_part(user) for user, _ in users)
    return whole


def _users(name: str, fused: Computation) -> list[tuple[Instruction, str]]:
    """The instructions that use a value, each with the value's name there: a bitcast is the same value."""
    users = []
    for each in fused.values():
        if name in each.operands:
            users += _users(each.name, fused) if each.opcode == "bitcast" and not each.root else [(each, name)]
    return users


def _touches_part(user: Instruction, name: str) -> bool:
    return (user.opcode in _CUTS | {"dynamic-update-slice"}) and user.operands[0] == name


def _part(user: Instruction) -> int:
    return 0 if user.opcode == "dynamic-update-slice" else sum(array.bytes for array in user.arrays)
