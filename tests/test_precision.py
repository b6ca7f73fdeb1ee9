"""Under ``jax_enable_x64`` what is computed of float32 parameters is float32 throughout."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import methods
from tests.test_eager_updates import CASES, _loss, _Training

# A schedule is a function of the count, in whatever floats are the default.
_OF_A_SCHEDULE = ("a schedule", "inject_hyperparams")
_QUANTILES = ("probe",)  # jax.numpy has their rank in the widest float
_OF_OPTAX = ("low_memory_update",)


def _wide(jaxpr):
    """The float64 results in a jaxpr and in those within it."""
    for equation in jaxpr.eqns:
        parameters = [x if isinstance(x, (tuple, list)) else [x] for x in equation.params.values()]
        within = [getattr(x, "jaxpr", x) for each in parameters for x in each]
        within = [x for x in within if hasattr(x, "eqns")]
        for inner in within:
            yield from _wide(inner)
        # What a call returns is computed within it, or given to it: JAX 0.12 shows the calls that it inlines.
        for variable in [] if within else equation.outvars:
            if getattr(variable.aval, "dtype", None) in (jnp.float64, jnp.complex128):
                yield f"{equation.primitive.name} {variable.aval}"


@pytest.mark.parametrize("case", [c for c in CASES if c not in _OF_A_SCHEDULE + _QUANTILES + _OF_OPTAX])
def test_nothing_is_float64_for_float32_parameters(case):
    training = _Training(CASES[case]())
    one = jnp.ones(1)

    def update(grads, state, params):
        value_fn = lambda p: jnp.float32(_loss(p, one))  # noqa: E731
        value_fn.fills_in_masked = True
        return training.tx.update(
            grads,
            state,
            params,
            value=value_fn(params),
            grad=grads,
            value_fn=value_fn,
            obj_fn=value_fn,
            logits_fn=lambda p: jnp.stack([value_fn(p), -value_fn(p)]),
        )

    with jax.enable_x64(True):
        traced = jax.make_jaxpr(update)(training.params, training.state, training.params)
        begun = jax.make_jaxpr(training.tx.init)(training.params)
    assert list(_wide(traced.jaxpr)) == list(_wide(begun.jaxpr)) == []


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_parameter_may_have_more_entries_than_an_int32_counts(name):
    params = {name: jax.ShapeDtypeStruct((4, 4), jnp.float32) for name in ("embeddings", "layer_0", "head")}
    params["layer_0"] = jax.ShapeDtypeStruct((80, 8192, 28672), jnp.float32)  # as layers of Llama-2-70B stacked
    method = methods.find(name)
    if method.takes("matrices"):
        axes = {"layer_0": optimiz.groups.Matrix((0,), (1,), (2,))}
        tx = method.at(1e-3, **method.settings, matrices=axes)
    else:
        tx = method.build(None if method.kind == "line search" else 1e-3, classes=2)
    tx = optax.with_extra_args_support(tx)

    def update(grads, state, params):
        value_fn = lambda p: jnp.sum(p["layer_0"])  # noqa: E731
        given = {"value": value_fn(params), "grad": grads, "value_fn": value_fn, "obj_fn": value_fn}
        given["logits_fn"] = lambda p: jnp.stack([value_fn(p), -value_fn(p)])
        return tx.update(grads, state, params, **given)

    state = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(jax.eval_shape(update, params, state, params)[1]) == jax.tree.structure(state)


def test_numpys_multipliers_and_least_rms_make_nothing_float64():
    with jax.enable_x64(True):
        p = {"layers": jnp.ones((2, 3), jnp.float32)}
        for tx in (
            optimiz.scale_by_groups(optimiz.groups.layerwise_decay(0.5, scanned={"^layers": 0})),
            optimiz.scale_by_groups(np.float64(0.5)),
            optimiz.adafactor(0.1, eps2=np.float64(1e-2)),
        ):
            traced = jax.make_jaxpr(tx.update)(p, tx.init(p), p)
            assert [text for text in _wide(traced.jaxpr) if "[]" not in text] == []
