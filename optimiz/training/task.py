"""A learning problem: parameters, a loss per example, a batch for every step, and an evaluation.

The loss is returned per example, not averaged: only then is the mean over a padded batch exact. A batch may
weight its examples by an entry ``"weight"`` of shape [B]; an example of weight 0 is padding.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WEIGHT = "weight"
"""The name of the batch entry that weights the examples."""

Batch = Mapping[str, np.ndarray]

_SIGNATURES = {
    "init": "key → parameters",
    "loss": "(parameters, batch, key) → losses [B]",
    "batches": "step → batch",
    "evaluate": "parameters → metrics by name",
    "logits": "(parameters, batch, key) → logits",
    "depth": "parameters → number of layers",
    "model_state": "key → arrays that are not trained",
    "frozen": "key → arrays that nothing changes",
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A learning problem, independent of the optimizer.

    Args:
        init: key → parameters, a pytree of floating-point arrays. It is also traced for their shapes
            (``jax.eval_shape``), so that a resumed run allocates its parameters only once.
        loss: (parameters, batch, key) → losses of shape [B]; it is traced. The key is for dropout and the like;
            None means evaluation mode.
        batches: step → batch, a dict of arrays with leading dimension B, of the same shapes at every step. It
            is a pure function of the 0-based step, so a run's position in the data *is* its step; ``Streamed``
            makes one of a dataset that is read in order. ``Bucketed`` alone has a few shapes, and a compiled
            step for each. In a run of several processes it returns this
            process's part of the batch, see ``Layout.share``.
        evaluate: parameters → validation metrics by name; None for no evaluation. It must not keep a reference
            to the parameters, whose memory the next step reuses. On a mesh they are laid out as ``Layout``
            specifies. Each of several processes evaluates on its own, unless the parameters are split between
            them.
        logits: (parameters, batch, key) → logits of shape [B, ..., C]; it is traced. It may return a pair of
            logits and the weights [B, ...] of their positions in the mean loss, if a position's weight is not
            that of its example. It is for optimizers that sample labels from the model, such as ``sophia_g``;
            None if the optimizer is not one of them.
        depth: parameters, or their shapes → number of layers, if reference time is charged by it; None if work
            is charged by its batch alone.
        model_state: key → arrays that the model itself updates and no optimizer trains, such as the running
            statistics of BatchNorm; the key is the same as for ``init``. None for a model without such state.
        frozen: key → arrays of any dtype that the loss reads and nothing changes, such as the pretrained
            parameters below adapters; the key is the same as for ``init``. They have no gradients and no
            optimizer state. They are not saved, but made again when a run is resumed: what decides them belongs
            to the run's ``identity``. None if all that the loss reads is trained.

    If layers are dropped, ``loss`` and ``logits`` take a fourth argument, which layers are on: bool [L],
    traced. Without that argument all layers are on.

    If the task has frozen arrays, ``loss``, ``logits`` and ``evaluate`` receive them as the keyword argument
    ``frozen``.

    If the task has a model state, ``loss``, ``logits`` and ``evaluate`` receive it as the keyword argument
    ``model_state``, and ``loss`` returns a pair: the losses, and the state after the batch, with the same tree,
    shapes and dtypes. In Linen that is ``variables["batch_stats"]``, passed in and returned by
    ``apply(…, mutable=["batch_stats"])``; in NNX it is a part of ``nnx.split(model, nnx.Param,
    nnx.BatchStat)``, split off again after the call. The run keeps, saves and resumes the state, and a step
    that is not finite leaves it unchanged. Only the forward pass of an update changes it: other evaluations of
    the loss, such as the trials of a line search or the passes over candidates, start from the same state and
    discard theirs. On a mesh, the statistics are those of the whole batch. Examples of weight 0 enter them
    unless the model masks them.

    Raises:
        TypeError: a part is not a function; the message gives the expected signature.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[..., jax.Array]
    batches: Callable[[int], Batch]
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None
    logits: Callable[..., Any] | None = None
    depth: Callable[[Any], int] | None = None
    model_state: Callable[[jax.Array], Any] | None = None
    frozen: Callable[[jax.Array], Any] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, optional = getattr(self, field.name), field.default is None
            if callable(value) or (value is None and optional):
                continue
            message = f"Task({field.name}=) must be a function, {_SIGNATURES[field.name]}"
            message += f"{', or None' if optional else ''}; got {type(value).__name__}"
            if field.name == "batches" and isinstance(value, Iterable):
                message += (
                    ". A run is resumed by its step, so batches are a function of the step: from arrays, "
                    "use training.shuffled; from a list, `lambda step: batches[step % len(batches)]`; from a "
                    "dataset that is read in order, such as one of Grain, training.Streamed(dataset)"
                )
            raise TypeError(message)


def untrained_arguments(model_state: Any, frozen: Any) -> dict[str, Any]:
    """The keyword arguments of a task's functions: what is not trained, without what the task does not have.

    Args:
        model_state: the model state; None without one.
        frozen: the frozen arrays; None without any.
    """
    given = {"model_state": model_state, "frozen": frozen}
    # Flattened and rebuilt, so that NNX's variables belong to the trace in which they will be set.
    return {name: jax.tree.map(lambda x: x, tree) for name, tree in given.items() if tree is not None}


def losses_and_state(returned: Any, model_state: Any) -> tuple[Any, Any]:
    """Split what a task's ``loss`` returned into losses and model state.

    Args:
        returned: the losses; with a model state, a pair of the losses and the state after the batch.
        model_state: the model state that the loss was given; None for a model without one.

    Raises:
        ValueError: ``returned`` is not such a pair, or the state has another tree, shape or dtype than before.
    """
    if model_state is None:
        return returned, None
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(
            "the loss of a task with a model_state must return a pair, the losses and the model_state after "
            f"the batch, got {type(returned).__name__}"
        )
    losses, after = returned
    if jax.tree.structure(after) != jax.tree.structure(model_state):
        raise ValueError(
            f"the loss must return a model_state of the same tree, {jax.tree.structure(model_state)}, got "
            f"{jax.tree.structure(after)}"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(model_state), jax.tree.leaves(after), strict=True)
    for (path, old), new in pairs:
        if (old.shape, old.dtype) != (jnp.shape(new), jnp.result_type(new)):
            raise ValueError(
                f"the loss changes model_state{jax.tree_util.keystr(path)} from "
                f"{old.dtype}{list(old.shape)} to {jnp.result_type(new)}{list(jnp.shape(new))}"
            )
    return losses, after


def batch_size(batch: Mapping[str, Any]) -> int:
    """The number of examples in a batch, B."""
    return next(iter(batch.values())).shape[0]


def mean_loss(losses: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
    """Average per-example losses, weighted by ``batch["weight"]`` where there is one.

    Args:
        losses: losses of shape [B], floating point. Their mean is computed in at least float32.
        batch: the batch that the losses belong to; its weights [B] are not negative.

    Returns:
        ``Σ w l / Σ w``, or 0 if every weight is 0.

    Raises:
        ValueError: the losses are not a floating-point array of shape [B].

    Example:
        >>> losses = jnp.array([1.0, 2.0, 7.0])
        >>> batch = {"x": jnp.zeros(3), "weight": jnp.array([1.0, 1.0, 0.0])}
        >>> float(mean_loss(losses, batch))
        1.5
    """
    losses = per_example(losses, batch)
    if WEIGHT not in batch:
        return jnp.mean(losses)
    weight = batch[WEIGHT].astype(losses.dtype)
    total = jnp.sum(weight)
    return jnp.sum(weight * losses) / jnp.where(total > 0, total, 1)


def per_example(losses: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
    """Check that there is a loss for each example.

    Args:
        losses: what a task's ``loss`` returned.
        batch: the batch that it was given.

    Returns:
        The losses [B] in at least float32.

    Raises:
        ValueError: the losses are not a floating-point array of shape [B].
    """
    examples = batch_size(batch)
    shape, dtype = getattr(losses, "shape", None), getattr(losses, "dtype", type(losses).__name__)
    if shape != (examples,) or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"the loss must be floating point and of shape ({examples},), one loss per example; "
            f"it is {dtype} of shape {shape}"
            + ("; to return a model state with it, give Task(model_state=)" if dtype == "tuple" else "")
        )
    return losses.astype(jnp.promote_types(losses.dtype, jnp.float32))


def weighted_logits(logits: Any, batch: Mapping[str, Any]) -> Any:
    """Pair logits with the weights of their batch, unless they come with weights of their own.

    Args:
        logits: logits [B, ..., C], or a pair of logits and the weights [B, ...] of their positions.
        batch: the batch that the logits belong to.

    Returns:
        The logits unchanged, or a pair of logits and weights [B, ...]: each position has its example's weight.

    Example:
        >>> batch = {"x": jnp.zeros(2), "weight": jnp.array([1.0, 0.0])}
        >>> _, weights = weighted_logits(jnp.zeros((2, 3, 5)), batch)
        >>> weights.tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    if isinstance(logits, tuple) or WEIGHT not in batch:
        return logits
    weight = batch[WEIGHT].reshape(-1, *[1] * (logits.ndim - 2))
    return logits, jnp.broadcast_to(weight, logits.shape[:-1])


