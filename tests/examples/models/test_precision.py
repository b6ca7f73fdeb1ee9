"""In mixed precision a model computes its products in bfloat16, and is as near to float32 as under autocast."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.models import attention, bert, blocks, families, gpt2, llama, resnet, t5, vit, weights
from examples.models.adapters import Keys, from_nnx
from examples.tasks.cross_entropy import cross_entropy
from optimiz import training
from optimiz.training.compiled_step import traced_step
from optimiz.training.step import StepSpec
from optimiz.training.train_state import initial_state
from tests.examples.golden import apply_of
from tests.examples.models import test_conventions as small
from tests.golden import autocast

MIXED = training.Precision(compute=jnp.bfloat16)
GOLDEN = json.loads(autocast.GOLDEN.read_text(encoding="utf-8"))
IDS, MASK = np.arange(12, dtype=np.int32).reshape(2, 6) % 9, np.ones((2, 6), np.int32)
IMAGES = np.linspace(-1, 1, 2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)

# Model → how it is made and what it is called with.
CASES = {
    "bert": (lambda rngs: bert.Classifier(small.ENCODER, classes=2, rngs=rngs), (IDS, MASK, 0 * MASK)),
    "masked bert": (
        lambda rngs: bert.MaskedLanguageModel(small.ENCODER, rngs=rngs),
        (IDS, MASK, 0 * MASK, IDS[:, :2] % 6),
    ),
    "gpt2": (lambda rngs: gpt2.GPT2(small.GPT2, rngs=rngs), (IDS,)),
    "llama": (lambda rngs: llama.Llama(small.LLAMA, rngs=rngs), (IDS,)),
    "t5": (lambda rngs: t5.T5(small.T5, rngs=rngs), (IDS, IDS)),
    "vit": (lambda rngs: vit.ViT(small.VIT, rngs=rngs), (IMAGES,)),
    "resnet": (lambda rngs: resnet.ResNet(resnet.cifar(8, classes=2), rngs=rngs), (IMAGES,)),
}


def task_of(name):
    """A task whose loss is a mean square of the outputs of a model in training."""
    make, inputs = CASES[name]
    params, apply = from_nnx(make(Keys(0)))
    batch = {str(i): x for i, x in enumerate(inputs)}

    def loss(params, batch, key):
        keys = {} if name == "resnet" else {"key": key}
        found = apply(params, *(batch[str(i)] for i in range(len(inputs))), **keys)
        found = found[0] if name == "resnet" else found
        return jnp.square(found.astype(jnp.float32)).reshape(2, -1).mean(-1)

    return training.Task(lambda key: params, loss, lambda step: batch)


def products(task):
    """The types of the operands of every product in the lowered step of a task with AdamW."""
    tx = optax.adamw(1e-3)
    state = jax.eval_shape(lambda: initial_state(task, tx, seed=0))
    text = traced_step(StepSpec.of(task, tx, state, task.batches(0))).lower().as_text()
    lines = re.findall(r"stablehlo\.(?:dot_general|convolution)\b.*: \((.*)\) ->", text)
    return [re.findall(r"x(f32|bf16|f64)>", line) for line in lines]


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", CASES)
def test_no_product_of_a_step_is_left_in_float32(name):
    mixed, whole = products(MIXED.task(task_of(name))), products(task_of(name))
    assert len(mixed) == len(whole) > 5
    assert {kind for line in whole for kind in line} == {"f32"}
    assert {kind for line in mixed for kind in line} == {"bf16"}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_parameters_gradients_and_the_loss_stay_in_float32(name):
    task = MIXED.task(task_of(name))
    params = task.init(jax.random.key(0))
    value, gradient = jax.eval_shape(
        lambda p: jax.value_and_grad(lambda p: task.loss(p, task.batches(0), None).mean())(p), params
    )
    assert value.dtype == jnp.float32
    assert {x.dtype.name for x in jax.tree.leaves((params, gradient))} == {"float32"}


def test_the_gradients_of_a_frequent_token_are_summed_in_float32():
    table = blocks.Table(3, 2, rngs=Keys(0))
    params, apply = from_nnx(table)
    often = np.ones(1000, np.int32)  # a sum in bfloat16 would stand still at 256
    gradient = jax.grad(lambda p: apply(MIXED.cast(p), often).astype(jnp.float32).sum())(params)
    np.testing.assert_array_equal(gradient["embedding"], [[0, 0], [1000, 1000], [0, 0]])


def test_the_cross_entropy_of_narrow_logits_and_its_derivatives_are_those_of_float64():
    draw = np.random.default_rng(0)
    logits, targets = jnp.asarray(draw.normal(0, 3, (4, 7)), jnp.bfloat16), draw.integers(0, 7, 4)
    wide = np.float64(logits)
    softmax = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    losses = -np.log(softmax[np.arange(4), targets])
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray(targets)), losses, rtol=2e-6)
    mean = lambda logits: cross_entropy(logits, jnp.asarray(targets)).mean()  # noqa: E731
    value, gradient = jax.value_and_grad(mean)(logits)
    assert float(value) == pytest.approx(losses.mean(), rel=2e-6)
    np.testing.assert_allclose(np.float64(gradient), (softmax - np.eye(7)[targets]) / 4, rtol=2**-8, atol=1e-9)
    along = jnp.ones_like(logits).at[:, 0].set(2)
    _, hessian = jax.jvp(jax.grad(mean), (logits,), (along,))
    direction = np.float64(along)
    expected = softmax * (direction - (softmax * direction).sum(-1, keepdims=True)) / 4
    np.testing.assert_allclose(np.float64(hessian), expected, rtol=2**-6, atol=1e-4)


def test_the_narrow_softmax_has_the_derivative_of_its_rounded_weights():
    draw = np.random.default_rng(0)
    scores, along = (jnp.asarray(draw.normal(0, 2, (3, 5)), jnp.bfloat16) for _ in range(2))
    weights, tangent = jax.jvp(attention.softmax, (scores,), (along,))
    exact = np.exp(np.float64(scores)) / np.exp(np.float64(scores)).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.float64(weights), exact, rtol=2**-8)
    w, t = np.float64(weights), np.float64(along)
    np.testing.assert_allclose(
        np.float64(tangent), w * (t - (w * t).sum(-1, keepdims=True)), rtol=2**-7, atol=1e-4
    )
    (transposed,) = jax.vjp(attention.softmax, scores)[1](along)
    np.testing.assert_array_equal(transposed, tangent)  # the derivative is symmetric


GOLDEN_MODELS = {
    "gpt2_tiny": (families.GPT2, autocast.gpt2_batch, lambda batch: (batch["ids"],)),
    "vit_tiny": (families.VIT, autocast.vit_batch, lambda batch: (batch["images"],)),
    "bert_tiny_masked": (
        families.MASKED_BERT,
        autocast.bert_batch,
        lambda batch: (batch["ids"], np.ones((4, 8)), np.zeros((4, 8), int), np.tile(np.arange(8), (4, 1))),
    ),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_loss_and_gradient_are_as_near_float32_as_under_autocast(name):
    family, batch_of, arguments = GOLDEN_MODELS[name]
    config, params = weights.load(autocast.HERE / name, family)
    apply, batch, golden = apply_of(family, config), batch_of(), GOLDEN[name]

    def loss(params, batch, key):
        logits = apply(params, *arguments(batch)).astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return losses.reshape(len(logits), -1).mean(-1)

    def measured(task):
        value, gradient = jax.jit(jax.value_and_grad(lambda p: task.loss(p, batch, None).mean()))(params)
        return float(value), np.concatenate([np.float64(x).ravel() for x in jax.tree.leaves(gradient)])

    task = training.Task(lambda key: params, loss, lambda step: batch)
    (exact, gradient), (mixed, rough) = measured(task), measured(MIXED.task(task))
    assert exact == pytest.approx(golden["float32"], rel=1e-5)
    assert np.linalg.norm(gradient) == pytest.approx(golden["norm"], rel=1e-4)
    assert mixed == pytest.approx(golden["float32"], rel=2**-8)  # half the distance between two numbers
    distance = np.linalg.norm(rough - gradient) / np.linalg.norm(gradient)
    assert 0.2 * golden["distance"] < distance < 1.5 * golden["distance"]
