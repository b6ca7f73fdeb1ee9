import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict

from optimiz import groups, sophia_g, sophia_h
from optimiz.groups import rules

LAYERS, WIDTH, HEADS, VOCABULARY = 3, 8, 2, 5
SCANNED = {"^layers/": 0}


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.MultiHeadDotProductAttention(HEADS, name="attention")(nn.LayerNorm(name="ln_1")(x))
        return x + nn.Dense(WIDTH, name="mlp")(nn.LayerNorm(name="ln_2")(x + y)), None


class LinenModel(nn.Module):
    scan: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens)
        if self.scan:
            layers = nn.scan(
                LinenBlock,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=LAYERS,
            )
            x, _ = layers(name="layers")(x, None)
        else:
            for i in range(LAYERS):
                x, _ = LinenBlock(name=f"layers_{i}")(x, None)
        return nn.Dense(VOCABULARY, name="head")(nn.LayerNorm(name="ln_f")(x))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.ln_1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.ln_2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.mlp = nnx.Linear(WIDTH, WIDTH, rngs=rngs)


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.layers = nnx.List([NnxBlock(rngs) for _ in range(LAYERS)])
        self.ln_f = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)


def linen_params(scan: bool = False) -> Any:
    tokens = jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(LinenModel(scan).init, jax.random.key(0), tokens)["params"]


def nnx_state() -> nnx.State:
    return nnx.state(nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0))), nnx.Param)


def answers(params: Any, rule: Any, scanned: Any = None) -> dict[str, Any]:
    """Answer by path."""
    paths = [leaf.path for leaf in rules.read(params, scanned).leaves]
    return dict(zip(paths, jax.tree.leaves(rule(params)), strict=True))


def per_layer(stacked: dict[str, Any]) -> dict[str, Any]:
    """The answers of the stacked model under the paths of its unstacked twin."""
    unstacked = {}
    for path, answer in stacked.items():
        if path.startswith("layers/"):
            for i, x in enumerate(np.broadcast_to(np.ravel(answer), LAYERS)):
                unstacked[path.replace("layers/", f"layers_{i}/")] = x
        else:
            unstacked[path] = answer
    return unstacked


SMALL = {
    "embed": jnp.ones((5, 2)),
    "layers": [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for _ in range(2)],
    "head": {"kernel": jnp.ones((2, 5)), "bias": jnp.ones(5)},
}


# Paths


class Pair(NamedTuple):
    a: Any
    b: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    query: Any
    value: Any


@jax.tree_util.register_pytree_node_class
class Opaque:
    def __init__(self, x):
        self.x = x

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def paths(tree):
    return [leaf.path for leaf in rules.read(tree).leaves]


def test_one_path_for_every_container():
    x = jnp.ones(2)
    pure = {"layers": {0: {"kernel": x}, 1: {"kernel": x}}}
    expected = ["layers/0/kernel", "layers/1/kernel"]
    assert paths(pure) == expected
    assert paths(FrozenDict(pure)) == expected
    assert paths({"layers": [{"kernel": x}, {"kernel": x}]}) == expected
    assert paths(nnx.State({"layers": {i: {"kernel": nnx.Param(x)} for i in (0, 1)}})) == expected
    assert paths({"layers": [{"kernel": nn.Partitioned(x, ("data",))}] * 2}) == expected
    assert paths({"p": Pair(x, [x])}) == ["p/a", "p/b/0"]
    assert paths(Opaque(x)) == ["0"]
    assert paths(x) == [""]


def test_a_field_called_value_beside_others_is_kept():
    x = jnp.ones(2)
    tree = {"attention": Attention(query=x, value=x)}
    assert paths(tree) == ["attention/query", "attention/value"]
    masked = {"attention": Attention(query=optax.MaskedNode(), value=x)}
    assert paths(masked) == ["attention/value"]
    assert paths({"attention": {"value": x}}) == ["attention/value"]
    assert paths({"attention": Attention(query={"kernel": x}, value=x)})[1] == "attention/value"


def test_linen_and_nnx_agree():
    state = nnx_state()
    pure = nnx.to_pure_dict(state)
    linen = linen_params()
    assert sorted(paths(state)) == sorted(paths(pure))
    for rule in (groups.no_decay(), groups.no_decay(embeddings=True), groups.layerwise_decay(0.5)):
        from_state = answers(state, rule)
        assert from_state == answers(pure, rule)
        assert {path.replace("layers/", "layers_"): x for path, x in from_state.items()} == answers(linen, rule)


