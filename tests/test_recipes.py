"""The recipes run as they stand, and do what they are for."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state

import optimiz

PAGE = (Path(__file__).parents[1] / "docs/recipes.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}


def run(section):
    names: dict = {"__name__": "recipe"}
    for block in re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL):
        exec(compile(block, section, "exec"), names)
    return names


@pytest.mark.quick(1)
@pytest.mark.parametrize("library", ["Flax NNX", "Flax Linen", "Equinox"])
def test_a_loop_of_one_s_own(library, capsys):
    names = run(f"A loop of your own, in {library}")
    state = names["optimizer"].opt_state if library == "Flax NNX" else names["state"]
    shown = optimiz.hyperparams(state)
    assert int(shown["count"]) == names["STEPS"] and int(shown["skipped"]) == 0
    assert float(names["value"]) < 0.65  # of two classes: ln 2 at first
    assert "'count'" in capsys.readouterr().out


@pytest.mark.long
def test_a_model_of_nnx_in_fit(capsys):
    names = run("A model of Flax NNX in `training.fit`")
    assert names["result"].best["value"] > 0.9
    assert names["best"](names["held_out"]["x"]).shape == (128, 2)


@pytest.mark.long
def test_a_search_with_dropout_in_nnx(capsys):
    names = run("A line search in Flax NNX")
    assert int(capsys.readouterr().out) >= 3
    model = names["model"]
    assert int(model.dropout.rngs.count[...]) == 4  # one mask for each step, however many trials
    assert np.isfinite(float(names["value"]))
    assert int(optimiz.hyperparams(names["optimizer"].opt_state)["estimates"]) == 1


@pytest.mark.parametrize("tx, name", [(optimiz.salsa(), "value_fn"), (optimiz.sophia_h(0.1), "obj_fn")])
def test_the_error_of_a_model_that_is_changed_in_place_leads_to_the_recipe(tx, name):
    model = nnx.Sequential(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        return jnp.mean(nnx.merge(graphdef, params, rest)(jnp.ones((3, 4))) ** 2)

    grads = jax.tree.map(jnp.ones_like, params)
    extra = {"value": jnp.float32(1), "grad": grads, "value_fn": loss, "obj_fn": loss}
    with pytest.raises(Exception, match="from a different trace level") as caught:
        jax.jit(lambda grads, state: tx.update(grads, state, params, **extra))(grads, tx.init(params))
    (note,) = (note for note in caught.value.__notes__ if note.startswith(name))
    assert "is called under another trace" in note and "copy=True" in note and "docs/recipes.md" in note


def test_a_search_in_a_train_state(capsys):
    names = run("A line search in a `TrainState`, in Flax Linen")
    assert int(capsys.readouterr().out) >= 3 and int(names["state"].step) == 3
    flax_own = train_state.TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=optimiz.salsa())
    with pytest.raises(ValueError, match="a line search needs value, grad, value_fn"):
        flax_own.apply_gradients(grads={"w": jnp.ones(2)}, value=1.0)


def test_labels_that_can_be_called(capsys):
    names = run("Labels whose class can be called")
    assert "matrix/learning_rate" in capsys.readouterr().out
    with pytest.raises(Exception, match=r".") as caught:
        optax.partition({"matrix": optax.sgd(1.0), "vector": optax.sgd(1.0)}, names["labels"]).init(
            names["params"]
        )
    assert not isinstance(caught.value, AssertionError)


def test_rates_as_elsewhere(capsys):
    names = run("Rates as elsewhere")
    assert names["linear_lr"](0) == pytest.approx(0.1) and names["linear_lr"](5) == pytest.approx(0.3)
    # lr_lambda of transformers' get_wsd_schedule with num_cycles 0.5.
    for step in (0, 30, 100, 400, 850, 1000):
        if step < 100:
            expected = step / 100 * 0.9 + 0.1
        elif step < 800:
            expected = 1.0
        else:
            expected = (0.5 * (1 + np.cos(np.pi * (step - 800) / 200))) * 0.9 + 0.1
        assert float(names["wsd"](step)) == pytest.approx(expected, rel=1e-5)
    assert "'norm': 0.75" in capsys.readouterr().out


def test_a_stream_of_grain_resumes(capsys):
    names = run("A stream of Grain that resumes where it was")
    assert capsys.readouterr().out == "2.0\n" and names["result"].steps == 100
