"""Command lines accept every method of the suite and functions of the user, and refuse what cannot be built."""

import re
import sys

import jax.numpy as jnp
import optax
import pytest

import optimiz
from examples import finetune_image, finetune_text, pmap_digits, pretrain
from examples.shared import optimizers
from optimiz import groups, schedules
from optimiz.methods import METHODS

USERS = """
import optax

calls = []

def bare(learning_rate):
    return optax.sgd(learning_rate)

def decaying(learning_rate, weight_decay=0.0, mask=None):
    calls.append((weight_decay, mask))
    return optax.adamw(learning_rate, weight_decay=weight_decay, mask=mask)

def masked(learning_rate, mask=None, weight_decay=0.0, weight_decay_mask=None):
    calls.append((weight_decay, mask, weight_decay_mask))
    return optax.sgd(learning_rate)

def two(learning_rate, rank):
    return optax.sgd(learning_rate)

def nothing(learning_rate):
    return None

number = 3
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    (tmp_path / "of_a_user.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("of_a_user", None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("from_scratch", [True, False])
def test_every_method_is_made_by_its_name(name, from_scratch):
    choice = optimizers.choose(name, from_scratch=from_scratch, classes=2)
    method = METHODS[name]
    schedule = schedules.over_steps(schedules.linear(1.0), 10)
    decay = 0.01 if method.takes("weight_decay") else 0.0
    tx = choice.make(schedule, decay, groups.no_decay(), optimizers.head_multipliers(2.0))
    assert isinstance(tx, optax.GradientTransformation)
    assert choice.searches == (method.kind == "line search")
    if choice.searches:
        assert choice.peak(0.1) is None and choice.learning_rate is None
    else:
        assert choice.peak(None) == choice.learning_rate > 0
        assert choice.peak(0.1) == 0.1


def test_decay_of_a_method_that_has_none_is_refused():
    make = optimizers.choose("salsa_class").make
    with pytest.raises(
        ValueError, match=r"^optimizer 'salsa_class' has no weight decay: it must be 0, got 0\.01$"
    ):
        make(optax.constant_schedule(1.0), 0.01, None, optimizers.one_rate)


def test_a_method_that_needs_logits_is_refused_where_there_are_none():
    with pytest.raises(
        ValueError, match="'sophia_g' draws labels from logits, which this program does not provide"
    ):
        optimizers.choose("sophia_g")


def test_multipliers_come_after_what_takes_a_rate():
    make = optimizers.choose("sgd").make
    tx = make(optax.constant_schedule(1.0), 0.0, None, optimizers.head_multipliers(3.0))
    params = {"head": {"w": jnp.zeros(1)}, "body": jnp.zeros(1)}
    grad = {"head": {"w": jnp.ones(1)}, "body": jnp.ones(1)}
    updates, _ = tx.update(grad, tx.init(params), params)
    assert (float(updates["head"]["w"][0]), float(updates["body"][0])) == (-3.0, -1.0)


def test_a_function_of_the_user_is_given_the_arguments_that_it_has(users, capsys):
    schedule = optax.constant_schedule(1.0)
    for name, arguments in (("decaying", (0.1, "rule")), ("masked", (0.1, None, "rule"))):
        choice = optimizers.choose(f"of_a_user:{name}")
        assert choice.name == f"of_a_user.{name}" and choice.learning_rate is None and not choice.searches
        calls = sys.modules["of_a_user"].calls
        calls.clear()
        choice.make(schedule, 0.1, "rule", optimizers.one_rate)
        assert calls == [arguments]
    assert capsys.readouterr().out == ""
    tx = optimizers.choose("of_a_user:bare").make(schedule, 0.1, None, optimizers.one_rate)
    assert "of_a_user:bare has no argument weight_decay" in capsys.readouterr().out
    assert float(tx.update(jnp.ones(()), tx.init(jnp.zeros(())), jnp.zeros(()))[0]) == -1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "of_a_user:missing",
            "cannot be imported: AttributeError: module 'of_a_user' has no attribute 'missing'",
        ),
        ("of_a_user:", "cannot be imported: AttributeError"),
        (":tx", "cannot be imported: ValueError"),
        ("nowhere:tx", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("of_a_user:number", "cannot be imported: TypeError: 3 is not a callable object"),
        ("of_a_user:two", "cannot be called with a schedule: TypeError: two\\(\\) missing 1 required"),
        ("of_a_user:nothing", "must return an optimizer, got NoneType"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_in_one_line(users, name, message):
    with pytest.raises(ValueError, match=f"^optimizer '{name}' {message}") as raised:
        optimizers.choose(name)
    assert "\n" not in str(raised.value)


def test_every_method_trains_adapters_or_says_that_it_does_not():
    factors = {"lora_a": jnp.ones((4, 2)), "lora_b": jnp.ones((2, 4))}
    params = {"layers": {0: {"attention": {name: {"adapter": factors} for name in ("query", "output")}}}}
    refused = set()
    for name in METHODS:
        choice = optimizers.choose(name, classes=2)
        tx = choice.make(optax.constant_schedule(1e-3), 0.0, None, optimizers.one_rate)
        try:
            tx.init(params)
        except ValueError:
            refused.add(name)
            with pytest.raises(ValueError, match=f"^{name} does not train adapters: .* or --lora_rank=0"):
                optimizers.for_adapters(choice)
        else:
            optimizers.for_adapters(choice)
    assert refused == {"adamh", "kl_soap", "muon", "muonh", "normuon", "pla_sls", "soap"}


def test_an_average_is_kept_by_its_rule():
    params = {"w": jnp.zeros(1)}
    # Parameters -1, -2, -3.
    of_rules = {"ema:0.5": -(1 + 2 * 2 + 4 * 3) / 7, "ema:0.9:1": -2.0, "tail:0.5": -2.5, "tail:1": -2.0}
    for rule, expected in of_rules.items():
        tx = optimizers.averaged(optax.sgd(1.0), rule, 3)
        state, p = tx.init(params), params
        for _ in range(3):
            updates, state = tx.update({"w": jnp.ones(1)}, state, p)
            p = optax.apply_updates(p, updates)
        assert float(optimiz.averaged_params(state, p)["w"][0]) == pytest.approx(expected), rule


WRONG_RULES = ["ema", "ema:1", "ema:x", "ema:0", "ema:nan", "ema:0.9:2", "ema:0.9:", "ema:0.9:1:1"]


@pytest.mark.parametrize("rule", [*WRONG_RULES, "tail:0", "tail:1.5", "mean:1"])
def test_another_average_is_refused(rule):
    with pytest.raises(ValueError, match=f"average '{rule}' must be ema:D with D in "):
        optimizers.averaged(optax.sgd(1.0), rule, 3)


@pytest.mark.parametrize("program", [finetune_text, finetune_image, pretrain, pmap_digits])
def test_help_names_every_method_that_is_served(program):
    text = program.FLAGS["optimizer"].help
    served = {
        name
        for name, method in METHODS.items()
        if program is not pmap_digits or "logits_fn" not in method.needs
    }
    assert {name for name in METHODS if re.search(rf"[ :]{name}[,;]", text)} == served
    assert "module:function" in text and "docs/which_optimizer.md" in text and len(text) < 750
    assert "from scratch." in text or program not in (finetune_image, pretrain)
