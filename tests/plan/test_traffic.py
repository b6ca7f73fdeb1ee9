"""Traffic is counted by hand on small programs, and the text of compiled ones is read to the byte."""

import jax
import jax.numpy as jnp
import pytest

from optimiz.plan.program import parse
from optimiz.plan.traffic import Collective, traffic

KIB = 1024  # bytes of f32[256]


def module(entry, *others):
    """The text of a module from the lines of its entry, and other computations as they stand."""
    lines = "\n".join(f"  {line}" for line in entry)
    return (
        "HloModule test\n\n"
        + "\n\n".join(others)
        + f"\n\nENTRY %main (x: f32[256]) -> f32[256] {{\n{lines}\n}}\n"
    )


def moved(entry, *others):
    return traffic(parse(module(entry, *others)))


ADD = """%add (a: f32[256], b: f32[256]) -> f32[256] {
  %a = f32[256]{0} parameter(0)
  %b = f32[256]{0} parameter(1)
  ROOT %sum = f32[256]{0} add(%a, %b)
}"""


def test_a_fusion_reads_its_operands_and_writes_its_results():
    found = moved(
        [
            "%x = f32[256]{0} parameter(0)",
            "%y = f32[256]{0} parameter(1)",
            "ROOT %f = f32[256]{0} fusion(%x, /*index=1*/%y), kind=kLoop, calls=%add",
        ],
        ADD,
    )
    assert (found.least, found.greatest, found.kernels) == (3 * KIB, 3 * KIB, 1)


def test_what_a_fusion_passes_on_is_written():
    fused = """%both (a: f32[256]) -> (f32[256], f32[256]) {
  %a = f32[256]{0} parameter(0)
  %n = f32[256]{0} negate(%a)
  ROOT %t = (f32[256]{0}, f32[256]{0}) tuple(%n, %a)
}"""
    call = "ROOT %f = (f32[256]{0}, f32[256]{0}) fusion(%x), kind=kLoop, calls=%both"
    assert moved(["%x = f32[256]{0} parameter(0)", call], fused).greatest == 3 * KIB


def test_what_comes_from_the_host_and_goes_there_is_counted_apart():
    found = moved(
        [
            "%x = f32[256]{0:S(5)} parameter(0)",
            "%in = (f32[256]{0}, f32[256]{0:S(5)}, u32[]) copy-start(%x)",
            "%y = f32[256]{0} copy-done(%in)",
            "%z = f32[256]{0} fusion(%y, %y), kind=kLoop, calls=%add",
            "%out = (f32[256]{0:S(5)}, f32[256]{0}, u32[]) copy-start(%z)",
            "ROOT %back = f32[256]{0:S(5)} copy-done(%out)",
        ],
        ADD,
    )
    assert (found.from_host, found.to_host) == (KIB, KIB)
    assert found.greatest == (1 + 3 + 1) * KIB  # written by the first copy, and read by the second


@pytest.mark.parametrize(
    ("array", "size"),
    [
        ("f32[10,300]{1,0:T(8,128)}", 4 * 16 * 384),
        ("f32[10,300]{0,1:T(8,128)}", 4 * 304 * 128),
        ("s8[2,10,300]{2,1,0:T(32,128)(4,1)}", 2 * 32 * 384),
        ("f32[10]{0:T(1024)}", 4 * 1024),
        ("f32[]{:T(128)}", 4 * 128),
        ("f32[10,300]{1,0}", 4 * 3000),
    ],
)
def test_an_array_has_whole_tiles(array, size):
    assert moved([f"%x = {array} parameter(0)", f"ROOT %c = {array} copy(%x)"]).greatest == 2 * size


def test_what_lies_in_another_memory_space_does_not_count():
    found = moved(
        [
            "%x = f32[256]{0:T(256)} parameter(0)",
            "%start = (f32[256]{0:T(256)S(1)}, f32[256]{0:T(256)}, u32[]{:S(2)}) copy-start(%x)",
            "%done = f32[256]{0:T(256)S(1)} copy-done(%start)",
            "ROOT %f = f32[256]{0:T(256)} fusion(%done, %done), kind=kLoop, calls=%add",
        ],
        ADD,
    )
    assert found.greatest == 2 * KIB  # the prefetch reads x once, the fusion writes once


def test_prefetched_slices_count_as_what_they_read():
    start = "%{0} = ((f32[256]{{0}}), f32[64]{{0:S(1)}}, s32[]{{:S(2)}}) slice-start(%x), slice={{[0:64]}}"
    done = "%{0}d = f32[64]{{0:S(1)}} slice-done(%{0})"
    lines = [line.format(name) for name in ("s", "t") for line in (start, done)]
    found = moved(["%x = f32[256]{0} parameter(0)", *lines])
    assert found.greatest == 2 * 64 * 4


def test_an_update_in_place_counts_what_it_writes():
    fused = """%update (p: f32[256], q: f32[8], i: s32[]) -> f32[256] {
  %p = f32[256]{0} parameter(0)
  %q = f32[8]{0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = f32[256]{0} dynamic-update-slice(%p, %q, %i)
}"""
    lines = ["%x = f32[256]{0} parameter(0)", "%q = f32[8]{0} parameter(1)", "%i = s32[] constant(3)"]
    found = moved([*lines, "ROOT %f = f32[256]{0} fusion(%x, %q, %i), kind=kLoop, calls=%update"], fused)
    assert found.greatest == 8 * 4 + 8 * 4 + 4  # the slice is read and written, and the index is read


