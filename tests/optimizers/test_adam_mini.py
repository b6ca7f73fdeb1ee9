import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optimiz
from optimiz import groups
from optimiz.groups import Blocks, adam_mini_blocks
from optimiz.optimizers.adam_mini import adam_mini, scale_by_adam_mini
from tests.golden import fixture_c, parity

# The authors' code, release 1.1.1, five steps on given gradients: W (4, 2) in blocks, and b as one block.
START = fixture_c.params()
GRADIENTS = jax.tree.map(lambda *each: np.stack(each), *fixture_c.gradients())
B = "0.0736361394039 -0.219888599239"
GOLDEN = {  # blocks of W, weight decay of W, and W in the end
    "one": (
        Blocks(),
        0.0,
        "1.00032321577 -1.99576487851 2.94845231305 .453026260143 "
        "-.0392217909056 -.97263483142 1.97699465911 .233722331638",
    ),
    "one per row": (
        Blocks((1,)),
        0.1,
        "0.990628126436 -1.98069876484 2.93685378992 .459266504207 "
        "-.0320756423198 -.973318714362 1.9525533156 .223808050666",
    ),
    "two of two rows": (
        Blocks((1,), runs=((4, 2),)),
        0.1,
        "0.992068779638 -1.98188669422 2.92801441722 .452133680167 "
        "-.0390744139829 -.967440138282 1.96321362644 .232719854369",
    ),
}


def followed(tx, params, gradients):
    """Parameters after given gradients."""

    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p)
        return (optax.apply_updates(p, updates), state), None

    params, gradients = jax.tree.map(jnp.asarray, (params, gradients))
    return jax.lax.scan(step, (params, tx.init(params)), gradients)[0][0]


@pytest.mark.quick(2)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("case", GOLDEN)
def test_the_trajectory_is_the_authors_in_either_layout(case, transposed):
    blocks, decay, expected = GOLDEN[case]
    if transposed:  # as Flax has it
        blocks = Blocks(None if blocks.over is None else (0,), blocks.runs)
    turn = (lambda x: np.swapaxes(x, -1, -2)) if transposed else (lambda x: x)
    with jax.enable_x64(True):
        tx = adam_mini(
            fixture_c.varying,
            weight_decay=decay,
            mask={"w": True, "b": False},
            blocks={"w": blocks, "b": Blocks()},
        )
        found = followed(tx, START | {"w": turn(START["w"])}, GRADIENTS | {"w": turn(GRADIENTS["w"])})
    np.testing.assert_allclose(np.ravel(turn(found["w"])), np.array(expected.split(), float), rtol=1e-11)
    np.testing.assert_allclose(found["b"], np.array(B.split(), float), rtol=1e-11)


def test_with_a_block_per_entry_it_is_adamw():
    settings = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}
    with jax.enable_x64(True):
        ours = followed(adam_mini(0.01, blocks=Blocks(()), **settings), START, GRADIENTS)
        theirs = followed(optax.adamw(0.01, **settings), START, GRADIENTS)
        for name in START:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-13)


def test_the_first_step_is_that_of_the_sign_where_a_block_is_even():
    tx = adam_mini(0.5, blocks=Blocks())
    p = jnp.zeros(4)
    updates, _ = tx.update(jnp.array([3.0, -3.0, -3.0, 3.0]), tx.init(p), p)
    np.testing.assert_allclose(updates, [-0.5, 0.5, 0.5, -0.5], rtol=1e-6)


# --- blocks of models -------------------------------------------------------------------------------


def shapes(params, tx):
    """By path the shape of the parameter, and that of its second moment."""
    nu = dict(jax.tree_util.tree_leaves_with_path(jax.eval_shape(tx.init, params).nu))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (p.shape, nu[path].shape)
        for path, p in jax.tree_util.tree_leaves_with_path(params)
    }


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm(name="ln")(x))
        return nn.Dense(8, name="mlp_down")(nn.Dense(12, name="mlp_up")(x)), None


class Model(nn.Module):
    scans: bool

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8, name="embed")(tokens)
        if self.scans:
            stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            x, _ = stack(name="layers")(x, None)
        else:
            x, _ = Layer(name="layer_0")(x)
        return nn.Dense(11, use_bias=False, name="head")(x)


LAYER = {
    "attention/key/bias": ((2, 4), (2, 4)),
    "attention/key/kernel": ((8, 2, 4), (1, 2, 1)),
    "attention/out/bias": ((8,), (8,)),
    "attention/out/kernel": ((2, 4, 8), (1, 1, 8)),
    "attention/query/bias": ((2, 4), (2, 4)),
    "attention/query/kernel": ((8, 2, 4), (1, 2, 1)),
    "attention/value/bias": ((2, 4), (2, 4)),
    "attention/value/kernel": ((8, 2, 4), (1, 2, 4)),
    "ln/bias": ((8,), (8,)),
    "ln/scale": ((8,), (1,)),
    "mlp_down/bias": ((8,), (8,)),
    "mlp_down/kernel": ((12, 8), (1, 8)),
    "mlp_up/bias": ((12,), (12,)),
    "mlp_up/kernel": ((8, 12), (1, 12)),
}
OUTSIDE = {"embed/embedding": ((11, 8), (11, 1)), "head/kernel": ((8, 11), (1, 11))}