def test_answers_have_the_tree_of_the_parameters_and_are_static():
    for params in (nnx_state(), nnx.to_pure_dict(nnx_state()), FrozenDict(linen_params())):
        mask = groups.no_decay()(params)
        assert jax.tree.structure(mask) == jax.tree.structure(params)
        assert all(type(x) is bool for x in jax.tree.leaves(mask))


# Scanned layers


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "rule",
    [
        groups.no_decay(scanned=SCANNED),
        groups.no_decay(embeddings=True, scanned=SCANNED),
        groups.rank(0, 1, scanned=SCANNED),
        groups.rank(2, scanned=SCANNED) & ~groups.embeddings,
        groups.label({"norm": groups.norms, "rest": groups.everything}),
    ],
    ids=["no decay", "no decay of embeddings", "rank", "rank and not", "labels"],
)
def test_stacked_equals_unstacked(rule):
    unscanned = dataclasses.replace(rule, scanned={}) if isinstance(rule, groups.Rule) else rule
    stacked = answers(linen_params(scan=True), rule)
    assert per_layer(stacked) == answers(linen_params(), unscanned)


def test_dimensions_mislead_both_ways():
    """A stacked bias has two, and so has a bias of attention; names and the scanned axis do not."""
    stacked = linen_params(scan=True)
    assert stacked["layers"]["mlp"]["bias"].ndim == 2
    assert linen_params()["layers_0"]["attention"]["query"]["bias"].ndim == 2
    for params, scanned in ((linen_params(), None), (stacked, SCANNED), (stacked, None)):
        mask = answers(params, groups.no_decay(scanned=scanned))
        decayed = {path.rsplit("/", 1)[-1] for path, yes in mask.items() if yes}
        spared = {path.rsplit("/", 1)[-1] for path, yes in mask.items() if not yes}
        assert (decayed, spared) == ({"kernel", "embedding"}, {"bias", "scale"})


def test_an_unnamed_vector_needs_its_scanned_axis():
    params = {"layers": {"gain": jnp.ones((3, 2)), "matrix": jnp.ones((3, 2, 2))}}
    assert groups.no_decay(scanned=SCANNED)(params) == {"layers": {"gain": False, "matrix": True}}
    assert groups.no_decay()(params) == {"layers": {"gain": True, "matrix": True}}


def test_a_scanned_axis_is_known_to_the_whole_rule():
    params = {"layers": {"gain": jnp.ones((3, 2))}}
    for rule in (
        groups.rank(1) & groups.no_decay(scanned=SCANNED),
        ~(groups.no_decay(scanned=SCANNED) | groups.rank(2)),
    ):
        assert rule.scanned == SCANNED
    assert (groups.rank(2) | groups.no_decay(scanned=SCANNED))(params) == {"layers": {"gain": False}}


def test_rules_that_disagree_on_a_scanned_axis():
    with pytest.raises(ValueError, match=r"pattern 'a' more than one axis: \(0, 1\)"):
        groups.rank(1, scanned={"a": 0}) & groups.rank(2, scanned={"a": 1})


def test_scanned_axes():
    params = {"a": jnp.ones((2, 3)), "b": optax.MaskedNode(), "c": jnp.ones((2, 3))}
    assert groups.scanned_axes(params, {"c": 1}) == [None, 1]
    assert groups.scanned_axes(params) == [None, None]
    assert groups.scanned_axes({}, {"c": 1}) == []


@pytest.mark.parametrize(
    ("scanned", "message"),
    [
        ({"^layer/": 0}, r"scanned pattern '\^layer/' matches no parameter; there are embed, head/"),
        ({"^layers/": 1}, r"gives layers/0/bias axis 1, but its shape is \(2,\)"),
        ({"^layers/": -1}, r"gives layers/0/bias axis -1"),
        ({"^layers/": 0, "kernel": 1}, r"gives layers/0/kernel more than one axis: \[0, 1\]"),
    ],
)
def test_scanned_mistakes(scanned, message):
    for function in (
        groups.no_decay(scanned=scanned),
        groups.layerwise_decay(0.5, scanned=scanned),
        lambda params: groups.scanned_axes(params, scanned),
    ):
        with pytest.raises(ValueError, match=message):
            function(SMALL)


