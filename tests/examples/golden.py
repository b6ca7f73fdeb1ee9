"""Models with the logits that PyTorch computes for them, for tests of parity and of round trips."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from examples.models import weights
from examples.models.adapters import from_nnx, split_nnx

GOLDEN = Path(__file__).parents[1] / "golden"


def apply_of(family, config):
    """The jitted apply of a model of a family; its parameters are never made."""
    return jax.jit(from_nnx(nnx.eval_shape(lambda: family.model(config, rngs=nnx.Rngs(0))))[1])


def drawn(make):
    """Random parameters of a model (fresh ones cost more, and barely bend anything) and its jitted apply."""
    shapes, apply = from_nnx(nnx.eval_shape(make))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda p: np.float32(random.normal(0, 0.5, p.shape)), shapes), jax.jit(apply)


def loaded(name, family):
    """The parameters and the jitted apply of a golden model, and its arrays: arguments and logits."""
    config, params = weights.load(GOLDEN / name, family)
    return params, apply_of(family, config), dict(np.load(GOLDEN / name / "logits.npz"))


def steps(name, family, ids, mask, answers):
    """The logits of each token of answers, from what the model remembers of those before, [B, N, V]."""
    config, params = weights.load(GOLDEN / name, family)
    _, bound = split_nnx(nnx.eval_shape(lambda: family.model(config, rngs=nnx.Rngs(0))))
    extend = jax.jit(lambda params, *arguments: bound(params).extend(*arguments))
    present = np.pad(mask != 0, ((0, 0), (0, answers.shape[1])), constant_values=True)
    logits, memory = extend(params, ids, present, bound(params).memory(*present.shape), 0)
    found = [logits]
    for step in range(answers.shape[1] - 1):
        logits, memory = extend(params, answers[:, step, None], present, memory, ids.shape[1] + step)
        found.append(logits)
    return np.stack(found, axis=1)


def check_round_trip(name, family, directory):
    """What is written is what was read: the tensors under the same names, and the same configuration."""
    config, params = weights.load(GOLDEN / name, family)
    weights.save(directory / "saved", family, config, params)
    saved, original = (load_file(d / "model.safetensors") for d in (directory / "saved", GOLDEN / name))
    assert saved.keys() == original.keys()
    for tensor in saved:
        np.testing.assert_array_equal(saved[tensor], original[tensor], err_msg=tensor)
    again, params_again = weights.load(directory / "saved", family)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, params_again, params)
    assert sorted(path.name for path in (directory / "saved").iterdir()) == ["config.json", "model.safetensors"]
