"""An arm of a comparison: an optimizer at one learning rate, run from every seed."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import optax

from optimiz import checks, training
from optimiz.compare.fields import check_fields
from optimiz.training.methods.methods import PLAIN

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One optimizer at one learning rate.

    Args:
        name: name of the optimizer, made of letters, digits, ``_``, ``.`` and ``-``.
        learning_rate: peak of its schedule, > 0; None if the optimizer finds it.
        make: learning rate → optimizer, with a schedule that decays fully at the end of the run; a function
            without arguments if ``learning_rate`` is None. Use one ``make`` for all rates of an optimizer, so
            that they share a compiled step.
        methods: which layers and which examples are trained.
        adapt: common task → task of this arm, for example with a shallower model or with batches of
            candidates; None for the common task.
        extra: plain JSON that describes the arm, such as ``{"state": "int8"}``. It is recorded with each run,
            and is part of what decides the run's trajectory.

    Raises:
        TypeError: the name is not a string, the learning rate is not a number, ``make`` or ``adapt`` is not a
            function, or ``extra`` is not plain JSON.
        ValueError: the name has other characters, or the learning rate is not positive and finite.
    """

    name: str
    learning_rate: float | None
    make: Callable[..., optax.GradientTransformation]
    methods: training.Methods = PLAIN
    adapt: Callable[[training.Task], training.Task] | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        function = Callable, "a function of the learning rate that makes the optimizer, such as optimiz.adamw"
        adapts = (Callable, type(None)), "a function of the common task, or None"
        checks.kinds(
            {
                "name": (self.name, str, "a string"),
                f"make of {self.name}": (self.make, *function),
                f"adapt of {self.name}": (self.adapt, *adapts),
            }
        )
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name must be letters, digits, '_', '.' and '-', got {self.name!r}")
        check_fields({f"extra of {self.name}": self.extra}, {f"extra of {self.name}": Mapping[str, Any]})
        if self.learning_rate is not None:
            checks.number(f"learning_rate of {self.name}", self.learning_rate, gt=0)

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer at the arm's learning rate."""
        return self.make() if self.learning_rate is None else self.make(float(self.learning_rate))

    def task(self, common: training.Task) -> training.Task:
        """The arm's task, derived from the common one."""
        return common if self.adapt is None else self.adapt(common)

    @property
    def directory(self) -> str:
        """Name of the arm's directory within the directory of a matrix."""
        return directory_name(str(self))

    def __str__(self) -> str:
        return self.name if self.learning_rate is None else f"{self.name} {float(self.learning_rate)!r}"


def directory_name(name: str) -> str:
    """The name of a directory: spaces become underscores."""
    return name.replace(" ", "_")