# Rules


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        (
            groups.biases,
            "bias a/bias a/b q_bias rnn/bias_hh a/in_proj_bias",
            "bias/kernel relative_attention_bias/embedding lora_b debias a/b/kernel",
        ),
        (
            groups.norms,
            "scale a/gamma a/beta ln/offset LayerNorm_0/bias RMSNorm_0/weight ln_1/bias ln1/weight "
            "final_ln/weight ln_f/bias bn/bias pre_bn2/weight",
            "mlp/bias norm/linear/weight vulnerable/bias ada_norm/kernel scale/kernel",
        ),
        (
            groups.embeddings,
            "embed/embedding embeddings/LayerNorm/scale pos_embedding wte wpe/weight "
            "patch_embed/kernel TokenEmbedder_0/table cls cls_token mask_token",
            "unembed/kernel cls/predictions/bias head/kernel tokens/kernel",
        ),
        (groups.everything, "a", ""),
    ],
    ids=str,
)
def test_naming_rules(rule, yes, no):
    for path in yes.split():
        assert rule.test(groups.Leaf(path, (2, 2))), path
    for path in no.split():
        assert not rule.test(groups.Leaf(path, (2, 2))), path


def test_algebra():
    head, kernels = groups.path("^head/"), groups.path("kernel$")
    covered = lambda rule: [path for path, yes in answers(SMALL, rule).items() if yes]  # noqa: E731
    assert covered(head & kernels) == ["head/kernel"]
    assert covered(head | kernels) == ["head/bias", "head/kernel", "layers/0/kernel", "layers/1/kernel"]
    assert covered(~(head | kernels)) == ["embed", "layers/0/bias", "layers/1/bias"]
    assert covered(groups.Rule("wide", lambda leaf: leaf.size == 10)) == ["embed", "head/kernel"]
    assert repr(~(head | groups.biases)) == "~(path('^head/') | biases)"
    with pytest.raises(TypeError, match="combine rules with"):
        bool(head)
    with pytest.raises(AttributeError):
        head.name = "tail"  # pyright: ignore


def test_a_pattern_that_matches_nothing():
    message = r"path\('hedd'\) matches no parameter; there are embed, head/bias"
    for rule in (
        groups.path("hedd"),
        ~groups.path("hedd"),
        groups.no_decay() & ~groups.path("hedd"),
        groups.path("head") | groups.path("hedd"),
    ):
        with pytest.raises(ValueError, match=message):
            rule(SMALL)
    many = {f"layer_{i}": jnp.ones(2) for i in range(100)}
    with pytest.raises(ValueError, match=r"layer_0, .* and 92 more"):
        groups.path("hedd")(many)


def test_naming_rules_may_match_nothing():
    kernels = {"a": {"kernel": jnp.ones((2, 2))}}
    assert groups.no_decay(embeddings=True)(kernels) == {"a": {"kernel": True}}
    assert groups.biases(kernels) == {"a": {"kernel": False}}


def test_partial_trees():
    """As Optax calls a rule for one group of parameters, for none, and from tree_map_params."""
    hole = optax.MaskedNode()
    rule = groups.path("hedd") | groups.no_decay(scanned={"^stack/": 0})
    assert rule({"a": hole, "kernel": jnp.ones((2, 2))}) == {"a": hole, "kernel": True}
    assert rule({}) == {}
    assert rule({"a": None}) == {"a": None}
    with pytest.raises(ValueError, match="hedd"):  # Equinox writes None for what is no parameter
        groups.path("hedd")({"a": None, "kernel": jnp.ones((2, 2))})


def test_a_bare_step_count_is_refused():
    """Otherwise a mask given to inject_hyperparams becomes a hyperparameter, and nothing decays."""
    tx = optax.inject_hyperparams(optax.adamw)(1e-3, mask=groups.no_decay())
    with pytest.raises(TypeError, match="static_args"):
        tx.init(SMALL)
    tx = optax.inject_hyperparams(optax.adamw, static_args="mask")(1e-3, mask=groups.no_decay())
    tx.update(SMALL, tx.init(SMALL), SMALL)


# Masks in Optax


