"""What cannot be converted is refused, by name, before anything is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz.torch_state import Tensor, from_torch, to_torch

PARAMS = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
TENSORS = {"weight": Tensor("kernel", axes=(1, 0)), "bias": "bias"}
ADAM = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0}
ADAFACTOR = {"lr": 0.01, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0}


def f32(*shape):
    return np.ones(shape, np.float32)


def adam(step=3, **changed):
    """A state_dict of Adam with arrays that fit."""
    entries = {
        i: {"step": np.float32(step), "exp_avg": f32(*shape), "exp_avg_sq": f32(*shape)}
        for i, shape in enumerate([(2, 3), (2,)])
    }
    group = {**ADAM, "params": [0, 1], "param_names": ["weight", "bias"], **changed}
    return {"state": entries, "param_groups": [group]}


def with_entry(key, value, index=0):
    state_dict = adam()
    state_dict["state"][index][key] = value
    return state_dict


def without(key):
    state_dict = adam()
    for part in (state_dict["param_groups"][0], state_dict["state"][0]):
        part.pop(key, None)
    return state_dict


REFUSED = [
    ("NAdam", adam(), {}, r"name must be one of 'Adam', 'AdamW', 'SGD', 'Adafactor', got 'NAdam'"),
    ("AdamW", {"model": 1}, {}, "a state_dict has the keys 'state' and 'param_groups', got dict with 'model'"),
    ("AdamW", [], {}, "got list"),
    ("AdamW", without("betas"), {}, "a group of torch.optim.AdamW has betas, which this lacks"),
    ("AdamW", without("param_names"), {}, "names must be given: this state_dict numbers its parameters"),
    ("AdamW", without("step"), {}, "the state of 'weight' has no step, but 'exp_avg', 'exp_avg_sq'"),
    ("AdamW", without("exp_avg_sq"), {}, "the state of 'weight' has no exp_avg_sq, but step, exp_avg"),
    ("AdamW", adam(decoupled_weight_decay=False), {}, "decoupled_weight_decay=False is not that of"),
    ("Adam", adam(decoupled_weight_decay=True), {}, "decoupled_weight_decay=True is not that of"),
    ("AdamW", adam(amsgrad=True), {}, "has no max_exp_avg_sq"),
    ("AdamW", adam(betas=(1.0, 0.9)), {}, r"b1 must be in \[0, 1\), got 1.0"),
    ("AdamW", adam(lr="1e-3"), {}, "lr of a group"),
    ("AdamW", adam(step=2.5), {}, "the step of 'weight' must be a number of updates"),
    ("AdamW", adam(step=np.nan), {}, "the step of 'weight' must be a number of updates"),
    ("AdamW", adam(param_names=["module.weight", "bias"]), {}, "tensors must have 'module.weight', which the"),
    ("AdamW", adam(), {"names": ["weight"]}, "one for each of the optimizer's 2 parameters, got 1"),
    ("AdamW", adam(), {"names": ["weight", "weight"]}, "kernel cannot have the state of both 'weight' and"),
    ("AdamW", adam(), {"updates": 2}, "updates must be at least the step of 'weight', 3, got 2"),
    ("AdamW", with_entry("exp_avg", f32(3, 2)), {}, r"'weight' must have shape \(2, 3\).*got \(3, 2\)"),
    ("AdamW", with_entry("exp_avg", np.ones((2, 3), complex)), {}, "exp_avg of 'weight' must be real"),
    ("AdamW", with_entry("exp_avg", np.ones((2, 3), int)), {}, "'weight' must be floating point, got int64"),
    ("AdamW", with_entry("exp_avg", np.ones((2, 3))), {}, "float64, which JAX has only with jax_enable_x64"),
    ("AdamW", with_entry("exp_avg", object()), {}, r"must be an array of NumPy, got object; x.detach\(\)"),
    ("AdamW", adam() | {"state": {7: {}}}, {}, "the state has 7, of no group"),
    ("AdamW", adam(), {"learning_rate": lambda peak: "high"}, "learning_rate must be"),
    ("SGD", {"state": {}, "param_groups": [SGD | {"params": ["weight", "bias"]}]},
     {"learning_rate": lambda peak: peak}, "updates must be given for a schedule: torch.optim.SGD does"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state_dict", "more", "message"), REFUSED)
def test_reading_refuses(name, state_dict, more, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        from_torch(name, state_dict, PARAMS, TENSORS, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": TENSORS["weight"]}, "tensors must have a name for every parameter; none is of bias"),
        (TENSORS | {"bias": "biass"}, r"tensors\['bias'\] names 'biass'; params has bias, kernel"),
        (TENSORS | {"bias": Tensor()}, r"tensors\['bias'\] names no path"),
        (TENSORS | {"bias": Tensor("bias", "bias")}, "names a parameter twice: bias, bias"),
        (
            TENSORS | {"weight": Tensor("kernel", axes=(0, 2))},
            r"the axes of tensors\['weight'\] must be an order of the 2",
        ),
        (TENSORS | {"x": Tensor("kernel", "bias")}, r"concatenates .* shapes \(3, 2\), \(2,\) do not allow"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors, message):
    for convert in (
        lambda: from_torch("AdamW", adam(), PARAMS, tensors),
        lambda: to_torch("AdamW", optimiz.adamw(0.1).init(PARAMS), PARAMS, tensors, adam()),
    ):
        with pytest.raises(ValueError, match=message):
            convert()


@pytest.mark.parametrize(
    ("shape", "tensor", "message"),
    [
        (
            (3, 3, 8, 16),
            Tensor("kernel", axes=(3, 2, 0, 1)),
            "'weight' of shape .* is factored along its last two axes",
        ),
        (
            (6,),
            Tensor("kernel", "bias"),
            "'weight' is one parameter for torch.optim.Adafactor, .*: kernel, bias",
        ),
    ],
)
def test_adafactor_refuses_means_that_ours_does_not_take(shape, tensor, message):
    params = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(2)}
    tensors = {"weight": tensor, "bias": "bias"}
    keys = ["weight"] if len(tensor.paths) > 1 else ["weight", "bias"]
    state_dict = {"state": {}, "param_groups": [ADAFACTOR | {"params": keys}]}
    with pytest.raises(ValueError, match=message):
        from_torch("Adafactor", state_dict, params, tensors)


def template(group):
    return {"state": {}, "param_groups": [group | {"params": ["weight", "bias"]}]}


MASKED = optax.partition({"a": optimiz.adamw(0.1), "b": optimiz.sgd(0.1, 0.9)}, {"kernel": "a", "bias": "b"})
UNWRITTEN = [
    ("AdamW", optimiz.amsgrad(0.1), ADAM | {"amsgrad": True}, "only that of .*max_before_correction=True"),
    ("AdamW", optimiz.amsgrad(0.1, max_before_correction=True), ADAM, "kernel has mu, nu, nu_max, but"),
    ("AdamW", optimiz.adamw(0.1), ADAM | {"amsgrad": True}, "needs mu, nu, nu_max"),
    ("AdamW", optimiz.sgd(0.1), ADAM, "the state has no moments, but exp_avg, exp_avg_sq of torch.optim.AdamW"),
    ("AdamW", optimiz.lion(0.1), ADAM, r"the state has state\[0\].mu\['bias'\] of shape \(2,\), for"),
    ("AdamW", optimiz.accumulate(optimiz.adamw(0.1), 2), ADAM, "for which torch.optim.AdamW has no place"),
    ("AdamW", optimiz.low_bit(optimiz.adamw(0.1), optimiz.Int8()), ADAM, "must be|has no place"),
    ("AdamW", MASKED, ADAM, "the state of bias has trace, but .* torch.optim.AdamW needs mu, nu"),
    ("SGD", optimiz.sgd(0.1, 0.9), SGD | {"momentum": 0}, "in torch.optim.SGD needs none"),
    ("SGD", optimiz.sgd(0.1), SGD, "the state has no moments, but momentum_buffer of torch.optim.SGD begin"),
    ("Adafactor", optimiz.adafactor(0.1), ADAFACTOR, r"kernel must be .* of shape \(1, 2\), got float32\[\]"),
    ("Adafactor", optimiz.adafactor(0.1, momentum=0.9), ADAFACTOR, "has no place"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tx", "group", "message"), UNWRITTEN)
def test_writing_refuses(name, tx, group, message):
    with pytest.raises(ValueError, match=message) as caught:
        to_torch(name, tx.init(PARAMS), PARAMS, TENSORS, template(group))
    assert "\n" not in str(caught.value)


def test_a_state_of_parameters_that_the_template_lacks_is_refused():
    state = optimiz.adamw(0.1).init(PARAMS)
    only = {"state": {}, "param_groups": [ADAM | {"params": ["weight"]}]}
    with pytest.raises(ValueError, match="the template has no parameter for the state of bias"):
        to_torch("AdamW", state, PARAMS, TENSORS, only)


def test_what_pytorchs_optimizer_does_not_have_is_frozen():
    state_dict = adam(params=[0], param_names=["weight"])
    del state_dict["state"][1]
    found = from_torch("AdamW", state_dict, PARAMS, TENSORS)
    assert found.frozen == ("bias",)
    updates, _ = found.tx.update(PARAMS, found.state, jax.tree.map(jnp.ones_like, PARAMS))
    assert np.all(updates["bias"] == 0) and np.any(updates["kernel"] != 0)


def test_a_tied_parameter_has_the_state_of_the_one_name_that_pytorch_keeps():
    """Both names may be in tensors; two of PyTorch's in the optimizer may not be one here."""
    params, tied = {"word": jnp.zeros((3, 2))}, {"embedding.weight": "word", "head.weight": "word"}
    entry = {"step": np.float32(1), "exp_avg": f32(3, 2), "exp_avg_sq": f32(3, 2)}

    def state_dict(*names):
        return {"state": dict.fromkeys(names, entry), "param_groups": [ADAM | {"params": list(names)}]}

    found = from_torch("AdamW", state_dict("embedding.weight"), params, tied)
    assert float(found.state[0].mu["word"].sum()) == 6
    with pytest.raises(
        ValueError, match=r"word cannot have the state of both 'embedding.weight' and 'head.weight'"
    ):
        from_torch("AdamW", state_dict("embedding.weight", "head.weight"), params, tied)


