"""The subject of the checks: an optimizer, and how to use it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from optimiz import checks

RATE = 0.1
"""The learning rate of all checks except the one that minimizes a loss."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An optimizer as the promises see it.

    What is expensive to make, such as a compiled update, is made once and shared by all promises.

    Attributes:
        factory: learning rate (a number or a schedule) → the optimizer. Keyword arguments are passed on.
        rate: a learning rate that, decayed to zero over 200 steps, minimizes a small quadratic.
        learning_rate_name: name of the factory's argument for the learning rate.
        bad: keyword arguments of the factory, each of which it should refuse on its own.
        extra_args: gradients, parameters → the extra arguments that ``update`` requires.
        period: number of updates after which the parameters change: k for an optimizer that accumulates k
            gradients.
        trees: name → a function that makes a parameter tree, such as that of the user's own model.
        exempt: name of a promise that does not apply → the reason.
    """

    factory: Callable[..., optax.GradientTransformation]
    rate: float = 0.02
    learning_rate_name: str = "learning_rate"
    bad: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extra_args: Callable[[Any, Any], Mapping[str, Any]] | None = None
    period: int = 1
    trees: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    exempt: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not callable(self.factory):
            raise TypeError(
                f"factory must be a function from a learning rate to an optimizer, got {self.factory!r}"
            )
        checks.integer("period", self.period, ge=1)
        checks.transformation(f"{self}({RATE})", self.factory(RATE))

    def __str__(self) -> str:
        return _name(self.factory)

    def make(self, rate: Any = RATE, **kwargs: Any) -> Any:
        """Make the optimizer, with the extra arguments that it requires filled in.

        Args:
            rate: learning rate or schedule.
            **kwargs: passed on to the factory.

        Returns:
            A transformation that accepts any extra argument.
        """
        tx = optax.with_extra_args_support(self.factory(rate, **kwargs))
        offered = self.extra_args
        if offered is None:
            return tx

        def update_fn(updates, state, params=None, **extra_args):
            return tx.update(updates, state, params, **extra_args | dict(offered(updates, params)))

        return optax.GradientTransformationExtraArgs(tx.init, update_fn)

    @functools.cached_property
    def tx(self) -> Any:
        """The optimizer at ``RATE``."""
        return self.make()

    @functools.cached_property
    def init(self) -> Any:
        """The optimizer's compiled initialization, parameters → state."""
        return jax.jit(self.tx.init)

    @functools.cached_property
    def update(self) -> Any:
        """The optimizer's compiled update, (gradients, state, parameters) → (updates, state)."""
        return jax.jit(self.tx.update)

    def accepts(self, keyword: str) -> bool:
        """Whether the factory takes a keyword argument.

        Args:
            keyword: name of the argument.

        Returns:
            True if it does. A factory with ``**kwargs`` is called with None for the argument to find out.
        """
        parameters = inspect.signature(self.factory).parameters
        if keyword in parameters:
            return True
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return False
        try:
            self.factory(RATE, **{keyword: None})
        except TypeError as error:
            return "unexpected keyword" not in str(error)
        except Exception:
            return True
        return True

    @functools.cached_property
    def no_decay(self) -> dict[str, float]:
        """The keyword arguments that switch weight decay off."""
        return {"weight_decay": 0.0} if self.accepts("weight_decay") else {}


def _name(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if not name and isinstance(function, functools.partial):
        return _name(function.func)
    return "the optimizer" if name in ("", "<lambda>") else name