def concrete(params):
    return jax.tree.map(lambda x: jnp.full(x.shape, 2.0), params)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "params",
    [linen_params(), linen_params(scan=True), nnx_state(), nnx.to_pure_dict(nnx_state())],
    ids=["linen", "scan", "state", "pure"],
)
def test_decay_in_adamw(params):
    params = concrete(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = optax.adamw(1.0, weight_decay=0.25, mask=groups.no_decay())
    updates, _ = jax.jit(tx.update)(zeros, jax.jit(tx.init)(params), params)
    for path, update in answers(updates, lambda tree: tree).items():
        expected = -0.5 if path.endswith(("kernel", "embedding")) else 0.0
        np.testing.assert_allclose(update, expected, err_msg=path)


def test_masked_partition_and_tree_map_params():
    decayed = optax.adamw(1.0, weight_decay=0.5, mask=groups.no_decay())
    labels = groups.label({"head": groups.path("^head/"), "body": groups.everything})
    tx = optax.partition({"head": optax.masked(decayed, groups.path("kernel$")), "body": decayed}, labels)
    state = jax.jit(tx.init)(SMALL)
    updates, state = jax.jit(tx.update)(SMALL, state, SMALL)
    assert jax.tree.structure(updates) == jax.tree.structure(SMALL)
    assert updates["head"]["bias"].tolist() == [1.0] * 5  # masked out: passed on as it came

    specs = optax.tree_map_params(
        tx,
        lambda _, path: path,
        state,
        jax.tree.unflatten(jax.tree.structure(SMALL), paths(SMALL)),
        is_leaf=lambda node: isinstance(node, optax.MaskedNode),
    )
    body = optax.tree.get(specs.inner_states["body"], "mu")
    assert body["layers"][1]["kernel"] == "layers/1/kernel"
    assert jax.tree.structure(jax.eval_shape(tx.init, SMALL)) == jax.tree.structure(state)


# Labels


def test_first_match_wins_and_default_takes_the_rest():
    rules = {"head": groups.path("^head/"), "kernel": groups.path("kernel$")}
    labels = groups.label(rules, default="rest")(SMALL)
    assert labels == {
        "embed": "rest",
        "head": {"bias": "head", "kernel": "head"},
        "layers": [{"bias": "rest", "kernel": "kernel"}] * 2,
    }
    assert groups.label(dict(reversed(rules.items())), default="rest")(SMALL)["head"] == {
        "bias": "head",
        "kernel": "kernel",
    }


def test_labels_of_every_kind_of_rule():
    vectors = lambda params: jax.tree.map(lambda p: p.ndim == 1, params)  # noqa: E731
    labels = groups.label({0: vectors, 1: groups.everything})(SMALL)
    assert labels["head"] == {"bias": 0, "kernel": 1}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"head": groups.path("^head/"), "kernel": groups.path("kernel$")},
            r"no rule covers embed, layers/0/bias, layers/1/bias; the labels are \['head', 'kernel'\]",
        ),
        (
            {"norm": groups.norms, "rest": groups.everything},
            "'norm' names no parameter: norms matches none of embed, ",
        ),
        (
            {"all": groups.everything, "head": groups.path("^head/")},
            r"'head' names no .* earlier rules cover all that path\('\^head/'\)",
        ),
        ({"hedd": groups.path("^hedd/"), "rest": groups.everything}, r"path\('\^hedd/'\) matches no"),
    ],
)
def test_label_mistakes(rules, message):
    with pytest.raises(ValueError, match=message):
        groups.label(rules)(SMALL)


def test_a_rule_must_be_callable():
    with pytest.raises(TypeError, match="label 'head' must say True or False of each parameter, got '\\^head'"):
        groups.label({"head": "^head"})  # pyright: ignore


def test_labels_of_a_partial_tree():
    labels = groups.label({"head": groups.path("^head/"), "rest": groups.everything})
    hole = optax.MaskedNode()
    assert labels({"head": hole, "a": jnp.ones(2)}) == {"head": hole, "a": "rest"}
    assert labels({}) == {}
    with pytest.raises(ValueError, match="no rule covers a"):
        groups.label({"head": groups.path("^head/")})({"head": hole, "a": jnp.ones(2)})


# Layer-wise decay