@pytest.mark.parametrize("step", [3, np.float32(3), np.array(3.0), np.array([3.0], np.float32)])
def test_a_step_of_any_version_is_a_count(step):
    found = from_torch("AdamW", adam(step), PARAMS, TENSORS)
    assert optax.tree.get(found.state, "count") == 3 and found.updates == 3


def test_moments_keep_their_precision_beside_parameters_of_another():
    small = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    wide = from_torch("AdamW", adam(), small, TENSORS).state[0]
    assert {x.dtype for x in jax.tree.leaves((wide.mu, wide.nu))} == {jnp.dtype("float32")}
    narrow = adam()
    for entry in narrow["state"].values():
        entry |= {key: entry[key].astype(jnp.bfloat16) for key in ("exp_avg", "exp_avg_sq")}
    same = from_torch("AdamW", narrow, small, TENSORS).state[0]
    assert same.mu["bias"].dtype == jnp.bfloat16 and same.nu["bias"].dtype == jnp.float32
    back = to_torch("AdamW", (same,), small, TENSORS, narrow)
    assert back["state"][0]["exp_avg"].dtype == np.float32  # torch.from_numpy takes no bfloat16
    above = from_torch("AdamW", narrow, PARAMS, TENSORS).state[0]
    assert above.mu["bias"].dtype == jnp.float32


