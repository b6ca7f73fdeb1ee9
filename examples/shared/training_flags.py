"""The flags that say how a trainer trains: the same in every one, apart from some defaults."""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import optax
from absl import flags

from examples.shared import program_flags, trained_parts
from examples.shared.optimizers import Choice, averaged, for_adapters
from examples.shared.precisions import PRECISIONS, STATES
from examples.shared.tracking import TRACKERS
from optimiz import compare, schedules

SCHEDULES = {"cosine": schedules.cosine, "linear": schedules.linear, "constant": schedules.constant}
KEEP_LAST, KEEP_BEST = "last", "best"
NAMES: set[str] = set()  # of all flags that are defined here


def define(
    own: program_flags.Flags,
    choose: Callable[[str], Choice],
    *others: Any,
    optimizer: Sequence[str],
    listed: str,
    metrics: Sequence[str],
    examples: str,
    weight_decay: float,
    steps: int,
    batch_size: int,
    schedule: str,
    evaluate_every: int,
    seed_of: str,
) -> None:
    """Define the flags, and refuse values that cannot be meant when they are parsed.

    Args:
        own: the program's flags; those on which the optimizers depend are checked too, see :func:`check_flags`.
        choose: name → optimizer; raises a ValueError for an unknown name.
        *others: flags on which ``choose`` depends.
        optimizer: names of the default optimizers.
        listed: help of the flag that names them.
        metrics: metrics of an evaluation, among them "loss".
        examples: what a batch consists of, in the plural.
        weight_decay: default weight decay.
        steps: default number of updates.
        batch_size: default number of examples per update.
        schedule: default of what follows the warm-up, one of SCHEDULES.
        evaluate_every: default number of updates between two evaluations.
        seed_of: what the seed decides.
    """
    before = {*own}
    names = own.DEFINE_list("optimizer", list(optimizer), listed)
    rate = own.DEFINE_float("learning_rate", None, "Peak rate; default: the optimizer's own, if there is one.")
    own.DEFINE_float("weight_decay", weight_decay, "Decoupled; biases and norms are left out.")
    warmup = own.DEFINE_float("warmup", 0.1, "Share of the steps over which a rate rises from 0.")
    own.DEFINE_enum("schedule", schedule, list(SCHEDULES), "What follows the warm-up; decays end at 0.")
    clip = own.DEFINE_float("clip", None, "Largest norm of the gradient of all parameters; default: any.")
    steps_flag = own.DEFINE_integer("steps", steps, "Updates.", lower_bound=1)
    epochs = own.DEFINE_float("epochs", None, f"Passes over the training {examples}, in place of --steps.")
    own.DEFINE_integer("batch_size", batch_size, f"{examples.capitalize()} per update.", lower_bound=1)
    text = "Parts of a batch that a step computes in turn, to take less memory: the same update."
    own.DEFINE_integer("accumulate", 1, text, lower_bound=1)
    text = "Updates between two measurements of gradient noise; 0 for none. --accumulate shows it at every one."
    own.DEFINE_integer("noise_every", 0, text, lower_bound=0)
    own.DEFINE_integer("seed", 0, f"Of {seed_of}.", lower_bound=0)
    own.DEFINE_integer("evaluate_every", evaluate_every, "Steps between two evaluations.")
    own.DEFINE_integer("save_every", 0, "Steps between two checkpoints; 0: at the end.")
    average = own.DEFINE_string(
        "average", None, 'Evaluate and save an average of the parameters: "ema:0.999", or "tail:0.2".'
    )
    keep = own.DEFINE_string(
        "keep",
        KEEP_LAST,
        f'Parameters to test and save: "last", "best" in validation loss, or "best:METRIC" of '
        f"{', '.join(metrics)}. A number: that many checkpoints, and the last is tested.",
    )
    patience = own.DEFINE_integer(
        "patience", None, "With --keep=best: evaluations without a better one that end a run.", lower_bound=1
    )
    text = (
        "Of parameters and computation; mixed: float32 parameters, products in bfloat16. Parameters in "
        "bfloat16 are rounded stochastically or, with kahan, compensated."
    )
    own.DEFINE_enum("precision", "float32", list(PRECISIONS), text)
    text = "Format of the optimizer's state, to take less memory; arrays of few entries stay float32."
    own.DEFINE_enum("state", "float32", list(STATES), text)
    own.DEFINE_path("init", None, "Begin with the parameters of this run, such as runs/mine/adamw.")
    report_to = own.DEFINE_list(
        "report_to", None, f"Trackers that are told of the runs, among {', '.join(TRACKERS)}."
    )
    profile = own.DEFINE_string("profile", None, "Updates to trace for JAX's profiler, such as 10:15.")
    own.DEFINE_bool("resume", False, "Go on with the runs in --output.")
    own.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)
    NAMES.update({*own} - before)

    program_flags.check(lambda x: x < 1, "must be in [0, 1)", warmup)
    program_flags.check(lambda x: x > 0, "must be above 0", epochs, clip)
    program_flags.check_each(lambda rule: averaged(optax.identity(), rule, 1), average)
    program_flags.check_each(lambda rule: kept(rule, metrics), keep)
    program_flags.check_among(TRACKERS, report_to)
    program_flags.check_each(profiled, profile)
    check_flags(own, choose, names, rate, *others)
    program_flags.check_together(
        lambda x: x["epochs"] is None or own["steps"].using_default_value,
        "--epochs replaces --steps; give one of them",
        own,
        epochs,
        steps_flag,
    )
    program_flags.check_together(
        lambda x: x["batch_size"] % x["accumulate"] == 0,
        "--accumulate must divide --batch_size",
        own,
        own["accumulate"],
        own["batch_size"],
    )
    program_flags.check_together(
        lambda x: not x["noise_every"] or (x["accumulate"] == 1 and x["batch_size"] > 1),
        "--noise_every needs --accumulate=1, and a --batch_size of at least 2",
        own,
        own["noise_every"],
        own["accumulate"],
        own["batch_size"],
    )
    program_flags.check_together(
        lambda x: x["patience"] is None or "keep_best" in kept(x["keep"], metrics),
        "--patience needs --keep=best, or --keep=best:METRIC",
        own,
        patience,
        keep,
    )
    program_flags.check_together(
        lambda x: x["patience"] is None or x["evaluate_every"],
        "--patience needs evaluations in between: --evaluate_every must be above 0",
        own,
        patience,
        own["evaluate_every"],
    )