def test_layerwise_decay_of_the_stack_and_of_its_twin():
    unstacked = answers(linen_params(), groups.layerwise_decay(0.5))
    assert unstacked["embed/embedding"] == 0.5**4
    assert [unstacked[f"layers_{i}/mlp/bias"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert {unstacked[path] for path in ("ln_f/scale", "ln_f/bias", "head/kernel")} == {1.0}

    rule = groups.layerwise_decay(0.5, scanned=SCANNED)
    stacked = linen_params(scan=True)
    assert per_layer(answers(stacked, rule)) == unstacked
    for leaf, multiplier in zip(
        rules.read(stacked, SCANNED).leaves, jax.tree.leaves(rule(stacked)), strict=True
    ):
        assert np.broadcast_shapes(leaf.shape, np.shape(multiplier)) == leaf.shape


def test_layers_stacked_along_another_axis():
    params = {"layers": {"kernel": jnp.ones((4, 2, 5))}, "embed": jnp.ones(2)}
    multipliers = groups.layerwise_decay(0.5, scanned={"^layers/": 1})(params)
    assert multipliers["layers"]["kernel"].tolist() == [[[0.25], [0.5]]]
    assert multipliers["embed"] == 0.125


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("layers/3/kernel", 3),
        ("layers_3/kernel", 3),
        ("encoder/layer/11/attention/layer_0/kernel", 11),
        ("encoder/block/2/layer/0/SelfAttention/q/kernel", 2),
        ("Transformer/encoderblock_7/ln_1/scale", 7),
        ("TransformerBlock_0/Dense_0/kernel", 0),
        ("transformer/h/5/attn/kernel", 5),
        ("resblocks/1/kernel", 1),
        ("LayerNorm_0/scale", None),
        ("Dense_3/kernel", None),
        ("layer_norm_1/scale", None),
        ("head/3", None),
    ],
)
def test_layer_index_of_common_models(path, layer):
    params = {path: jnp.ones(2), "layers/20": jnp.ones(2)}
    expected = 1.0 if layer is None else 0.5 ** (21 - layer)
    assert groups.layerwise_decay(0.5)(params)[path] == expected


def test_custom_layers_and_embeddings():
    rule = groups.layerwise_decay(0.5, layers=r"stage(\d)", embeddings=groups.path("^stem"))
    params = {"stem": 1.0, "stage0": 1.0, "stage1": 1.0, "embed": 1.0}
    assert rule(params) == {"stem": 0.125, "stage0": 0.25, "stage1": 0.5, "embed": 1.0}


def test_depth_does_not_depend_on_what_is_masked():
    hole = optax.MaskedNode()
    rule = groups.layerwise_decay(0.5)
    assert rule({"embed": 1.0, "layers": [hole, hole]})["embed"] == 0.125
    assert rule({}) == {}
    with pytest.raises(ValueError, match="pass the answer for the whole tree"):
        groups.layerwise_decay(0.5, scanned=SCANNED)({"embed": 1.0, "layers": {"kernel": hole}})


