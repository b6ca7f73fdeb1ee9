import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import optimiz
from examples.models import blocks
from examples.models.gpt2 import GPT2, GPT2Config
from optimiz import groups, matrix_scales

BASE = 32


def shapes(**of):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in of.items()}


# Table 3 of arXiv 2203.03466, of a model that is four times as wide.


TABLE = {  # kind of weights: (narrow, wide), multipliers of SGD, of Adam and of the initial deviation
    "embed": (((9, 2), (9, 8)), 4, 1, 1),
    "bias": (((2,), (8,)), 4, 1, 1),
    "scale": (((2,), (8,)), 4, 1, 1),
    "up": (((2, 4), (8, 16)), 1, 1 / 4, 1 / 2),
    "head": (((2, 9), (8, 9)), 1 / 4, 1 / 4, 1 / 4),
}


def test_the_multipliers_are_those_of_the_table():
    narrow, wide = (shapes(**{name: row[0][i] for name, row in TABLE.items()}) for i in range(2))
    mup = groups.mup(narrow)
    for column, rule in ((1, mup.sgd), (2, mup.adam), (3, mup.initial)):
        assert rule(wide) == {name: row[column] for name, row in TABLE.items()}
        assert set(rule(narrow).values()) == {1}


def test_a_matrix_may_grow_more_on_one_side():
    mup = groups.mup(shapes(up=(2, 4), down=(4, 2)))
    wide = shapes(up=(4, 32), down=(32, 4))
    assert mup.sgd(wide) == {"up": 4, "down": 1 / 4} and mup.adam(wide) == {"up": 1 / 2, "down": 1 / 8}


@pytest.mark.parametrize("scale", [matrix_scales.keller, matrix_scales.spectral, matrix_scales.match_adam()])
def test_with_any_scale_the_step_of_muon_has_the_spectral_norm_of_the_condition(scale):
    """A step of norm scale × multiplier is to grow as the root of outputs over inputs, from the base's."""
    narrow, wide = (2, 4), (8, 64)
    found = groups.mup(shapes(up=narrow, head=(2, 9))).muon(scale)(shapes(up=wide, head=(8, 9)))
    grown = found["up"] * scale(*wide) / scale(*narrow)
    assert grown == pytest.approx(np.sqrt((64 / 8) / (4 / 2))) and found["head"] == 1 / 4


