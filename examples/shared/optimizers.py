"""The optimizers that a command line can name: every method of the suite, and a function of the user's own."""

import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import optax

import optimiz
from optimiz import groups, methods

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Choice:
    """How to build an optimizer, and its default learning rate.

    Attributes:
        name: name of the optimizer in reports and directories.
        make: (schedule, weight decay, weight-decay mask, multipliers of the learning rate) → optimizer. The
            schedule is that of the learning rate or, for a line search that can shorten its steps, that of the
            share of the step size to take.
        learning_rate: default peak of the schedule; None if a line search finds it, or if there is no default.
        searches: whether a line search finds the learning rate.
        scales_parts: whether the multipliers of the learning rate have an effect.
        constant_rate: whether the learning rate stays constant after the warm-up, in place of a decay.
        takes_adapters: whether it can train low-rank adapters alone.
    """

    name: str
    make: Callable[[optax.Schedule, float, Any, Any], optax.GradientTransformation]
    learning_rate: float | None
    searches: bool = False
    scales_parts: bool = True
    constant_rate: bool = False
    takes_adapters: bool = True

    def peak(self, given: float | None, flag: str = "--learning_rate") -> float | None:
        """The peak learning rate: the given one, or the default; None for a line search.

        Args:
            given: the value of the flag; None if it is not set.
            flag: name of the flag, for the message.

        Raises:
            ValueError: no rate is given, and there is no default.
        """
        if self.searches:
            return None
        if given is None and self.learning_rate is None:
            raise ValueError(f"{flag} is needed: there is no default learning rate for {self.name}")
        return self.learning_rate if given is None else given


def choose(name: str, *, from_scratch: bool = False, classes: int | None = None) -> Choice:
    """The optimizer with a given name.

    Args:
        name: a method of the suite, or ``module:function`` of the user's own: a function that is called with
            the schedule of the learning rate and, where its signature has them, ``weight_decay`` and ``mask``
            or ``weight_decay_mask``, and returns an optimizer.
        from_scratch: whether the default rate is for training from random parameters, not for fine-tuning.
        classes: number of classes of the logits, for a language model the size of its vocabulary; None if the
            program does not provide logits.

    Raises:
        ValueError: there is no such method (the message suggests similar names), the program does not support
            it, or the function cannot be imported or called.
    """
    if ":" in name:
        return _own(name)
    method = methods.find(name)
    if "logits_fn" in method.needs and classes is None:
        raise ValueError(f"optimizer {name!r} draws labels from logits, which this program does not provide")
    return Choice(
        name,
        _maker(method, classes),
        method.from_scratch_rate if from_scratch else method.fine_tuning_rate,
        searches=method.kind == "line search",
        scales_parts=method.kind != "line search" or method.takes("multipliers"),
        constant_rate=method.constant_rate,
        # A factor is no hidden matrix, and adapters have neither embeddings nor a head, which are units.
        takes_adapters=not (method.takes("matrices") or "units" in method.settings),
    )


def for_adapters(choice: Choice) -> Choice:
    """An optimizer with the default rate for low-rank adapters: ten times that for a whole model.

    Args:
        choice: the optimizer; a rate of 1 is a factor of one that it estimates, and stays.

    Raises:
        ValueError: it does not train adapters.

    Example:
        >>> choose("adamw").learning_rate, for_adapters(choose("adamw")).learning_rate
        (0.0001, 0.001)

    Source:
        Schulman et al., "LoRA Without Regret" (2025).
    """
    if not choice.takes_adapters:
        raise ValueError(
            f"{choice.name} does not train adapters: give another optimizer, or --lora_rank=0, which trains "
            "the whole model"
        )
    rate = choice.learning_rate
    if rate is None or rate >= 1:
        return choice
    return dataclasses.replace(choice, learning_rate=float(f"{10 * rate:g}"))


def _maker(method: methods.Method, classes: int | None) -> Callable[..., optax.GradientTransformation]:
    def make(schedule: optax.Schedule, decay: float, mask: Any, multipliers: Any) -> Any:
        given = {"learning_rate": schedule, "multipliers": multipliers}
        if method.kind == "line search":
            # A method without these arguments has one rule for all parameters, as its authors define it.
            given = {"learning_rate": schedule} if method.takes("decay") else {}
            given |= {"multipliers": multipliers} if method.takes("multipliers") else {}
        if method.takes("weight_decay"):
            given |= {"weight_decay": decay, "mask": mask}
        elif decay != 0:
            raise ValueError(f"optimizer {method.name!r} has no weight decay: it must be 0, got {decay}")
        return method.build(**given, classes=classes)

    return make