def define_parts(own: program_flags.Flags) -> None:
    """Define the flags of which parameters of a pretrained model are trained, and how fast; before `define`.

    Args:
        own: the program's flags.
    """
    freeze = own.DEFINE_list(
        "freeze",
        None,
        "Do not train these: encoder (all but the head), or regular expressions for paths, such as "
        "^embeddings/,^layers/[0-3]/.",
    )
    text = "Factor of the rate for each layer below the head, such as 0.9; default: none."
    decay = own.DEFINE_float("layerwise_decay", None, text)
    NAMES.update((freeze.name, decay.name))
    program_flags.check_each(trained_parts.pattern, freeze)
    program_flags.check(lambda x: 0 < x < 1, "must be in (0, 1)", decay)


def parts(own: program_flags.Flags) -> dict[str, Any]:
    """What the flags of :func:`define_parts` say, for a plan; nothing if the program has none."""
    if "freeze" not in own:
        return {}
    return {"freeze": tuple(own.freeze or ()), "layerwise_decay": own.layerwise_decay}


def check_flags(
    own: program_flags.Flags,
    choose: Callable[[str], Choice],
    optimizers: flags.FlagHolder,
    learning_rate: flags.FlagHolder,
    *others: flags.FlagHolder,
) -> None:
    """Refuse optimizers that are unknown or cannot train adapters, a missing rate, and flags without effect.

    Args:
        own: the program's flags; ``warmup``, ``head_rate``, ``lora_rank`` and ``lora_ratio`` are checked too if
            it has them.
        choose: name → optimizer; raises a ValueError for an unknown name.
        optimizers: flag with the names of the optimizers.
        learning_rate: flag with the peak rate, for all optimizers that take one.
        *others: flags on which ``choose`` depends.
    """
    program_flags.check_each(choose, optimizers)
    program_flags.check(lambda x: x > 0, "must be above 0, or nothing would be trained", learning_rate)

    def chosen(names: Iterable[str]) -> Iterator[Choice]:
        for name in names:
            with contextlib.suppress(ValueError):  # reported already
                yield choose(name)

    def have_rates(values: dict[str, Any]) -> bool:
        for choice in chosen(values[optimizers.name]):
            choice.peak(values[learning_rate.name])
        return True

    program_flags.check_together(have_rates, "need a rate", own, optimizers, learning_rate, *others)
    if "lora_rank" in own:

        def take_adapters(values: dict[str, Any]) -> bool:
            for choice in chosen(values[optimizers.name]) if values["lora_rank"] else ():
                for_adapters(choice)
            return True

        program_flags.check_together(take_adapters, "must take adapters", own, optimizers, own["lora_rank"])
    for name, heeds in {
        learning_rate.name: lambda choice: not choice.searches,
        "warmup": lambda choice: not choice.searches,
        "schedule": lambda choice: not (choice.searches or choice.constant_rate),
        "clip": lambda choice: not choice.searches,
        **dict.fromkeys(("head_rate", "lora_ratio", "layerwise_decay"), lambda choice: choice.scales_parts),
    }.items():
        if name not in own:
            continue

        def is_heeded(values: dict[str, Any], name: str = name, heeds: Callable = heeds) -> bool:
            choices = list(chosen(values[optimizers.name]))
            return own[name].using_default_value or not choices or any(map(heeds, choices))

        domain = f"--{name} needs an optimizer that takes a rate; the given ones find their own"
        program_flags.check_together(is_heeded, domain, own, optimizers, own[name], *others)