def test_what_pytorch_does_next_to_its_arrays_does_not_change_ours():
    array = np.ones(1040, np.float32)
    array = array[-array.ctypes.data % 64 // 4 :][:1024]  # aligned as PyTorch does
    state_dict = {"state": {"w": {"momentum_buffer": array}}, "param_groups": [SGD | {"params": ["w"]}]}
    found = from_torch("SGD", state_dict, {"w": jnp.zeros(1024)}, {"w": "w"})
    array[:] = 7
    np.testing.assert_array_equal(found.state[0].trace["w"], np.ones(1024))


def test_momentum_none_of_older_versions_and_a_fresh_optimizer_begin_at_zero():
    for state in ({}, {"weight": {"momentum_buffer": None}, "bias": {"momentum_buffer": None}}):
        found = from_torch(
            "SGD", {"state": state, "param_groups": [SGD | {"params": ["weight", "bias"]}]}, PARAMS, TENSORS
        )
        assert found.frozen == () and not np.any(found.state[0].trace["kernel"])


def test_writes_the_state_of_a_chain_and_of_a_wrapper():
    tx = optax.chain(optimiz.clip_by_global_norm(1.0), optimiz.guard(optimiz.adamw(lambda count: 0.1), 3))
    state = tx.init(PARAMS)
    for _ in range(2):
        _, state = tx.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
    written = to_torch("AdamW", state, PARAMS, TENSORS, template(ADAM))["state"]
    assert written["weight"]["step"] == 2 and written["weight"]["exp_avg"].shape == (2, 3)
    assert to_torch("AdamW", tx.init(PARAMS), PARAMS, TENSORS, template(ADAM))["state"] == {}