def test_layerwise_decay_mistakes():
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\], got 1.5"):
        groups.layerwise_decay(1.5)
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\], got 0"):
        groups.layerwise_decay(0)
    with pytest.raises(TypeError, match="rate must be a number"):
        groups.layerwise_decay("0.5")  # pyright: ignore
    with pytest.raises(ValueError, match="layers must have one group"):
        groups.layerwise_decay(0.5, layers="layers_")
    with pytest.raises(ValueError, match=r"no layer found: .* there are a, b"):
        groups.layerwise_decay(0.5)({"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match="hedd"):
        groups.layerwise_decay(0.5, embeddings=groups.path("hedd"))(SMALL)


# Freezing


def test_frozen_parameters_have_no_update_no_state_and_no_norm():
    tx = groups.freeze(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, mask=groups.no_decay())),
        ~groups.path("^head/"),
    )
    state = jax.jit(tx.init)(SMALL)
    shapes = {x.shape for x in jax.tree.leaves(state)}
    assert shapes == {(), (2, 5), (5,)}
    assert jax.tree.structure(jax.eval_shape(tx.init, SMALL)) == jax.tree.structure(state)

    clip = groups.freeze(optax.clip_by_global_norm(1.0), ~groups.path("^head/bias"))
    grads = jax.tree.map(lambda p: 100 * jnp.ones_like(p), SMALL)
    grads["head"]["bias"] = jnp.array([3.0, 4.0, 0.0, 0.0, 0.0])
    updates, _ = jax.jit(clip.update)(grads, clip.init(SMALL), SMALL)
    np.testing.assert_allclose(updates["head"]["bias"], [0.6, 0.8, 0, 0, 0], rtol=1e-6)
    assert not updates["embed"].any() and not updates["head"]["kernel"].any()


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "search",
    [
        optax.scale_by_backtracking_linesearch(15, store_grad=True),
        optax.scale_by_zoom_linesearch(15),
    ],
    ids=["backtracking", "zoom"],
)
def test_a_line_search_moves_only_the_trained_parameters(search):
    """It equals the search on a function of the trained parameters alone."""

    def loss(params, scale):
        return scale * jnp.sum((params["free"] - 3.0) ** 2) + jnp.sum(params["fixed"] ** 4)

    params = {"free": jnp.array([1.0, -1.0]), "fixed": jnp.array([5.0])}
    inner = optax.chain(optax.sgd(4.0), search)
    tx = groups.freeze(inner, groups.path("^fixed"))

    def alone(free, scale):
        return loss({"free": free, "fixed": params["fixed"]}, scale)

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(loss)(params, 2.0)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss, scale=2.0)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def step_alone(free, state):
        value, grad = jax.value_and_grad(alone)(free, 2.0)
        updates, state = inner.update(grad, state, free, value=value, grad=grad, value_fn=alone, scale=2.0)
        return optax.apply_updates(free, updates), state

    free, state, state_alone = params["free"], tx.init(params), inner.init(params["free"])
    for _ in range(3):
        params, state = step(params, state)
        free, state_alone = step_alone(free, state_alone)
        np.testing.assert_array_equal(params["free"], free)
    assert params["fixed"].tolist() == [5.0]
    assert alone(free, 2.0) < alone(jnp.array([1.0, -1.0]), 2.0)


@pytest.mark.parametrize("name", ["logits_fn", "obj_fn"])
def test_an_estimate_of_the_curvature_calls_its_function_with_all_parameters(name):
    """It equals the method on the trained parameters alone."""
    params = {"free": jnp.array([[1.0, -1.0]]), "fixed": jnp.array([[5.0], [2.0]])}
    grads = jax.tree.map(jnp.ones_like, params)

    def function(params):
        logits = params["fixed"] @ params["free"]
        return logits if name == "logits_fn" else jnp.sum(logits**4)

    tx = sophia_g(0.1, classes=2) if name == "logits_fn" else sophia_h(0.1)
    frozen = groups.freeze(tx, groups.path("^fixed"))
    updates, _ = frozen.update(grads, frozen.init(params), params, **{name: function})
    alone, inner = {"free": params["free"]}, lambda free: function(free | {"fixed": params["fixed"]})
    expected, _ = tx.update({"free": grads["free"]}, tx.init(alone), alone, **{name: inner})
    np.testing.assert_array_equal(updates["free"], expected["free"])
    assert np.unique(expected["free"]).size == 2 and not updates["fixed"].any()


def test_freezing_nothing_or_everything():
    tx = groups.freeze(optax.sgd(1.0), groups.path("hedd"))
    with pytest.raises(ValueError, match="hedd"):
        tx.init(SMALL)
    tx = groups.freeze(optax.sgd(1.0), groups.norms)
    with pytest.raises(ValueError, match="label 'frozen' names no parameter: norms"):
        tx.init(SMALL)
    tx = groups.freeze(optax.sgd(1.0), groups.everything)
    with pytest.raises(ValueError, match="label 'trained' names no parameter: earlier rules"):
        tx.init(SMALL)


# Description


def test_describe_a_mask():
    assert groups.describe(linen_params(), groups.no_decay()) == (
        """\
path                                  shape      parameters  answer
embed/embedding                       (5, 8)             40  True
head/bias                             (5,)                5  False
head/kernel                           (8, 5)             40  True
layers_{0..2}/attention/key/bias      (2, 4)             24  False
layers_{0..2}/attention/key/kernel    (8, 2, 4)         192  True
layers_{0..2}/attention/out/bias      (8,)               24  False
layers_{0..2}/attention/out/kernel    (2, 4, 8)         192  True
layers_{0..2}/attention/query/bias    (2, 4)             24  False
layers_{0..2}/attention/query/kernel  (8, 2, 4)         192  True
layers_{0..2}/attention/value/bias    (2, 4)             24  False
layers_{0..2}/attention/value/kernel  (8, 2, 4)         192  True
layers_{0..2}/ln_1/bias               (8,)               24  False
layers_{0..2}/ln_1/scale              (8,)               24  False
layers_{0..2}/ln_2/bias               (8,)               24  False
layers_{0..2}/ln_2/scale              (8,)               24  False
layers_{0..2}/mlp/bias                (8,)               24  False
layers_{0..2}/mlp/kernel              (8, 8)            192  True
ln_f/bias                             (8,)                8  False
ln_f/scale                            (8,)                8  False

answer  leaves  parameters  share
True        17       1,040    81%
False       30         237    19%
all         47       1,277   100%"""
    )