def kept(rule: str, metrics: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of ``training.Settings`` for which a value of ``--keep`` stands.

    Args:
        rule: ``"last"``, ``"best"`` for the loss, ``"best:METRIC"``, or a number of checkpoints.
        metrics: metrics of an evaluation; empty if any may be named.

    Raises:
        ValueError: the rule is none of these, or there is no such metric.

    Example:
        >>> kept("best:accuracy")
        {'keep_best': 'accuracy', 'lower_is_better': False}
        >>> kept("3")
        {'keep': 3}
    """
    if rule == KEEP_LAST:
        return {}
    kind, _, metric = rule.partition(":")
    if kind == KEEP_BEST and rule != f"{KEEP_BEST}:":
        metric = metric or "loss"
        if metrics and metric not in metrics:
            raise ValueError(f"keep {rule!r} must name a metric of the evaluation: {', '.join(metrics)}")
        return {"keep_best": metric, "lower_is_better": compare.lower_is_better(metric)}
    if rule.isascii() and rule.isdecimal() and len(rule) < 10 and int(rule) >= 1:
        return {"keep": int(rule)}
    raise ValueError(f'keep {rule!r} must be "last", "best", "best:METRIC" or a number of at least 1')


def profiled(updates: str | None) -> tuple[int, int] | None:
    """The value of ``training.Settings(profile=)`` for which a value of ``--profile`` stands.

    Args:
        updates: the numbers of the first update and of the one after the last, separated by a colon.

    Raises:
        ValueError: it is something else.

    Example:
        >>> profiled("10:15")
        (10, 15)
    """
    if updates is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", updates)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"profile must be two numbers of updates that ascend, such as 10:15, got {updates!r}")
    return int(match[1]), int(match[2])


def steps_of(own: program_flags.Flags, examples: int) -> int:
    """The number of updates: that of ``--steps``, or as many as begin within ``--epochs``.

    Args:
        own: the program's flags.
        examples: number of training examples, N.

    Returns:
        ⌈epochs N / batch_size⌉, at least 1, as batches go on from one epoch into the next.

    Raises:
        ValueError: there would be more updates than a counter holds.
    """
    if own.epochs is None:
        return own.steps
    # 0.1 of 30 examples are 3, which 0.1 × 30 exceeds by a rounding error.
    steps = math.ceil(round(own.epochs * examples / own.batch_size, 6))
    if steps > (most := program_flags.LARGEST_INTEGER):
        raise ValueError(f"--epochs={own.epochs:g} are {steps:,} updates, more than {most:,}")
    return max(steps, 1)
