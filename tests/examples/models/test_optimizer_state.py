"""The state of an optimizer that trained a model in PyTorch is read as the model's weights are."""

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.models import families, llama_files, weights
from examples.models.layout import tensors_of_pytorch
from optimiz import torch_state
from tests.examples import golden

FAMILIES = {
    "gpt2_tiny": families.GPT2,
    "llama3_tiny": llama_files.LLAMA,
    "t5_tiny": families.T5,
    "gpt2_tiny_untied": families.GPT2,
    "bert_tiny_masked": families.MASKED_BERT,
}


def adamw_of(arrays):
    """The state_dict of an AdamW whose first moments are the weights, and the second their negatives."""
    entries = {name: {"step": np.float32(7), "exp_avg": x, "exp_avg_sq": -x} for name, x in arrays.items()}
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False}
    return {"state": entries, "param_groups": [group | {"params": list(arrays)}]}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", FAMILIES)
def test_moments_go_where_the_weights_go_and_back(name):
    family = FAMILIES[name]
    config, params = weights.load(golden.GOLDEN / name, family)
    arrays = load_file(golden.GOLDEN / name / "model.safetensors")
    arrays = {f"module.{key}": x.astype(np.float32) for key, x in arrays.items()}  # as a wrapper names them
    tensors = tensors_of_pytorch(family, config, arrays)
    arrays = {key: x for key, x in arrays.items() if key in tensors}  # without a tied head
    found = torch_state.from_torch("AdamW", adamw_of(arrays), params, tensors)
    moments = found.state[0]
    assert found.frozen == () and moments.count == 7
    chex.assert_trees_all_equal(moments.mu, params)
    chex.assert_trees_all_equal(moments.nu, jax.tree.map(np.negative, params))
    written = torch_state.to_torch("AdamW", found.state, params, tensors, adamw_of(arrays))
    for key, entry in written["state"].items():
        np.testing.assert_array_equal(entry["exp_avg"], arrays[key])
        np.testing.assert_array_equal(entry["exp_avg_sq"], -arrays[key])


def test_a_head_that_is_not_here_is_refused_by_name():
    config, params = weights.load(golden.GOLDEN / "gpt2_tiny", families.GPT2)
    arrays = load_file(golden.GOLDEN / "gpt2_tiny/model.safetensors")
    arrays = {key: x for key, x in arrays.items() if key != "lm_head.weight"}
    arrays["score.weight"] = np.ones((2, 3), np.float32)
    tensors = tensors_of_pytorch(families.GPT2, config, arrays)
    with pytest.raises(ValueError, match=r"tensors must have 'score.weight', which the optimizer trains"):
        torch_state.from_torch("AdamW", adamw_of(arrays), params, tensors)