def imported(what: str, name: str) -> Callable[..., Any]:
    """The function of the user's own that ``module:function`` names.

    Args:
        what: what it makes, for the message.
        name: the name.

    Raises:
        ValueError: it cannot be imported, or is no function.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
        inspect.signature(function)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{what} {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    return function


def _own(name: str) -> Choice:
    """The optimizer that a user's function makes."""
    factory = imported("optimizer", name)
    arguments = inspect.signature(factory).parameters

    def make(schedule: optax.Schedule, decay: float, mask: Any, multipliers: Any) -> Any:
        given = {"weight_decay": decay, "weight_decay_mask": mask, "mask": mask}
        if "weight_decay_mask" in arguments:
            del given["mask"]
        given = {argument: value for argument, value in given.items() if argument in arguments}
        if "weight_decay" not in arguments and decay != 0:
            print(
                f"warning: {name} has no argument weight_decay: the given weight decay is ignored", flush=True
            )
        try:
            tx = factory(schedule, **given)
        except Exception as error:
            raise ValueError(
                f"optimizer {name!r} cannot be called with a schedule"
                f"{''.join(f', {argument}' for argument in given)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(tx, optax.GradientTransformation):
            raise ValueError(f"optimizer {name!r} must return an optimizer, got {type(tx).__name__}")
        return optax.chain(tx, optimiz.scale_by_groups(multipliers))

    make(optax.constant_schedule(1e-3), 0.0, None, one_rate)  # what cannot be called is refused here
    return Choice(name.replace(":", "."), make, None)


def clipped(tx: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """An optimizer behind a clip of the gradient's global norm, without a clipped gradient in memory.

    Args:
        tx: the optimizer.
        norm: the largest norm of the gradient, > 0.
    """
    return optimiz.low_memory_update(optax.chain(optimiz.clip_by_global_norm(norm), tx))


def averaged(tx: optax.GradientTransformation, rule: str, steps: int) -> optax.GradientTransformation:
    """An optimizer that keeps an average of the parameters, which is what is evaluated, tested and saved.

    Args:
        tx: the optimizer.
        rule: "ema:D" for an exponential moving average, D in (0, 1), whose decay with "ema:D:P" warms up by
            the power P in (0, 1]; "tail:S" for the mean over the last share S in (0, 1] of the run.
        steps: number of updates of the run, ≥ 1.

    Raises:
        ValueError: the rule is none of these.
    """
    kind, *numbers = rule.split(":")
    try:
        values = list(map(float, numbers))
    except ValueError:
        values = []
    match kind, values:
        case "ema", [decay] if 0 < decay < 1:
            return optimiz.average(tx, decay)
        case "ema", [decay, power] if 0 < decay < 1 and 0 < power <= 1:
            return optimiz.average(tx, decay, power=power)
        case "tail", [share] if 0 < share <= 1:
            return optimiz.average(tx, 1.0, start=steps - math.ceil(share * steps))
    raise ValueError(
        f"average {rule!r} must be ema:D with D in (0, 1), ema:D:P with P in (0, 1] too, "
        "or tail:S with S in (0, 1]"
    )


def among(name: str, known: Mapping[str, _T]) -> _T:
    """The value with a given name.

    Args:
        name: name of an optimizer or of another way to train.
        known: name → value.

    Raises:
        ValueError: the name is unknown; the message suggests similar names.
    """
    if name not in known:
        raise ValueError(
            f"optimizer {name!r} is unknown: {methods.nearest(name, known)}there are {', '.join(known)}"
        )
    return known[name]


def listed(*, from_scratch: bool = False, logits: bool = True) -> str:
    """Every method that a program supports, and where to read of them, for the help of its flag.

    Args:
        from_scratch: whether the default rates are those for training from random parameters.
        logits: whether the program provides logits.
    """
    served = [name for name, method in methods.METHODS.items() if logits or "logits_fn" not in method.needs]
    return (
        f"Optimizers, run in turn: {', '.join(served)}; or module:function of your own, see docs/testing.md. "
        "docs/which_optimizer.md says what each is for, and its default rate "
        f"{'from scratch' if from_scratch else 'for fine-tuning'}."
    )


def head_multipliers(rate: float, encoder: float = 1.0) -> Callable[[Any], Any]:
    """Multipliers of the learning rate: ``rate`` for the new head, and ``encoder`` for the trained encoder."""
    return groups.label({rate: groups.path("^head/")}, default=encoder)


def one_rate(params: Any) -> Any:
    """Multipliers of the learning rate: 1 for every parameter."""
    return jax.tree.map(lambda _: 1.0, params)
