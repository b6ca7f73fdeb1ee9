"""Train on handwritten digits with ``jax.pmap``: every device at hand, each with its part of a batch.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m examples.pmap_digits --optimizer=salsa

Every optimizer works so; a line search needs its loss from ``optimiz.mean_over``, which reduces value and
gradient. Prefer a mesh (``training.fit`` with a ``training.Layout``) for anything larger: there the loss is
written for the whole batch and needs no reduction, optimizer state and parameters can be split and not only
copied, and the same program runs on several hosts.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import optimiz
from examples.shared import command, optimizers, program_flags

FLAGS = program_flags.Flags()
_OPTIMIZER = FLAGS.DEFINE_string("optimizer", "adamw", optimizers.listed(logits=False))
_LEARNING_RATE = FLAGS.DEFINE_float(
    "learning_rate", None, "Default: ten times the optimizer's own, as the network is small and new."
)
_STEPS = FLAGS.DEFINE_integer("steps", 60, "Updates.", lower_bound=1)
program_flags.check_each(optimizers.choose, _OPTIMIZER)
program_flags.check(lambda x: x > 0, "must be above 0, or nothing would be trained", _LEARNING_RATE)

_CLASSES, _HIDDEN, _EXAMPLES_PER_DEVICE = 10, 64, 32


def accuracy_and_loss(params, images_BD, labels_B):
    """Share of images that a network of one hidden layer tells right, and its mean cross-entropy."""
    logits_BC = jnp.tanh(images_BD @ params["hidden"]) @ params["out"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_BC, labels_B)
    return (logits_BC.argmax(-1) == labels_B).mean(), losses.mean()


def step(params, state, images_BD, labels_B, tx):
    """One update, on one device of several: everything but its part of the batch is the same on all."""
    value_fn = optimiz.mean_over("data", lambda params: accuracy_and_loss(params, images_BD, labels_B)[1])
    value, grad = jax.value_and_grad(value_fn)(params)
    updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
    return optax.apply_updates(params, updates), state, value


def main():
    """Train, and print the loss as it falls and the accuracy at the end."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    choice = optimizers.choose(_OPTIMIZER.value)
    rate = choice.peak(_LEARNING_RATE.value)
    if rate is None:  # a line search takes the whole of the step size that it finds
        rate = 1.0
    elif _LEARNING_RATE.value is None:
        rate *= 10
    tx = choice.make(lambda count: rate, 0.0, None, optimizers.one_rate)
    shapes = {"hidden": (images.shape[1], _HIDDEN), "out": (_HIDDEN, _CLASSES)}
    rng, devices = np.random.default_rng(0), jax.local_device_count()
    params = {name: rng.normal(size=size).astype(np.float32) / 8 for name, size in shapes.items()}

    def replicated(tree):
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (devices, *np.shape(leaf))), tree)

    compiled = jax.pmap(functools.partial(step, tx=tx), axis_name="data", donate_argnums=(0, 1))
    params, state = replicated(params), replicated(tx.init(params))
    for index in range(_STEPS.value):
        rows = rng.integers(len(images), size=(devices, _EXAMPLES_PER_DEVICE))
        params, state, loss = compiled(params, state, images[rows], labels[rows])
        if index % 20 == 0:
            print(f"step {index}  loss {loss[0]:.3f}")
    accuracy, _ = accuracy_and_loss(jax.tree.map(lambda leaf: leaf[0], params), images, labels)
    print(f"{_OPTIMIZER.value} on {devices} devices: {accuracy:.3f} of the images it has seen are told right")


if __name__ == "__main__":
    command.run(main, FLAGS)