def parameters_of(scans):
    model = Model(scans)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))["params"]


def test_the_blocks_of_linen_are_heads_outputs_and_rows():
    expected = {f"layer_0/{path}": pair for path, pair in LAYER.items()} | OUTSIDE
    assert shapes(parameters_of(scans=False), scale_by_adam_mini()) == expected


def test_stacked_layers_have_blocks_of_their_own():
    tx = scale_by_adam_mini(scanned={"^layers/": 0})
    stacked = {f"layers/{path}": tuple((3, *shape) for shape in pair) for path, pair in LAYER.items()}
    assert shapes(parameters_of(scans=True), tx) == stacked | OUTSIDE


def test_the_blocks_of_nnx_are_the_same():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.mlp_up, self.mlp_down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)
            self.ln = nnx.LayerNorm(8, rngs=rngs)

    params = nnx.state(Block(nnx.Rngs(0)), nnx.Param)
    found = shapes(params, scale_by_adam_mini())
    found = {path.removesuffix("/value"): pair for path, pair in found.items()}
    assert found == LAYER


@pytest.mark.quick(2)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stack_is_updated_as_its_layers_are(axis):
    random = np.random.default_rng(0)
    layers = random.normal(size=(3, 8, 6))
    gradients = random.normal(size=(5, 3, 8, 6))
    path = ("attention", "query")

    def tree(x):
        return {path[0]: {path[1]: {"kernel": x}}}

    blocks = adam_mini_blocks(heads=2, scanned={"query": axis})
    stacked = followed(
        adam_mini(0.1, blocks=blocks),
        tree(np.moveaxis(layers, 0, axis)),
        tree(np.moveaxis(gradients, 1, axis + 1)),
    )
    for i in range(3):
        alone = followed(
            adam_mini(0.1, blocks=adam_mini_blocks(heads=2)), tree(layers[i]), tree(gradients[:, i])
        )
        found = np.take(np.asarray(stacked[path[0]][path[1]]["kernel"]), i, axis)
        np.testing.assert_allclose(found, alone[path[0]][path[1]]["kernel"], rtol=1e-5, atol=1e-6)


def test_a_flat_kernel_with_heads_is_updated_as_one_of_rank_3():
    random = np.random.default_rng(0)
    wide = {name: random.normal(size=(6, 8, heads, 4)) for name, heads in (("query", 4), ("key", 2))}

    def tree(arrays):
        return {"attention": {name: {"kernel": x} for name, x in arrays.items()}}

    start, gradients = (tree({name: x[part] for name, x in wide.items()}) for part in (0, slice(1, 6)))
    flat_start = jax.tree.map(lambda x: x.reshape(8, -1), start)
    flat = jax.tree.map(lambda x: x.reshape(5, 8, -1), gradients)
    ours = followed(adam_mini(0.1, blocks=adam_mini_blocks(4, 2)), flat_start, flat)
    expected = followed(adam_mini(0.1), start, gradients)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b.reshape(8, -1), rtol=1e-5, atol=1e-6)


