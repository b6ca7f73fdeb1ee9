"""An arm of a comparison: an optimizer at one learning rate and other settings, run from every seed."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import optax

from optimiz import checks, training
from optimiz.compare.fields import check_fields
from optimiz.compare.matrix.grid import Point
from optimiz.training.methods.methods import PLAIN

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One optimizer at one learning rate, and at one value on each other axis of its grid.

    Args:
        name: name of the optimizer, made of letters, digits, ``_``, ``.`` and ``-``.
        learning_rate: peak of its schedule, > 0; None if the optimizer finds it.
        make: learning rate → optimizer, with a schedule that decays fully at the end of the run; a function
            without arguments if ``learning_rate`` is None. It receives ``axes`` by name. Use one ``make`` for
            all arms of an optimizer, so that those that differ in their rates alone share a compiled step.
        methods: which layers and which examples are trained.
        adapt: common task → task of this arm, for example with a shallower model or with batches of
            candidates; None for the common task.
        extra: plain JSON that describes the arm, such as ``{"state": "int8"}``. It is recorded with each run,
            and is part of what decides the run's trajectory.
        axes: the value, ≥ 0, on each other axis of the grid by its name, such as ``{"weight_decay": 0.1,
            "warmup": 0.05}``: keyword arguments of ``make``.

    Raises:
        TypeError: the name is not a string, the learning rate is not a number, ``make`` or ``adapt`` is not a
            function, ``extra`` is not plain JSON, or a value on an axis is not a number.
        ValueError: the name has other characters, the learning rate is not positive and finite, or an axis has
            no name of an argument, or a negative value.
    """

    name: str
    learning_rate: float | None
    make: Callable[..., optax.GradientTransformation]
    methods: training.Methods = PLAIN
    adapt: Callable[[training.Task], training.Task] | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    axes: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)

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
        checks.kinds({f"axes of {self.name}": (self.axes, Mapping, "a mapping, such as {'weight_decay': 0.1}")})
        for axis, value in self.axes.items():
            if not isinstance(axis, str) or not axis.isidentifier() or axis == "learning_rate":
                raise ValueError(
                    f"axes of {self.name} must be arguments other than learning_rate, got {axis!r}"
                )
            checks.number(f"{axis} of {self.name}", value, ge=0)

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer at the arm's learning rate."""
        make = self.of_rate()
        return make() if self.learning_rate is None else make(float(self.learning_rate))

    def of_rate(self) -> Callable[..., optax.GradientTransformation]:
        """``make`` at the arm's values on the other axes; a new function if there are any."""
        return functools.partial(self.make, **self.axes) if self.axes else self.make

    @property
    def point(self) -> Point:
        """The arm as a point of the grid of its optimizer, with the other axes in the order of their names."""
        return (self.learning_rate, *(self.axes[axis] for axis in sorted(self.axes)))

    def task(self, common: training.Task) -> training.Task:
        """The arm's task, derived from the common one."""
        return common if self.adapt is None else self.adapt(common)

    @property
    def directory(self) -> str:
        """Name of the arm's directory within the directory of a matrix."""
        return directory_name(str(self))

    def __str__(self) -> str:
        rate = [] if self.learning_rate is None else [repr(float(self.learning_rate))]
        return " ".join(
            [self.name, *rate, *(f"{axis}={float(self.axes[axis])!r}" for axis in sorted(self.axes))]
        )


def directory_name(name: str) -> str:
    """The name of a directory: spaces become underscores."""
    return name.replace(" ", "_")
