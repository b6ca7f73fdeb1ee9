"""An arm of a comparison: what is run from every seed."""

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
        name: of the optimizer; letters, digits, ``_``, ``.`` and ``-``.
        learning_rate: the peak of its schedule, > 0; None if the optimizer finds it.
        make: learning rate → optimizer, with a schedule that decays fully at the end of the run, or a function
            without arguments if ``learning_rate`` is None. All rates of an optimizer should have one ``make``:
            they then share a compiled step.
        methods: which layers and which examples are trained.
        adapt: the common task → the task of this arm, such as one with a shallower model or with batches of
            candidates; None for the common task.
        extra: plain JSON that describes the arm, such as ``{"state": "int8"}``; part of the record of its runs,
            and of what decides their trajectories.

    Raises:
        TypeError: the name is no text, the learning rate no number, ``make`` or ``adapt`` no function, or
            ``extra`` not plain JSON.
        ValueError: the name cannot be that of a directory, or the learning rate is not positive and finite.
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
                "name": (self.name, str, "a text"),
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
        """The optimizer at the learning rate of the arm."""
        return self.make() if self.learning_rate is None else self.make(float(self.learning_rate))

    def task(self, common: training.Task) -> training.Task:
        """The task of the arm, from that of all arms."""
        return common if self.adapt is None else self.adapt(common)

    @property
    def directory(self) -> str:
        """The name of its directory in that of a matrix."""
        return directory_name(str(self))

    def __str__(self) -> str:
        return self.name if self.learning_rate is None else f"{self.name} {float(self.learning_rate)!r}"


def directory_name(name: str) -> str:
    """A directory for what is called so."""
    return name.replace(" ", "_")