def test_an_operand_that_is_only_sliced_counts_by_its_slices():
    fused = """%cut (p: f32[256], i: s32[]) -> f32[8] {
  %p = f32[256]{0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %u = f32[8]{0} dynamic-slice(%p, %i), dynamic_slice_sizes={8}
}"""
    lines = ["%x = f32[256]{0} parameter(0)", "%i = s32[] constant(3)"]
    found = moved([*lines, "ROOT %f = f32[8]{0} fusion(%x, %i), kind=kLoop, calls=%cut"], fused)
    assert found.greatest == 8 * 4 + 8 * 4 + 4


BODY = """%body (c: (s32[], f32[256])) -> (s32[], f32[256]) {
  %c = (s32[], f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %v = f32[256]{0} get-tuple-element(%c), index=1
  %n = f32[256]{0} negate(%v)
  ROOT %t = (s32[], f32[256]{0}) tuple(%i, %n)
}"""
WHILE = "%w = (s32[], f32[256]{0}) while(%c), condition=%cond, body=%body"


@pytest.mark.parametrize(("trips", "times", "unknown"), [("12", 12, 0), (None, 1, 1)])
def test_a_loop_counts_as_often_as_it_runs(trips, times, unknown):
    config = f', backend_config={{"known_trip_count":{{"n":"{trips}"}}}}' if trips else ""
    found = moved(["%c = (s32[], f32[256]{0}) parameter(0)", "ROOT " + WHILE + config], BODY)
    assert (found.greatest, found.unknown_loops) == (times * 2 * KIB, unknown)


@pytest.mark.parametrize(("step", "times"), [(1, 7), (2, 4)])
def test_a_loop_of_a_product_and_its_collective_runs_up_to_its_constant(step, times):
    condition = """%windowed_dot_general_cond (c: (s32[], f32[256])) -> pred[] {
  %c = (s32[], f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %n = s32[] constant(7)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}"""
    counted = f"%s = s32[] constant({step})\n  %j = s32[] add(%i, %s)\n"
    counted += "  ROOT %t = (s32[], f32[256]{0}) tuple(%j, %n)"
    body = BODY.replace("ROOT %t = (s32[], f32[256]{0}) tuple(%i, %n)", counted)
    loop = "ROOT " + WHILE.replace("%cond", "%windowed_dot_general_cond")
    found = moved(["%c = (s32[], f32[256]{0}) parameter(0)", loop], body, condition)
    counter = 3 * 4  # two numbers of four bytes are read, and one is written
    assert (found.greatest, found.unknown_loops) == (times * (2 * KIB + counter), 0)


def test_a_conditional_gives_the_least_and_the_greatest_branch():
    nothing = "%keep (k: f32[256]) -> f32[256] {\n  ROOT %k = f32[256]{0} parameter(0)\n}"
    negated = "%turn (k: f32[256]) -> f32[256] {\n  %k = f32[256]{0} parameter(0)\n"
    negated += "  ROOT %n = f32[256]{0} negate(%k)\n}"
    lines = ["%x = f32[256]{0} parameter(0)", "%p = pred[] parameter(1)"]
    for attribute in (
        "branch_computations={%keep, %turn}",
        "true_computation=%turn, false_computation=%keep",
    ):
        found = moved(
            [*lines, f"ROOT %r = f32[256]{{0}} conditional(%p, %x, %x), {attribute}"], nothing, negated
        )
        assert (found.least, found.greatest, found.kernels) == (0, 2 * KIB, 1)


def test_collectives_are_counted_by_kind():
    found = moved(
        [
            "%x = f32[256]{0} parameter(0)",
            "%a = ((f32[256]{0}), f32[256]{0}) all-to-all-start(%x), dimensions={0}",
            "%b = f32[256]{0} all-to-all-done(%a)",
            "%s = (f32[256]{0}, f32[1024]{0}) all-gather-start(%x), dimensions={0}",
            "%g = f32[1024]{0} all-gather-done(%s)",
            "%r = f32[256]{0} all-reduce(%x), to_apply=%add",
            "ROOT %q = f32[256]{0} all-reduce(%r), to_apply=%add",
        ],
        ADD,
    )
    assert found.collectives == {
        "all-to-all": Collective(1, KIB),
        "all-gather": Collective(1, 4 * KIB),
        "all-reduce": Collective(2, 2 * KIB),
    }


def test_a_collective_that_is_fused_with_several_kernels_counts_once():
    fused = """%{0} (a: f32[256]) -> f32[1024] {{
  %a = f32[256]{{0}} parameter(0)
  ROOT %g = f32[1024]{{0}} all-gather(%a), channel_id={1}, dimensions={{0}}
}}"""
    call = "%{0} = f32[1024]{{0}} fusion(%x), kind=kCustom, calls=%{0}"
    parts = [("start", 7), ("middle", 7), ("other", 8)]
    lines = ["%x = f32[256]{0} parameter(0)", *(call.format(name) for name, _ in parts)]
    found = moved(lines, *(fused.format(*part) for part in parts))
    assert found.collectives == {"all-gather": Collective(2, 8 * KIB)}


@pytest.mark.parametrize(
    ("text", "size"),
    [("bf16[3,5]{1,0}", 30), ("s4[3]{0}", 2), ("f8e4m3fn[7]{0}", 7), ("pred[]", 1), ("token[]", 0)],
)
def test_types_have_their_sizes(text, size):
    program = parse(module([f"ROOT %x = {text} parameter(0)"]))
    (array,) = program.computations["main"]["x"].arrays
    assert array.bytes == size


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        parse("def f(): pass")


@pytest.mark.parametrize("n", [1000, 4096])
def test_a_program_compiled_here_is_read_to_the_byte(n):
    compiled = jax.jit(lambda x, y: x * 2 + y).lower(*[jax.ShapeDtypeStruct((n,), jnp.float32)] * 2).compile()
    found = traffic(parse(compiled.as_text()))
    assert (found.least, found.greatest, found.collectives) == (12 * n, 12 * n, {})
