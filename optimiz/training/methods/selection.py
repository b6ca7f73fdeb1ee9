r"""Train on selected examples: a forward pass decides which candidates are worth a step.

Selective back-propagation keeps an example with a probability that rises with its loss among the recent ones:

.. math::
    r = \frac{\#\{h < l\} + \#\{h \le l\} + [\exists\, h = l]}{2 n}, \qquad P(\text{keep}) = r^\beta

over a history of the last n ≤ 5,000 losses h, to which the losses of the candidates are appended first. Kept
examples wait in a queue until they fill a batch; the oldest are trained on, and the rest stay in the queue.

RHO-loss trains on the examples of a mega-batch whose loss most exceeds their irreducible loss, that of a model
trained on held-out data (``optimiz.training.methods.irreducible``): the highest
:math:`l - l_\text{irreducible}`.

A selection is a pure function of losses, state and key, inside the compiled step, so that a resumed run draws
the same examples as an uninterrupted one. Losses are computed in evaluation mode. The forward pass over the
candidates is charged to the budget as ``forward``. An example of weight 0, such as a text without a masked
token, is not a candidate: it enters neither the history nor, while there are others, a batch.

Source: arXiv 1910.00762 (Jiang et al.) and arXiv 2206.07137 (Mindermann et al.), as in arXiv 2307.06440 and its
code, JeanKaddour/NoTrainNoGain at a7e6599. r is ``scipy.stats.percentileofscore`` with kind "rank".

Departures: the loss of an example without a masked token does not become NaN; a loss that is NaN nevertheless
counts as the largest, so that it reaches a step and the run is reported as diverged.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from optimiz import checks
from optimiz.training.task import WEIGHT, batch_size

IRREDUCIBLE = "irreducible"
"""The name of the batch entry with the irreducible losses."""


class Chosen(NamedTuple):
    """The result of selecting from a batch of candidates.

    Args:
        state: the state of the selection, for the next candidates.
        batch: the batch to train on; meaningless unless it is full.
        full: whether there are enough examples for a step; bool, shape ().
    """

    state: Any
    batch: Mapping[str, jax.Array]
    full: jax.Array


class Selection(Protocol):
    """A rule that selects examples to train on."""

    @property
    def batch(self) -> int:
        """The number of examples that are trained on at a step."""
        ...

    @property
    def waits(self) -> bool:
        """Whether a batch of candidates may yield no step, so that the host has to wait for the result."""
        ...

    def init(self, candidates: Mapping[str, Any]) -> Any:
        """The state before the first candidates, of which only the shapes matter."""
        ...

    def choose(
        self, state: Any, losses: jax.Array, candidates: Mapping[str, jax.Array], key: jax.Array
    ) -> Chosen:
        """Choose among candidates with losses [M]; traceable."""
        ...

    def described(self) -> dict[str, Any]:
        """The selection as plain JSON."""
        ...


class SelectiveBackpropState(NamedTuple):
    """State of :class:`SelectiveBackprop`."""

    drawn: jax.Array  # int32 scalar: batches of candidates so far
    history: jax.Array  # [n]: the last losses, a ring
    seen: jax.Array  # int32 scalar: losses appended so far
    queue: dict[str, jax.Array]  # [B + M, …]: examples kept, the oldest first
    waiting: jax.Array  # int32 scalar: how many of them there are


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveBackprop:
    """Train on examples whose loss is high among recent losses.

    Args:
        batch: number of examples B that are trained on at a step. The task's batches, of M ≤ B examples, are
            the candidates.
        beta: β ≥ 0; the source found 2 and 3 to be worse than 1.
        history: number of losses in the history, ≥ M.

    Raises:
        TypeError: an argument is not a number, or not an integer where one is required.
        ValueError: an argument is outside its domain.
    """

    batch: int
    beta: float = 1.0
    history: int = 5_000
    waits = True

    def __post_init__(self) -> None:
        checks.integer("batch", self.batch, ge=1)
        checks.number("beta", self.beta, ge=0)
        checks.integer("history", self.history, ge=1)

    def init(self, candidates: Mapping[str, Any]) -> SelectiveBackpropState:
        """The state before the first candidates.

        Raises:
            ValueError: there are more candidates than fit into the batch or the history.
        """
        size = batch_size(candidates)
        if size > min(self.batch, self.history):
            raise ValueError(
                f"the batches of candidates must be no larger than batch={self.batch} and "
                f"history={self.history}, got {size} examples"
            )
        queue = {
            name: jnp.zeros((self.batch + size, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))
            for name, x in candidates.items()
        }
        none = (jnp.zeros((), jnp.int32) for _ in range(3))
        history = jnp.zeros(self.history, jnp.result_type(float))
        return SelectiveBackpropState(next(none), history, next(none), queue, next(none))

    def choose(
        self,
        state: SelectiveBackpropState,
        losses: jax.Array,
        candidates: Mapping[str, jax.Array],
        key: jax.Array,
    ) -> Chosen:
        """Keep some of the candidates; the batch is full once enough have been kept."""
        candidate = _weighs(candidates)
        slots = (state.seen + _place_among(candidate)) % self.history
        history = _written(state.history, slots, losses, candidate)
        seen = state.seen + jnp.sum(candidate, dtype=jnp.int32)
        rank = percentile_rank(history, losses, jnp.minimum(seen, self.history))
        kept = candidate & (jax.random.uniform(key, losses.shape) < rank**self.beta)

        places = state.waiting + _place_among(kept)
        queue = {name: _written(x, places, candidates[name], kept) for name, x in state.queue.items()}
        waiting = state.waiting + jnp.sum(kept, dtype=jnp.int32)
        batch = {name: x[: self.batch] for name, x in queue.items()}
        full = waiting >= self.batch
        # The oldest leave the queue; what replaces them is overwritten before it is read.
        queue = {name: jnp.where(full, jnp.roll(x, -self.batch, axis=0), x) for name, x in queue.items()}
        waiting = jnp.where(full, waiting - self.batch, waiting)
        state = SelectiveBackpropState(state.drawn + 1, history, seen, queue, waiting)
        return Chosen(state, batch, jnp.asarray(full))

    def described(self) -> dict[str, Any]:
        """The selection as plain JSON."""
        return {"name": "selective_backprop"} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RhoLoss:
    """Train on examples whose loss is far above their irreducible loss.

    The task's batches are the mega-batches of M ≥ B candidates, with an entry ``"irreducible"`` [M]; see
    :class:`optimiz.training.IrreducibleLosses`.

    Args:
        batch: number of examples B that are trained on at a step; the source takes half of a mega-batch.

    Raises:
        TypeError: ``batch`` is not an integer.
        ValueError: ``batch`` is less than 1.
    """

    batch: int
    waits = False

    def __post_init__(self) -> None:
        checks.integer("batch", self.batch, ge=1)

    def init(self, candidates: Mapping[str, Any]) -> tuple[()]:
        """No state.

        Raises:
            ValueError: there are fewer candidates than the batch holds, or they have no irreducible losses.
        """
        size = batch_size(candidates)
        if size < self.batch:
            raise ValueError(f"the mega-batches must hold at least batch={self.batch} examples, got {size}")
        irreducible = candidates.get(IRREDUCIBLE)
        if irreducible is None or irreducible.shape != (size,):
            found = "none" if irreducible is None else f"shape {irreducible.shape}"
            raise ValueError(
                f"RHO-loss needs the irreducible losses of the candidates as batch entry {IRREDUCIBLE!r}, of "
                f"shape ({size},), got {found}: IrreducibleLosses.joined adds them"
            )
        return ()

    def choose(
        self, state: tuple[()], losses: jax.Array, candidates: Mapping[str, jax.Array], key: jax.Array
    ) -> Chosen:
        """Choose the top candidates."""
        del key
        scores = jnp.where(_weighs(candidates), losses - candidates[IRREDUCIBLE], -jnp.inf)
        top = top_examples(scores, self.batch)
        return Chosen(state, {name: x[top] for name, x in candidates.items()}, jnp.array(True))

    def described(self) -> dict[str, Any]:
        """The selection as plain JSON."""
        return {"name": "rho_loss"} | dataclasses.asdict(self)


def percentile_rank(
    history: jax.Array, losses: jax.Array, size: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """The rank of losses within a history, in [0, 1].

    Args:
        history: losses [N]; NaN is greater than any other.
        losses: losses [M] to rank.
        size: number of leading entries of the history that count, ≥ 1; None for all.

    Returns:
        For each loss the share of the history below it [M]. Equal entries count half; if there are any, half an
        entry is added.

    Example:
        >>> history = jnp.array([1.0, 2.0, 2.0, 3.0])
        >>> percentile_rank(history, jnp.array([1.0, 2.0, 3.0, 2.5])).tolist()
        [0.25, 0.625, 1.0, 0.75]
    """
    number = jnp.asarray(history.size if size is None else size)
    counts = jnp.arange(history.size) < number
    history, losses = (jnp.where(jnp.isnan(x), jnp.inf, x) for x in (history, losses))
    below = jnp.sum((history < losses[:, None]) & counts, axis=1)
    equal = jnp.sum((history == losses[:, None]) & counts, axis=1)
    return (2 * below + equal + (equal > 0)) / (2 * number)


def top_examples(scores: jax.Array, number: int) -> jax.Array:
    """The indices of the highest scores, in descending order; ties in the order of arrival.

    Args:
        scores: scores [M]; NaN is greater than any other.
        number: number of indices, ≤ M.

    Example:
        >>> top_examples(jnp.array([1.0, 3.0, 2.0, 3.0]), 3).tolist()
        [1, 3, 2]
    """
    return jnp.argsort(-jnp.where(jnp.isnan(scores), jnp.inf, scores), stable=True)[:number]


def _weighs(candidates: Mapping[str, jax.Array]) -> jax.Array:
    """Which examples are candidates: bool [M]."""
    if WEIGHT in candidates:
        return candidates[WEIGHT] != 0
    return jnp.ones(batch_size(candidates), bool)


def _place_among(chosen: jax.Array) -> jax.Array:
    """For each chosen example, the number chosen before it: int32 [M]."""
    return jnp.cumsum(chosen, dtype=jnp.int32) - 1


def _written(to: jax.Array, places: jax.Array, values: jax.Array, chosen: jax.Array) -> jax.Array:
    """An array with the chosen values at their places."""
    outside = to.shape[0]
    return to.at[jnp.where(chosen, places, outside)].set(values.astype(to.dtype), mode="drop")
