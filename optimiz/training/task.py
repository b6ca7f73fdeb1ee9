"""What is learnt: parameters, a loss per example, a batch for every step, and an evaluation.

The loss comes back per example, not averaged, because only then can a padded batch have an exact
mean. A batch may weigh its examples with an entry ``"weight"`` of shape [B]; an example of weight 0
is padding.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WEIGHT = "weight"
"""The name of the batch entry that weighs the examples."""

Batch = Mapping[str, np.ndarray]

_SIGNATURES = {
    "init": "key → parameters",
    "loss": "(parameters, batch, key) → losses [B]",
    "batches": "step → batch",
    "evaluate": "parameters → figures by name",
    "logits": "(parameters, batch, key) → logits",
    "depth": "parameters → number of layers",
    "model_state": "key → arrays that are not trained",
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A learning problem, free of any optimizer.

    Args:
        init: key → parameters, a pytree of floating-point arrays. It is also traced for shapes
            alone (``jax.eval_shape``), so that a resumed run allocates its parameters once.
        loss: (parameters, batch, key) → losses of shape [B], traced. The key drives dropout and the
            like; None asks for evaluation mode.
        batches: step → batch, a dict of arrays with leading dimension B, the same shapes at every
            step. It is a pure function of the 0-based step, so the position in the data *is* the
            step. In a run of several processes, this process's share of the batch, as ``Layout.share`` says.
        evaluate: parameters → validation figures by name, or None for no evaluation. The parameters
            are reused by the next step: it must not keep them. On a mesh they lie as its ``Layout`` says;
            of several processes each evaluates on its own, unless the parameters are split between them.
        logits: (parameters, batch, key) → logits of shape [B, ..., C], traced; or a pair of logits and
            the weights [B, ...] of their positions in the mean loss, where these are not its example's
            weight throughout. For optimizers that draw labels from the model, such as ``sophia_g``; None
            where there is no such optimizer.
        depth: parameters, or their shapes → number of layers, where reference time is charged by it; None for
            work that is charged by its batch alone.
        model_state: key → arrays that the model updates itself and no optimizer trains, such as the running
            statistics of BatchNorm; the key is that of ``init``. None for a model without.

    Where layers are dropped, ``loss`` and ``logits`` take a fourth argument, which layers are on: bool [L],
    traced; without it all of them are.

    Where there is a model state, ``loss``, ``logits`` and ``evaluate`` are given it by keyword, as
    ``model_state=``, and ``loss`` returns a pair: the losses, and the state after the batch, of the same tree,
    shapes and dtypes. For Linen that is ``variables["batch_stats"]``, in and out of
    ``apply(…, mutable=["batch_stats"])``; for NNX a part of ``nnx.split(model, nnx.Param, nnx.BatchStat)``,
    read off again after the call. The run keeps, saves and resumes it, and a step that is not finite leaves it
    as it was. It is made by the forward pass before an update; other evaluations of the loss, such as the
    trials of a line search or the passes over candidates, begin with the same state and leave none. On a mesh a
    batch is one, and its statistics are those of all of it; examples of weight 0 count in them unless the model
    masks them.

    Raises:
        TypeError: a part is not a function, with what is asked for.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[..., jax.Array]
    batches: Callable[[int], Batch]
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None
    logits: Callable[..., Any] | None = None
    depth: Callable[[Any], int] | None = None
    model_state: Callable[[jax.Array], Any] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, optional = getattr(self, field.name), field.default is None
            if callable(value) or (value is None and optional):
                continue
            message = f"Task({field.name}=) must be a function, {_SIGNATURES[field.name]}"
            message += f"{', or None' if optional else ''}; got {type(value).__name__}"
            if field.name == "batches" and isinstance(value, Iterable):
                message += (
                    ". A run is resumed by the number of its step, so batches are asked for by it: of arrays "
                    "training.shuffled makes such a function, of a list of batches "
                    "`lambda step: batches[step % len(batches)]`"
                )
            raise TypeError(message)


def beside(model_state: Any) -> dict[str, Any]:
    """The keyword argument by which a task's functions get the state of the model, if there is one."""
    # Taken apart and put together, so that NNX's variables are of the trace in which they will be set.
    return {} if model_state is None else {"model_state": jax.tree.map(lambda x: x, model_state)}


def losses_and_state(returned: Any, model_state: Any) -> tuple[Any, Any]:
    """Take apart what a task's ``loss`` returned.

    Args:
        returned: losses; with a model state, a pair of them and the state after the batch.
        model_state: that it was given; None for a model without.

    Raises:
        ValueError: it is no such pair, or the state is of another tree, shape or dtype.
    """
    if model_state is None:
        return returned, None
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ValueError(
            "the loss must return a pair, the losses and the model_state after the batch, as the task has a "
            f"model_state; it returns {type(returned).__name__}"
        )
    losses, after = returned
    if jax.tree.structure(after) != jax.tree.structure(model_state):
        raise ValueError(
            f"the loss must return the model_state as it was given: {jax.tree.structure(model_state)}; it "
            f"returns {jax.tree.structure(after)}"
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
        losses: [B], floating point; the mean is taken in float32 or wider.
        batch: the batch the losses belong to; its weights [B] are not negative.

    Returns:
        ``Σ w l / Σ w``, and 0 where every weight is 0.

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
        The losses [B] in float32 or wider.

    Raises:
        ValueError: they are not a floating-point array of shape [B].
    """
    examples = batch_size(batch)
    shape, dtype = getattr(losses, "shape", None), getattr(losses, "dtype", type(losses).__name__)
    if shape != (examples,) or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"the loss must be floating point and of shape ({examples},), one loss per example; "
            f"it is {dtype} of shape {shape}"
            + (
                "; to return a state of the model beside it, give Task(model_state=)"
                if dtype == "tuple"
                else ""
            )
        )
    return losses.astype(jnp.promote_types(losses.dtype, jnp.float32))


def weighted_logits(logits: Any, batch: Mapping[str, Any]) -> Any:
    """Give logits their batch's weights, unless they come with weights of their own.

    Args:
        logits: [B, ..., C]; or a pair of them and the weights [B, ...] of their positions.
        batch: the batch the logits belong to.

    Returns:
        The logits as they came, or a pair of them and weights [B, ...]: each position has its
        example's.

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
    """Check that a batch is one, and return the shape and dtype of each entry.

    Args:
        batch: what a task's ``batches`` returned.
        name: what to call it in a message.

    Returns:
        Name → (shape, dtype).

    Raises:
        ValueError: not a non-empty dict of arrays with one leading dimension, or weights that are
            not [B].
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
        raise ValueError(f"{name} has entries of unequal leading dimensions: {lengths}")
    if WEIGHT in shapes and len(shapes[WEIGHT][0]) != 1:
        raise ValueError(f"{name}['weight'] must have shape [B], got {shapes[WEIGHT][0]}")
    return shapes
