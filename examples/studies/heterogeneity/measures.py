"""What the heterogeneity study measures: one training run, and the curvatures that one begins with.

Models learn scikit-learn's digits, four fifths of them. What is measured is the gradient before it is clipped,
and of the parameters the weights and scales, as in the source, arXiv 2502.00213.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import optimiz
from examples.models import small
from examples.models.adapters import from_nnx
from optimiz import diagnostics, groups, schedules, training

MODELS: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    "post_ln": lambda rngs: small.PatchTransformer(10, norm_first=False, rngs=rngs),
    "pre_ln": lambda rngs: small.PatchTransformer(10, norm_first=True, rngs=rngs),
    "conv_net": lambda rngs: small.ConvNet(10, rngs=rngs),
}
OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "sgd": optimiz.sgd,
    "momentum": lambda schedule: optimiz.sgd(schedule, 0.9),
    "sign_sgd": optimiz.sign_sgd,
    "signum": optimiz.signum,
    "adam": optimiz.adam,
}
CLIP = 1.0
MEASURED = ~groups.biases


class Study:
    """The task, and the compiled step of each model and optimizer, which all rates and seeds share.

    Args:
        epochs: times that each example is seen.
        batch_size: examples per update.
        iterations: of power iteration, at the most.

    Attributes:
        train: the examples to learn from, by name of the array.
        test: the others.
        steps: updates of a run.
    """

    def __init__(self, epochs: int, batch_size: int, iterations: int):
        digits = load_digits()
        images = (digits.images[..., None] / 16).astype(np.float32)
        order = np.random.default_rng(0).permutation(len(images))
        parts = np.split(order, [len(order) * 4 // 5])
        self.train, self.test = ({"image": images[i], "label": digits.target[i]} for i in parts)
        self._epoch = len(parts[0]) // batch_size
        self._batch_size, self._iterations = batch_size, iterations
        self.steps = epochs * self._epoch

    def run(self, model: str, optimizer: str, learning_rate: float, seed: int) -> dict[str, Any]:
        """One run: the loss by epoch, heterogeneity where each begins, and the final figures."""
        tx, step = self._step(model, optimizer)
        params, batches = self._beginning(model, seed)
        names = diagnostics.block_names(_measured(params))
        state, losses, probes = tx.init(params), [], []
        for i in range(self.steps):
            params, state, loss = step(params, state, batches(i), jnp.float32(learning_rate))
            losses.append(loss)
            if i % self._epoch == 0:
                probes.append(diagnostics.readings(state, names)["heterogeneity"])
        (train_loss, _), (_, accuracy) = (self._loss(model)(params, part) for part in (self.train, self.test))
        return {
            "loss": [_finite(x) for x in np.reshape(losses, (-1, self._epoch)).mean(1)],
            "training_loss": _finite(train_loss),
            "test_accuracy": float(accuracy),
            "heterogeneity": [{name: _finite(x) for name, x in probe.items()} for probe in probes],
        }

    def curvature(self, model: str, seed: int) -> dict[str, Any]:
        """Gradient and curvature of each block at the start, on the first batch of a run."""
        params, batches = self._beginning(model, seed)
        found = self._curvature(model)(_measured(params), params, batches(0))
        arrays = {name: np.asarray(x).tolist() for name, x in found._asdict().items()}
        return {"blocks": diagnostics.block_names(_measured(params))} | arrays

    def _beginning(self, model: str, seed: int) -> tuple[Any, Callable[[int], Mapping[str, np.ndarray]]]:
        """Parameters, and the batches: the same for every optimizer."""
        params, _ = from_nnx(MODELS[model](nnx.Rngs(seed)))
        return params, training.shuffled(self.train, self._batch_size, seed)

    @functools.cache  # noqa: B019
    def _loss(self, model: str) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """(parameters, batch) → the mean loss, and the share of right answers."""
        _, apply = from_nnx(MODELS[model](nnx.Rngs(0)))

        @jax.jit
        def loss(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
            logits = apply(params, batch["image"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), jnp.mean(logits.argmax(-1) == batch["label"])

        return loss

    @functools.cache  # noqa: B019
    def _step(self, model: str, optimizer: str) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
        """The optimizer at rate 1, behind the probe, and a step: parameters, state, batch, rate → the next."""
        tx = optax.chain(
            optax.masked(diagnostics.probe(every=self._epoch), MEASURED),
            optax.clip_by_global_norm(CLIP),
            OPTIMIZERS[optimizer](schedules.over_steps(schedules.linear(1.0), self.steps)),
        )

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any, batch: Any, rate: jax.Array) -> tuple[Any, Any, jax.Array]:
            (value, _), grads = jax.value_and_grad(self._loss(model), has_aux=True)(params, batch)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates)), state, value

        return tx, step

    @functools.cache  # noqa: B019
    def _curvature(self, model: str) -> Callable[..., diagnostics.Curvature]:
        """(what is measured, all parameters, batch) → gradient and curvature of each block."""

        @jax.jit
        def measure(measured: Any, params: Any, batch: Any) -> diagnostics.Curvature:
            def loss(measured: Any) -> jax.Array:
                fill = lambda m, p: p if m is None else m  # noqa: E731
                whole = jax.tree.map(fill, measured, params, is_leaf=lambda m: m is None)
                return self._loss(model)(whole, batch)[0]

            return diagnostics.block_curvature(loss, measured, iterations=self._iterations, tolerance=0.01)

        return measure


def _measured(params: Any) -> Any:
    """The tree of what is measured, with None in place of the rest."""
    return jax.tree.map(lambda p, kept: p if kept else None, params, MEASURED(params))


def _finite(x: Any) -> float | None:
    """The number; None where it is not finite, which JSON has no word for."""
    return float(x) if math.isfinite(x) else None