def test_describe_multipliers():
    expected = """\
path             shape      parameters  answer
embed/embedding  (5, 8)             40  0.0625
head/bias        (5,)                5  1
head/kernel      (8, 5)             40  1
layers_0/*       14 leaves         392  0.125
layers_1/*       14 leaves         392  0.25
layers_2/*       14 leaves         392  0.5
ln_f/bias        (8,)                8  1
ln_f/scale       (8,)                8  1"""
    table, totals = groups.describe(linen_params(), groups.layerwise_decay(0.5)).split("\n\n")
    assert table == expected
    assert totals.splitlines()[-1].split() == ["all", "47", "1,277", "100%"]
    stacked = groups.describe(linen_params(scan=True), groups.layerwise_decay(0.5, scanned=SCANNED))
    assert "layers/mlp/kernel              (3, 8, 8)            192  0.125..0.5\n" in stacked


def test_describe_folds_only_neighbours_that_agree():
    layers = [jnp.ones(3) for _ in range(12)]
    layers[10] = jnp.ones(4)
    frozen = groups.path(r"layers_[01]$") | groups.path(r"layers_4$")
    text = groups.describe({f"layers_{i}": x for i, x in enumerate(layers)}, frozen)
    assert [line.split()[0] for line in text.split("\n\n")[0].splitlines()[1:]] == [
        "layers_{0..1}",
        "layers_{2..3}",
        "layers_4",
        "layers_{5..9}",
        "layers_10",
        "layers_11",
    ]


def test_describe_takes_trees_and_prefixes():
    labels = groups.label({"head": groups.path("^head/"), "body": groups.everything})
    as_tree = groups.describe(SMALL, labels(SMALL))
    assert as_tree == groups.describe(SMALL, labels)
    assert as_tree == groups.describe(SMALL, {"embed": "body", "head": "head", "layers": "body"})
    assert "layers/{0..1}/*  4 leaves          12  body\n" in as_tree
    with pytest.raises(ValueError):
        groups.describe(SMALL, {"embed": "body"})


def test_twelve_layers_fit_on_a_screen():
    block = LinenBlock()
    x = jax.ShapeDtypeStruct((1, 2, WIDTH), jnp.float32)
    layer = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.ones(x.shape), None))["params"]
    params = {"encoder": {"layer": {str(i): layer for i in range(12)}}, "head": x}
    for rule in (groups.no_decay(), groups.layerwise_decay(0.9), groups.path("encoder/layer/[0-5]/")):
        assert len(groups.describe(params, rule).splitlines()) <= 40


def test_the_final_norm_may_have_the_last_layers_multiplier():
    # timm, for a ViT of two blocks: the norm goes with the last of them, fc_norm with the head.
    vit = {
        "pos_embed": 1.0,
        "blocks": [{"norm1": 1.0}, {"norm1": 1.0}],
        "norm": 1.0,
        "fc_norm": 1.0,
        "head": 1.0,
    }
    timm = groups.layerwise_decay(0.75, with_last=groups.path("^norm"))(vit)
    assert timm == {
        "pos_embed": 0.75**3,
        "blocks": [{"norm1": 0.75**2}, {"norm1": 0.75}],
        "norm": 0.75,
        "fc_norm": 1.0,
        "head": 1.0,
    }
    assert groups.layerwise_decay(0.75)(vit) == timm | {"norm": 1.0}  # as BEiT's own code
    with pytest.raises(ValueError, match="matches no parameter"):
        groups.layerwise_decay(0.75, with_last=groups.path("^ln_f"))(vit)


def test_layers_that_are_no_expression_are_refused_by_name():
    with pytest.raises(TypeError, match=r"layers must be a regular expression with one group, .* got 12"):
        groups.layerwise_decay(0.8, layers=12)