class Block(linen.Module):
    width: int

    @linen.compact
    def __call__(self, x):
        x = linen.Embed(9, self.width)(x)
        x = x + linen.MultiHeadDotProductAttention(self.width // 2, name="attention")(x)
        return linen.Dense(9, name="head")(linen.LayerNorm()(x))


def test_linen_with_heads_of_one_size():
    def params(width):
        return jax.eval_shape(Block(width).init, jax.random.key(0), jnp.zeros((1, 3), int))["params"]

    found = groups.mup(params(4)).adam(params(16))
    attention = found["attention"]
    assert {name: attention[name]["kernel"] for name in attention} == dict.fromkeys(
        ("query", "key", "value", "out"), 1 / 4
    )
    assert attention["query"]["bias"] == found["Embed_0"]["embedding"] == found["LayerNorm_0"]["scale"] == 1
    assert found["head"] == {"kernel": 1 / 4, "bias": 1}


def test_nnx_scanned_layers_and_parts_of_a_tree():
    def params(width):
        return nnx.state(nnx.eval_shape(lambda: gpt2(width)), nnx.Param)

    found = groups.mup(params(16)).adam(params(64))
    assert found["layers"][1]["mlp"]["up"]["kernel"] == found["head"]["kernel"] == 1 / 4
    stacked = groups.mup(shapes(**{"layers/mlp": (3, 2, 4)}), scanned={"^layers": 0})
    assert stacked.adam(shapes(**{"layers/mlp": (3, 8, 16)})) == {"layers/mlp": 1 / 4}
    mup = groups.mup(shapes(up=(2, 4), head=(2, 9)))
    assert (
        mup.adam(shapes(up=(4, 8)) | {"head": optax.MaskedNode()})["up"] == 1 / 2
    )  # as optax.partition calls it


def rms(x):
    return float(jnp.sqrt(jnp.mean(x**2)))


def test_initial_values_have_the_scale_that_follows_from_the_base():
    drawn = np.random.default_rng(0)
    sizes = {
        "up": ((8, 16), (32, 64)),
        "head": ((8, 9), (32, 9)),
        "bias": ((8,), (32,)),
        "scale": ((8,), (32,)),
    }
    base, wide = ({name: jnp.asarray(drawn.normal(size=x[i])) for name, x in sizes.items()} for i in range(2))
    base |= {"bias": jnp.zeros(8), "scale": jnp.ones(8)}
    wide |= {"bias": jnp.zeros(32), "scale": jnp.ones(32)}
    got = groups.mup(base).rescaled(wide)
    for name, multiplier in (("up", 1 / 2), ("head", 1 / 4), ("scale", 1)):
        assert rms(got[name]) == pytest.approx(multiplier * rms(base[name]), rel=1e-5), name
        factor = rms(got[name]) / rms(wide[name])
        np.testing.assert_allclose(got[name], factor * wide[name], rtol=1e-5)
    assert not got["bias"].any()


@pytest.mark.parametrize(
    ("base", "params", "message"),
    [
        (shapes(a=(2, 2)), shapes(a=(4, 4), b=(4,)), r"the parameters have b, and mup's base has not"),
        (shapes(a=(2, 2), b=(2,)), shapes(a=(4, 4)), "mup's base has b, and the parameters have not"),
        (
            shapes(a=(2, 2)),
            shapes(a=(4, 2, 2)),
            r"a has shape \(4, 2, 2\), and in mup's base \(2, 2\): the ranks",
        ),
        (shapes(a=(4, 4)), shapes(a=(2, 4)), "a base must not be wider than the model"),
        (shapes(a=(0, 4)), shapes(a=(2, 4)), "nor without entries"),
        (shapes(a=(2, 2, 2)), shapes(a=(4, 4, 2)), "which axes are inputs is unknown; name them"),
        (shapes(experts=(2, 2, 2)), shapes(experts=(4, 4, 2)), "axis 0 counts layers or experts"),
        (shapes(embedding=(9, 2)), shapes(embedding=(99, 4)), "the rows of a table are tokens or positions"),
        (shapes(norm=(3, 2)), shapes(norm=(3, 4)), None),
    ],
)
def test_what_is_not_the_base_but_wider_is_refused_by_name(base, params, message):
    mup = groups.mup(base)
    if message is None:
        assert mup.adam(params) == {"norm": 1}
        return
    for rule in (mup.adam, mup.sgd, mup.initial):
        with pytest.raises(ValueError, match=message):
            rule(params)


def test_axes_can_be_named():
    mup = groups.mup(shapes(a=(2, 3, 2)), matrices={"a": groups.Matrix(reduction=(2,), output=(0,))})
    assert mup.adam(shapes(a=(8, 3, 4))) == {"a": 1 / 2} and mup.sgd(shapes(a=(8, 3, 4))) == {"a": 2}


def test_stacks_that_are_not_declared_are_refused():
    layers = {"layers": {"norm": {"scale": jax.ShapeDtypeStruct((3, 2), jnp.float32)}}}
    with pytest.raises(ValueError, match="looks like that of stacked layers: declare them"):
        groups.mup(layers).adam(layers)


def test_bad_arguments_are_refused_by_name():
    for base in ({}, None):
        with pytest.raises(TypeError, match="base must be the parameters of a narrower model"):
            groups.mup(base)
    with pytest.raises(TypeError, match="overrides must be a Matrix or None"):
        groups.mup(shapes(a=(2, 2)), matrices={"a": 1})
    with pytest.raises(TypeError, match="got their shapes"):
        groups.mup(shapes(a=(2, 2))).rescaled({"a": jnp.ones((4, 4))})
    with pytest.raises(ValueError, match="a is zero in the parameters alone"):
        groups.mup({"a": jnp.ones((2, 2))}).rescaled({"a": jnp.zeros((4, 4))})


# The coordinate check: what a few steps do to a Transformer.


def gpt2(width, seed=0):
    config = GPT2Config(64, width, layers=2, heads=width // 16, max_positions=16, tied=False)
    return GPT2(config, rngs=nnx.Rngs(seed))


RATES = {"adam": 3e-3, "sgd": 0.3, "muon": 3e-3}
WIDTHS = (64, 256, 1024)


def sizes(width, kind, parametrized, steps=2):
    """Root mean squares of each layer's output and the logits, at first and of what a few steps add."""
    graph, params = nnx.split(gpt2(width), nnx.Param)
    mup = groups.mup(nnx.state(gpt2(BASE), nnx.Param))
    scale = matrix_scales.match_adam()
    tx = {
        "adam": optimiz.adam,
        "sgd": optimiz.sgd,
        "muon": lambda rate: optimiz.muon(rate, scale=scale, ns_dtype=jnp.float32),
    }
    tx = tx[kind](RATES[kind])
    if parametrized:
        params = mup.rescaled(params)
        multipliers = {"adam": mup.adam, "sgd": mup.sgd, "muon": mup.muon(scale)}[kind]
        tx = optax.chain(tx, optimiz.scale_by_groups(multipliers))
    ids = jax.random.randint(jax.random.key(1), (8, 16), 0, 64)

    def outputs(params):
        model = nnx.merge(graph, params)
        mask = jnp.tri(16, dtype=bool)
        given = {"keys": [None] * 2, "on_N": None, "remat": "none"}
        states = blocks.states(model.layers, model.embeddings(ids, jnp.arange(16), None), mask, **given)
        return [*states, model.head(model.norm(states[-1]))]

    def loss(params):
        logits = outputs(params)[-1][:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    def step(run, _):
        params, state = run
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def trained(params, state):
        (end, _), _ = jax.lax.scan(step, (params, state), length=steps)
        first = outputs(params)
        moved = [a - b for a, b in zip(outputs(end), first, strict=True)]
        return [jnp.stack([jnp.sqrt(jnp.mean(x**2)) for x in each]) for each in (first, moved)]

    return np.asarray(trained(params, tx.init(params)))


@pytest.mark.long
@pytest.mark.parametrize("kind", RATES)
def test_outputs_and_what_steps_change_are_as_large_at_every_width(kind):
    slopes = {}
    for parametrized in (True, False):
        found = np.log([sizes(width, kind, parametrized) for width in WIDTHS])
        lines = np.polyfit(np.log(WIDTHS), found.reshape(len(WIDTHS), -1), 1)[0]
        slopes[parametrized] = lines.reshape(found.shape[1:])  # of embeddings, layers and logits
    first, moved = slopes[True]
    assert np.abs(moved).max() < 0.2 and np.abs(first[:-1]).max() < 0.1, slopes
    assert first[-1] < -0.3, slopes  # logits begin as small as μP has them, by the root of the width
    assert slopes[False][1][1:].min() > 0.5, slopes


@pytest.mark.long
def test_what_steps_of_adam_change_in_a_model_of_four_times_the_width_is_as_large():
    narrow, wide = (sizes(width, "adam", True)[1] for width in (32, 128))
    assert np.abs(np.log(wide / narrow)).max() < 0.5  # without, the outputs change four times as much
