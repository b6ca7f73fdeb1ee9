"""The table of methods is complete, and its rows mean what they say."""

import inspect
from pathlib import Path

import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz import groups, methods
from optimiz.methods import METHODS

PAGES = Path(optimiz.__file__).parent / "optimizers"
each = pytest.mark.parametrize("name", METHODS)


def test_every_public_optimizer_has_a_row_and_every_row_is_public():
    public = {
        name
        for name, value in vars(optimiz.optimizers).items()
        if inspect.isfunction(value) and not name.startswith("scale_by_")
    }
    assert METHODS.keys() == public
    assert all(getattr(optimiz, name) is METHODS[name].factory for name in METHODS)
    assert {page.stem for page in PAGES.glob("*.py")} - {"__init__"} == {m.page for m in METHODS.values()}
    assert list(METHODS) == sorted(METHODS)


@each
def test_a_row_names_arguments_that_the_factory_has(name):
    method = METHODS[name]
    for argument in (*method.settings, *method.beside, *method.solves, *method.refused, method.rate_argument):
        assert method.takes(argument), argument
    assert method.summary.endswith(".") and method.bad_arguments
    for rate in (method.fine_tuning_rate, method.from_scratch_rate):
        assert (rate is None) == (method.kind == "line search")


@pytest.mark.parametrize(("name", "share", "said"), [("lion", 1 / 3, "a third"), ("signum", 1 / 2, "half")])
def test_a_rate_beside_that_of_adamw_is_what_the_row_says(name, share, said):
    found = METHODS[name].fine_tuning_rate / METHODS["adamw"].fine_tuning_rate
    assert f"about {said}" in METHODS[name].avoid and found == pytest.approx(share, rel=0.15)


@each
def test_the_twin_of_optax_takes_the_same_arguments_in_the_same_order(name):
    method = METHODS[name]
    if method.optax_twin is None:
        pytest.skip("Optax has none")
    theirs, ours = (inspect.signature(f).parameters for f in (method.optax_twin, method.factory))
    fixed = getattr(method.optax_twin, "keywords", {}).keys()  # of a partial: nadam is adam with nesterov=True
    positional = [n for n, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(positional)] == positional and theirs.keys() - fixed <= ours.keys()


@each
def test_build_makes_every_method_and_refuses_what_it_does_not_take(name):
    method = METHODS[name]
    given = {"classes": 2, "mask": groups.no_decay(), "weight_decay": 0.1}
    given["multipliers"], given["learning_rate"] = groups.layerwise_decay(0.5), optax.constant_schedule(0.1)
    if method.kind == "line search":
        arguments = {"learning_rate": "decay", "mask": "weight_decay_mask"}
        for key in given.keys() - {"classes"}:
            argument = arguments.get(key, key)
            if not method.takes(argument):
                with pytest.raises(ValueError, match=f"^{name} takes no {argument}, got {argument}="):
                    method.build(**{key: given[key]})
                del given[key]
    tx = method.build(**given)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


def _recording(kind):
    calls = []

    def made(learning_rate, momentum, weight_decay=0.0, weight_decay_mask=None):
        calls.append((learning_rate, momentum, weight_decay, weight_decay_mask))
        return optax.sgd(1.0)

    def searching(decay=None, momentum=0.0, weight_decay=0.0, weight_decay_mask=None, multipliers=1.0):
        calls.append((decay, momentum, weight_decay, weight_decay_mask, multipliers))
        return optax.sgd(1.0)

    searches = kind == "line search"
    method = methods.Method(
        factory=searching if searches else made,
        paper="",
        avoid="",
        needs=("value_fn",) if searches else (),
        settings={"momentum": 0.9},
    )
    return method, calls


def test_build_passes_arguments_on_by_the_names_that_the_factory_has():
    method, calls = _recording("rate")
    tx = method.build(0.1, weight_decay=0.2, mask=True, multipliers=0.5)
    assert calls == [(0.1, 0.9, 0.2, True)]
    grad = {"w": jnp.ones(2)}
    assert jnp.allclose(tx.update(grad, tx.init(grad), grad)[0]["w"], -0.5)  # the multiplier comes last
    method, calls = _recording("line search")
    method.build(optax.constant_schedule, weight_decay=0.2, mask=True, multipliers=0.5)
    assert calls == [(optax.constant_schedule, 0.9, 0.2, True, 0.5)]
    method.build()
    assert calls[-1] == (None, 0.9, 0.0, None, 1.0)


def test_an_unknown_name_is_refused_with_the_nearest():
    assert methods.find("lion").factory is optimiz.lion
    with pytest.raises(
        ValueError, match=r"^optimizer 'adawm' is unknown: did you mean adamw or \w+\? there are "
    ):
        methods.find("adawm")