def batch_shapes(batch: Any, name: str) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Check that a batch is well formed, and return the shape and dtype of each entry.

    Args:
        batch: what a task's ``batches`` returned.
        name: the batch's name in messages.

    Returns:
        Name → (shape, dtype).

    Raises:
        ValueError: the batch is not a non-empty dict of arrays with the same leading dimension, at least 1, or
            its weights do not have shape [B].
    """
    if not isinstance(batch, dict) or not batch:
        raise ValueError(f"{name} must be a non-empty dict of arrays, got {type(batch).__name__}")
    shapes = {}
    for key, array in batch.items():
        if not isinstance(array, (np.ndarray, jax.Array)) or array.ndim == 0:
            raise ValueError(f"{name}[{key!r}] must be an array with a leading dimension")
        shapes[key] = (array.shape, array.dtype)
    if len({shape[0] for shape, _ in shapes.values()}) > 1:
        lengths = {key: shape[0] for key, (shape, _) in shapes.items()}
        raise ValueError(f"{name} has entries with different leading dimensions: {lengths}")
    if not next(iter(shapes.values()))[0][0]:
        raise ValueError(f"{name} has no rows: the leading dimension must be at least 1, got {shapes}")
    if WEIGHT in shapes and len(shapes[WEIGHT][0]) != 1:
        raise ValueError(f"{name}['weight'] must have shape [B], got {shapes[WEIGHT][0]}")
    return shapes
