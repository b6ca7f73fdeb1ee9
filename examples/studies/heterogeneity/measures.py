"""The tasks of the heterogeneity study, its optimizers, and the curvature at the start of a run.

Models are trained on four fifths of scikit-learn's digits. The gradient is measured before it is clipped, over
weights and scales, as in the source, arXiv 2502.00213.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import optimiz
from examples.models import small
from examples.models.adapters import from_nnx
from optimiz import compare, diagnostics, groups, schedules, training

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


class HeterogeneityState(NamedTuple):
    """State of :func:`log_heterogeneity`; ``training.fit`` writes its scalars to the metrics of each update."""

    gini_norm: jax.Array
    gini_rms: jax.Array
    max_over_min: jax.Array
    max_over_median: jax.Array
    entropy: jax.Array
    log_spread: jax.Array
    zero_blocks: jax.Array


def log_heterogeneity() -> optax.GradientTransformation:
    """Measure the heterogeneity of every gradient, and pass it on unchanged."""

    def measure(grads: optax.Updates) -> HeterogeneityState:
        found = diagnostics.heterogeneity(grads)
        return HeterogeneityState(*(getattr(found, name) for name in HeterogeneityState._fields))

    def init_fn(params: optax.Params) -> HeterogeneityState:
        return jax.tree.map(jnp.zeros_like, measure(params))

    return optax.GradientTransformation(
        init_fn, lambda updates, state, params=None: (updates, measure(updates))
    )


class Study:
    """The tasks of all models, and their optimizers.

    Args:
        epochs: number of epochs of a run.
        batch_size: examples per update.
        iterations: maximum number of iterations of the power method.

    Attributes:
        train: arrays of the training examples, by name.
        test: arrays of the test examples, by name.
        steps: number of updates of a run.
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

    def task(self, model: str, seed: int) -> training.Task:
        """A model's task; its evaluation gives the loss on the training set and the test accuracy."""
        losses, metrics = self._functions(model)

        def evaluate(params: Any) -> dict[str, float]:
            (train_loss, _), (_, accuracy) = (metrics(params, part) for part in (self.train, self.test))
            return {"train_loss": float(train_loss), "accuracy": float(accuracy)}

        return training.Task(
            init=lambda _: from_nnx(MODELS[model](nnx.Rngs(seed)))[0],
            loss=losses,
            batches=training.shuffled(self.train, self._batch_size, seed),
            evaluate=evaluate,
        )

    def arm(self, model: str, optimizer: str, learning_rate: float) -> compare.Arm:
        """An optimizer for a model, after measurement and clipping; its rate decays linearly to zero."""
        return compare.Arm(optimizer, learning_rate, self._maker(optimizer), extra={"model": model})

    @functools.cache  # noqa: B019
    def _maker(self, optimizer: str) -> Callable[[float], optax.GradientTransformation]:
        def make(rate: float) -> optax.GradientTransformation:
            return optax.chain(
                optax.masked(log_heterogeneity(), MEASURED),
                optax.clip_by_global_norm(CLIP),
                OPTIMIZERS[optimizer](schedules.over_steps(schedules.linear(rate), self.steps)),
            )

        return make

    def by_epoch(self, arm: compare.Arm, seed: int, result: training.Result) -> dict[str, Any]:
        """The mean training loss of each epoch, and the heterogeneity at its start."""
        rows = [row for row in result.history if "loss" in row]
        losses = np.full(self.steps, np.nan)
        losses[: len(rows)] = [row["loss"] for row in rows]
        probes = rows[:: self._epoch]
        return {
            "loss": _finite(losses.reshape(-1, self._epoch).mean(1)),
            "heterogeneity": [
                dict(zip(names := HeterogeneityState._fields, _finite([row[n] for n in names]), strict=True))
                for row in probes
            ],
        }

    def curvature(self, model: str, seed: int) -> dict[str, Any]:
        """Gradient and curvature of each block at the start of a run, on its first batch."""
        task = self.task(model, seed)
        params = task.init(jax.random.key(0))
        measured = jax.tree.map(lambda p, kept: p if kept else None, params, MEASURED(params))
        found = self._curvature(model)(measured, params, task.batches(0))
        arrays = {name: np.asarray(x).tolist() for name, x in found._asdict().items()}
        return {"model": model, "seed": seed, "blocks": diagnostics.block_names(measured)} | arrays

    @functools.cache  # noqa: B019
    def _functions(self, model: str) -> tuple[Callable[..., jax.Array], Callable[..., Any]]:
        """Two functions: the losses of a batch by example, and its mean loss and accuracy."""
        _, apply = from_nnx(MODELS[model](nnx.Rngs(0)))

        def losses(params: Any, batch: Mapping[str, Any], key: jax.Array | None = None) -> jax.Array:
            logits = apply(params, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

        @jax.jit
        def metrics(params: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
            right = apply(params, batch["image"]).argmax(-1) == batch["label"]
            return losses(params, batch).mean(), right.mean()

        return losses, metrics

    @functools.cache  # noqa: B019
    def _curvature(self, model: str) -> Callable[..., diagnostics.Curvature]:
        """(measured parameters, all parameters, batch) → gradient and curvature of each block."""
        losses, _ = self._functions(model)

        @jax.jit
        def measure(measured: Any, params: Any, batch: Any) -> diagnostics.Curvature:
            def loss(measured: Any) -> jax.Array:
                fill = lambda m, p: p if m is None else m  # noqa: E731
                whole = jax.tree.map(fill, measured, params, is_leaf=lambda m: m is None)
                return losses(whole, batch).mean()

            return diagnostics.block_curvature(loss, measured, iterations=self._iterations, tolerance=0.01)

        return measure


def _finite(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """The numbers, with None for those that are not finite, which JSON cannot express."""
    return [float(x) if np.isfinite(x) else None for x in values]