def test_fused_projections_are_updated_as_their_parts_are():
    random = np.random.default_rng(0)
    parts = {name: random.normal(size=(6, 8, n)) for name, n in (("query", 16), ("key", 8), ("value", 8))}

    def tree(arrays):
        return {"attention": {name: {"kernel": x} for name, x in arrays.items()}}

    def of(part):
        return {name: x[part] for name, x in parts.items()}

    tx = adam_mini(0.1, blocks=adam_mini_blocks(heads=4, kv_heads=2))
    apart = followed(tx, tree(of(0)), tree(of(slice(1, 6))))["attention"]
    fused = {"c_attn": np.concatenate(list(parts.values()), -1)}
    whole = followed(tx, tree({"c_attn": fused["c_attn"][0]}), tree({"c_attn": fused["c_attn"][1:]}))
    expected = np.concatenate([apart[name]["kernel"] for name in parts], -1)
    np.testing.assert_allclose(whole["attention"]["c_attn"]["kernel"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "shape", "given", "expected"),
    [
        ("attention/qkv/kernel", (8, 3, 2, 4), {}, Blocks((0,), ((8, 4), (8, 4), (8, 1)))),
        ("attention/qkv/kernel", (8, 3, 8), {"heads": 2}, Blocks((0,), ((8, 4), (8, 4), (8, 1)))),
        ("attention/kv/kernel", (8, 2, 2, 4), {}, Blocks((0,), ((8, 4), (8, 1)))),
        ("attention/kv/kernel", (8, 16), {"heads": 2}, Blocks((0,), ((8, 4), (8, 1)))),
        ("attention/query_key_value/kernel", (8, 24), {}, Blocks((0,))),
        ("attention/query/kernel", (8, 8), {}, Blocks((0,))),
        ("blocks/0/mha/query/kernel", (8, 2, 4), {}, Blocks((0, 2))),
        ("blocks/0/mha/out/kernel", (2, 4, 8), {}, Blocks((0, 1))),
        ("attention/value/kernel", (8, 8), {"heads": 2}, Blocks((0,))),
        ("attention/q_proj/weight", (8, 6), {"heads": 2}, Blocks((1,), ((8, 4),))),
        ("mlp/fc1/weight", (12, 8), {}, Blocks((1,))),
        ("mlp/experts/up", (3, 8, 12), {}, Blocks((1,))),
        ("mlp/wi/kernel", (8, 2, 12), {}, Blocks((0,))),
        ("mlp/conv/kernel", (3, 8, 12), {}, Blocks()),
        ("head/kernel", (8, 2, 4), {}, Blocks()),
        ("router/kernel", (8, 3), {}, Blocks((0,))),
        ("wpe/embedding", (7, 8), {}, Blocks((1,))),
        ("embed/weight", (7, 8), {}, Blocks((1,))),
        ("embedding/kernel", (4, 4, 3, 8), {}, Blocks()),
        ("conv/kernel", (3, 3, 4, 8), {}, Blocks()),
        ("cls_token", (1, 1, 8), {}, Blocks((2,))),
        ("embeddings/LayerNorm/weight", (8,), {}, Blocks()),
        ("attention/query/bias", (2, 4), {}, Blocks(())),
        ("temperature", (), {}, Blocks()),
    ],
)
def test_the_blocks_of_a_name_and_a_shape(path, shape, given, expected):
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    for key in reversed(path.split("/")):
        params = {key: params}
    assert jax.tree.leaves(adam_mini_blocks(**given)(params)) == [expected]


def test_a_pattern_overrides_the_rules():
    params = {"attention": {name: {"kernel": jnp.ones((8, 8))} for name in ("query", "value")}}
    found = adam_mini_blocks(overrides={"value": Blocks()})(params)["attention"]
    assert (found["query"]["kernel"], found["value"]["kernel"]) == (Blocks((0,)), Blocks())
    table = groups.describe(params, adam_mini_blocks(heads=2, overrides={"value": Blocks(())}))
    assert "mean over 0, runs 8/4" in table and "each entry" in table


def test_the_state_is_half_of_that_of_adam():
    params = {"layers": {"mlp": {"kernel": jax.ShapeDtypeStruct((12, 768, 3072), jnp.bfloat16)}}}
    tx = adam_mini(0.1, blocks=adam_mini_blocks(scanned={"^layers": 0}), mu_dtype=jnp.float32)
    assert optimiz.state_bytes(tx, params).per_parameter == pytest.approx(4, rel=2e-3)
    assert optimiz.state_bytes(optimiz.low_bit(tx, optimiz.Int8()), params).per_parameter < 1.03


def test_second_moments_are_float32_and_updates_have_the_parameters_dtype():
    p = {"kernel": jnp.ones((3, 2), jnp.bfloat16)}
    tx = adam_mini(0.1)
    updates, state = tx.update(p, tx.init(p), p)
    assert updates["kernel"].dtype == state[0].mu["kernel"].dtype == jnp.bfloat16
    assert state[0].nu["kernel"].dtype == jnp.float32


def test_a_huge_gradient_does_no_lasting_harm_to_a_block():
    tx, p = adam_mini(0.1), {"kernel": jnp.zeros((4, 2))}
    state = tx.init(p)
    for g in (1e30, 1.0, -1e38, 1.0):
        updates, state = tx.update({"kernel": jnp.ones((4, 2)).at[0, 0].set(g)}, state, p)
        assert np.isfinite(updates["kernel"]).all()
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()


def test_without_gradients_and_eps_nothing_moves():
    tx, p = adam_mini(0.1, eps=0.0), jnp.ones((2, 2))
    updates, _ = tx.update(jnp.zeros((2, 2)), tx.init(p), p)
    assert not updates.any()


def test_the_mask_has_both_names():
    p = {"a": jnp.ones(1), "b": jnp.ones(1)}
    zero = jax.tree.map(jnp.zeros_like, p)
    for name in ("mask", "weight_decay_mask"):
        tx = adam_mini(0.5, weight_decay=0.5, **{name: {"a": True, "b": False}})
        updates, _ = tx.update(zero, tx.init(p), p)
        assert (float(updates["a"][0]), float(updates["b"][0])) == (-0.25, 0.0)
    with pytest.raises(ValueError, match="mask"):
        adam_mini(0.5, weight_decay=0.5, mask=True, weight_decay_mask=False)


