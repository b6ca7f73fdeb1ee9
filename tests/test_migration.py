"""What the pages for users of other libraries say of names runs, and equals what stands beside it."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import compare, groups, schedules, training
from tests.conftest import ROOT

PAGES = ["from_optax", "from_pytorch", "from_hugging_face"]
STEPS, RATE = 100, 1e-2
PARAMS = {"embed": {"embedding": jnp.ones((8, 4))}, "dense": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}


def names():
    tx = optimiz.adamw(1e-3)
    modules = {"jax": jax, "jnp": jnp, "optax": optax, "optimiz": optimiz, "groups": groups}
    modules |= {"schedules": schedules, "training": training, "compare": compare}
    return modules | {"lr": RATE, "steps": STEPS, "tx": tx, "params": PARAMS, "state": tx.init(PARAMS)}


def rows(page):
    """The cells of all tables."""
    lines = (ROOT / f"docs/{page}.md").read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")]


def expressions(cell):
    """What is a call or a dotted name of a module of ours, or of JAX and Optax."""
    code = re.findall(r"`([^`]+)`", cell)
    ours = r"(optimiz|optax|schedules|groups|training|compare|jax)\.[^…]*"
    return [text for text in code if re.fullmatch(ours, text) and not text.endswith("=…)")]


@pytest.mark.parametrize("page", PAGES)
def test_every_name_and_every_call_in_a_table_can_be_evaluated(page):
    found = [text for row in rows(page) for cell in row for text in expressions(cell)]
    assert len(found) > 15
    for text in found:
        eval(text, names())


def updates_of(tx, steps=3):
    params, state, found = PARAMS, tx.init(PARAMS), []
    for step in range(steps):
        keys = jax.random.split(jax.random.key(step), 3)
        grads = jax.tree.unflatten(
            jax.tree.structure(params),
            [
                jax.random.normal(key, leaf.shape)
                for key, leaf in zip(keys, jax.tree.leaves(params), strict=True)
            ],
        )
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return found


EQUAL = [
    (theirs, ours)
    for theirs_in, ours_in, *departs in rows("from_optax")
    if departs and (departs[0] == "nothing in float32" or "default is" in departs[0])
    for theirs, ours in zip(expressions(theirs_in), expressions(ours_in), strict=True)
]


@pytest.mark.quick(4)
@pytest.mark.parametrize(("theirs", "ours"), EQUAL)
def test_optimizers_that_depart_in_nothing_make_optax_s_updates(theirs, ours):
    given = names()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-8),
        updates_of(eval(ours, given)),
        updates_of(eval(theirs, given)),
    )


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (expressions(row[0])[0], expressions(row[1])[0])
        for row in rows("from_optax")
        if len(row) == 2 and row[0].startswith("`optax.")
    ],
)
def test_schedules_have_optax_s_values(theirs, ours):
    found, expected = eval(ours, names()), eval(theirs, names())
    for count in range(STEPS + 1):
        assert float(found(count)) == pytest.approx(float(expected(count)), rel=1e-4, abs=1e-8), count


def one_cycle(t):
    """PyTorch's OneCycleLR by its definition: two half cosines, whose ends are at 0.3 T - 1 and T - 1."""
    up, last, low = 0.3 * STEPS - 1, STEPS - 1, RATE / 25
    if t <= up:
        return RATE + (low - RATE) * (1 + np.cos(np.pi * t / up)) / 2
    return low / 1e4 + (RATE - low / 1e4) * (1 + np.cos(np.pi * (t - up) / (last - up))) / 2


TORCH = {  # the closed form of PyTorch's documentation, at update t; and how near it has to be
    "ConstantLR": (lambda t: RATE / 3 if t < 5 else RATE, 1e-5),
    "LinearLR": (lambda t: RATE * (1 / 3 + (1 - 1 / 3) * min(t, 5) / 5), 1e-5),
    "StepLR": (lambda t: RATE * 0.1 ** (t // 30), 1e-5),
    "MultiStepLR": (lambda t: RATE * 0.1 ** ((t >= 30) + (t >= 80)), 1e-5),
    "ExponentialLR": (lambda t: RATE * 0.99**t, 1e-4),
    "CosineAnnealingLR": (
        lambda t: RATE / 10 + (RATE - RATE / 10) * (1 + np.cos(np.pi * t / STEPS)) / 2,
        1e-4,
    ),
    "PolynomialLR": (lambda t: RATE * (1 - t / STEPS) ** 2, 1e-4),
    "OneCycleLR": (one_cycle, 0.08),  # the peak is up to one update earlier
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", TORCH)
def test_schedules_have_pytorch_s_values(name):
    (ours,) = (expressions(row[1])[0] for row in rows("from_pytorch") if row[0].startswith(f"`{name}("))
    schedule, (expected, near) = eval(ours, names()), TORCH[name]
    for t in range(STEPS):
        assert float(schedule(t)) == pytest.approx(expected(t), rel=near, abs=RATE * 1e-3), t


def test_optimizers_of_pytorch_are_in_the_record_of_parity():
    record = json.loads((ROOT / "tests/records/parity.json").read_text("utf-8"))
    measured = {
        (case["code"].removeprefix("torch.optim."), case["method"]) for case in record["cases"].values()
    }
    found = 0
    for there, *here in rows("from_pytorch"):
        if len(here) == 2 and (theirs := re.match(r"`(\w+)\(lr", there)) and "optimiz." in here[0]:
            (ours,) = set(re.findall(r"optimiz\.(\w+)\(", here[0]))
            assert (theirs[1], ours) in measured
            found += 1
    assert found > 10


def test_keras_s_epsilon_is_ours_times_the_root_of_the_correction():
    g, eps, b1, b2, rate, theta = 1e-6, 1e-7, 0.9, 0.999, 0.1, 1.0
    alpha = rate * np.sqrt(1 - b2) / (1 - b1)
    theirs = -alpha * (1 - b1) * g / (np.sqrt((1 - b2) * g * g) + eps)
    tx = optimiz.adam(rate, eps=eps / np.sqrt(1 - b2))
    ours, _ = tx.update(jnp.float32(g), tx.init(jnp.float32(theta)), jnp.float32(theta))
    assert float(ours) == pytest.approx(theirs, rel=1e-4)
    assert 1 / np.sqrt(1 - b2) == pytest.approx(32, abs=0.5)