@pytest.mark.parametrize(("name", "value"), [("b1", 1.0), ("b2", -0.1), ("eps", -1.0), ("weight_decay", -1.0)])
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        adam_mini(0.1, **{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        adam_mini(0.1, **{name: "x"})


def test_refuses_blocks_that_are_none_or_do_not_fit():
    p = {"attention": {"query": {"kernel": jnp.ones((8, 9))}}}
    with pytest.raises(TypeError, match=r"^blocks must be groups\.Blocks of each parameter, got 'head'"):
        adam_mini(0.1, blocks="head").init(p)
    with pytest.raises(ValueError, match=r"^blocks say which layers are stacked, got both"):
        adam_mini(0.1, blocks=Blocks(), scanned={"^layers/": 0})
    with pytest.raises(ValueError, match=r"^heads 2 must divide the 9 outputs of attention/query/kernel"):
        adam_mini(0.1, blocks=adam_mini_blocks(heads=2)).init(p)
    for blocks in (Blocks((2,)), Blocks((0, -2)), Blocks((0,), runs=((9, 2),)), Blocks((0,), runs=((8, 2),))):
        with pytest.raises(ValueError, match=r"^blocks do not fit attention/query/kernel: (over|runs) must"):
            adam_mini(0.1, blocks=adam_mini_blocks(overrides={"query": blocks})).init(p)
    with pytest.raises(ValueError, match="matches no parameter"):
        adam_mini_blocks(overrides={"nowhere": Blocks()})(p)
    with pytest.raises(ValueError, match="more than one answer"):
        adam_mini_blocks(overrides={"query": Blocks(), "kernel": Blocks(())})(p)
    with pytest.raises(TypeError, match=r"^overrides must be Blocks by pattern of path"):
        adam_mini_blocks(overrides={"query": "head"})
    with pytest.raises(ValueError, match=r"^heads must be in \[1"):
        adam_mini_blocks(heads=0)
    with pytest.raises(TypeError, match=r"^kv_heads must be an integer"):
        adam_mini_blocks(heads=2, kv_heads=1.0)
    with pytest.raises(ValueError, match=r"^kv_heads needs heads"):
        adam_mini_blocks(kv_heads=2)


@pytest.mark.parametrize(
    ("shapes", "given", "message"),
    [
        ({"ln/scale": (3, 8)}, {}, "^the norm ln/scale .* stacked layers: declare them"),
        ({"mlp/kernel": (3, 8, 8)}, {}, '^mlp/kernel .* is named as "mlp", but has axes of unknown meaning'),
        (
            {"query_key_value/kernel": (8, 24)},
            {"heads": 2},
            r"unknown order: .*groups\.Blocks\(\(0,\)\)",
        ),
        (
            {"query_key_value/weight": (24, 8)},
            {"heads": 2},
            r"unknown order: .*groups\.Blocks\(\(1,\)\)",
        ),
    ],
)
def test_refuses_blocks_that_names_and_shapes_do_not_tell(shapes, given, message):
    params = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        adam_mini_blocks(**given)(params)
    assert adam_mini_blocks(overrides=dict.fromkeys(shapes, Blocks()), **given)(params)


def test_refuses_a_gradient_of_another_shape():
    tx = adam_mini(0.1)
    with pytest.raises(ValueError, match="shape"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(2)), jnp.ones(2))


_BLOCKS = {
    "kernel": Blocks((1,)),
    "matrix": Blocks((1,), runs=((12, 3),)),
    "bias": Blocks(()),
    "scalar": Blocks(),
    "stack": Blocks(),
}
_NAMES = ("mlp.weight", "q_proj.weight", "bias", "scalar", "stack")

# The sources of the golden trajectories, and our arguments for their settings. Torch's rows are outputs.
SOURCES = {
    "adam_mini": parity.Case(
        title="Adam-mini",
        code="adam_mini.Adam_mini",
        home="adam-mini",
        settings=parity.MOMENTS | {"dim": 12, "n_heads": 6, "verbose": False},
        make=lambda code, params, given: code(list(zip(_NAMES, params, strict=True)), **given),
        note=(
            "The kernel is given to it as mlp.weight, of one block a row, and the matrix as q_proj.weight, of "
            "four heads of three rows; the bias has no decay."
        ),
        ours=lambda rate, s: adam_mini(
            rate,
            **parity.moments(s),
            weight_decay=s["weight_decay"],
            mask=~groups.biases,
            blocks=lambda params: _BLOCKS if isinstance(params, dict) else Blocks((1,)),
        ),
    )
}
