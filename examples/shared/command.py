"""What all command lines share: flags, errors of one line, and a bar while they train."""

import contextlib
import functools
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import rich.console
import rich.markdown
import rich.progress
from absl import app, flags, logging
from absl.testing import flagsaver

from examples.shared import leaving, streams
from optimiz import compare, diagnostics, training

EXIT_ERROR, EXIT_USAGE = 1, 2
LARGEST_INTEGER, LARGEST_FLOAT = 2**31 - 1, 1e30  # an array holds both, and products with the second

# Of what has the same name in all programs: beyond what any model that they train could use, and far below what
# would take a machine's memory.
_LARGEST = {
    "batch_size": 2**16,
    "heads": 2**16,
    "hidden_size": 2**16,
    "image_size": 2**12,
    "layers": 1000,
    "length": 2**17,
    "seeds": 10_000,
    "vocab_size": 2**20,
    "width": 2**16,
}

_HEADLINES = ("accuracy", "bits_per_byte")  # of an evaluation, the figure to show while a run goes on

_DEBUG = flags.DEFINE_bool("debug", False, "On an error, show where in the code it was raised.")
flags.disclaim_key_flags()  # those below are the programs'


class _PathParser(flags.ArgumentParser):
    """Takes a first ``~`` for a home, as no shell does in ``--output=~/runs``."""

    def parse(self, argument: str) -> str:
        if not argument.strip():
            raise ValueError("a path must not be empty")
        if not argument.startswith("~"):
            return argument
        try:
            return str(Path(argument).expanduser())
        except RuntimeError:
            raise ValueError(
                f"nobody's home is known as {argument!r}; for a name, write ./{argument}"
            ) from None


class Flags(flags.FlagValues):
    """The flags of one program, apart from those of others: two programs can be imported into one process.

    What no flag of any program can mean is refused here: a number below 0, not finite or beyond what an array
    holds, an empty text, a list with nothing in it or with the same twice. `check` and its kind refuse more.
    """

    def _define(self, define: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return define(*args, flag_values=self, **kwargs)

    def DEFINE_float(self, *args: Any) -> flags.FlagHolder:
        """A number in [0, LARGEST_FLOAT]; `check` may ask for more."""
        holder = flags.DEFINE_float(*args, flag_values=self)
        check(lambda x: 0 <= x <= LARGEST_FLOAT, "must be finite, at least 0 and at most 1e30", holder)
        return holder

    def DEFINE_integer(self, name: str, *args: Any, lower_bound: int = 0) -> flags.FlagHolder:
        """A number from lower_bound on."""
        bounds = {"lower_bound": lower_bound, "upper_bound": _LARGEST.get(name, LARGEST_INTEGER)}
        return flags.DEFINE_integer(name, *args, flag_values=self, **bounds)

    def DEFINE_list(self, *args: Any) -> flags.FlagHolder:
        """One or more, divided by commas, each once."""
        holder = flags.DEFINE_list(*args, flag_values=self)
        check(lambda items: items and all(items), "must not be empty, nor have anything empty in it", holder)
        check(lambda items: len({*items}) == len(items), "must have each once", holder)
        return holder

    def DEFINE_string(self, *args: Any, may_be_empty: bool = False) -> flags.FlagHolder:
        """A text."""
        holder = flags.DEFINE_string(*args, flag_values=self)
        check(lambda text: may_be_empty or text, "must not be empty", holder)
        return holder

    DEFINE_bool = functools.partialmethod(_define, flags.DEFINE_bool)
    DEFINE_enum = functools.partialmethod(_define, flags.DEFINE_enum)
    DEFINE_path = functools.partialmethod(
        _define, functools.partial(flags.DEFINE, _PathParser(), serializer=flags.ArgumentSerializer())
    )

    def join(self, program: str) -> None:
        """Join the flags of the process, at their defaults.

        Args:
            program: whose --help shows them, also those that another module defines for it.
        """
        self.unparse_flags()
        flags.FLAGS.append_flag_values(self)
        for members in self.flags_by_module_dict().values():
            for flag in members:
                flags.FLAGS.register_key_flag_for_module(program, flag)
        self.mark_as_parsed()


def run(main: Callable[[], None], own: Flags) -> NoReturn:
    """Parse a program's flags and call its ``main``.

    Exit codes: 0 done, 1 the run cannot go on, 2 the flags or the files that they name are wrong,
    ``training.EXIT_PREEMPTED`` (75) asked to leave, and what there was to save is saved, 130 interrupted
    outside of a run or a second time within one.
    """
    streams.keep()
    leaving.at_once()
    # Orbax tells each of its steps at the level that absl shows by default.
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(lambda _: guarded(main), flags_parser=lambda argv: parse(argv, own))
    except SystemExit as exit:
        # What has failed may leave threads that never end, or that tell of it once more. Of several processes
        # each goes the long way, which tells the others.
        if exit.code in (EXIT_ERROR, EXIT_USAGE) and jax.process_count() == 1:
            sys.stdout.flush()
            os._exit(exit.code)
        raise
    raise AssertionError("app.run does not return")


def guarded(main: Callable[[], None]) -> None:
    """Call ``main``; an error that its user can mend becomes one line, and the exit code."""
    try:
        main()
    except (ValueError, TypeError, OSError, ImportError, training.RunError) as error:
        if _DEBUG.value:
            raise
        goes_on = isinstance(error, training.RunError) and not isinstance(error, training.UnusableDirectory)
        _exit(_in_flags(error), EXIT_ERROR if goes_on else EXIT_USAGE)


def _in_flags(error: Exception) -> Exception | str:
    """What an error says, in terms of flags."""
    if isinstance(error, training.RunExists):
        return f"{error.directory} holds a run: go on with it (--resume), or choose another --output"
    if isinstance(error, training.OtherSettings) and {"steps", "settings.steps"} & {*error.names}:
        return (
            f"{error}; the learning rate follows --steps from its warm-up to its end: choose another --output"
        )
    return error


def parse(argv: Sequence[str], own: Flags) -> list[str]:
    """Parse a program's flags; a mistake becomes one line, and the exit code."""
    own.join(argv[0])
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        _exit(error, EXIT_USAGE)
    if len(rest) > 1:
        _exit(f"flags begin with --, got {' '.join(rest[1:])}", EXIT_USAGE)
    return rest


def check(holds: Callable[[Any], Any], domain: str, *holders: flags.FlagHolder) -> None:
    """Refuse values of flags outside a domain, when they are parsed; None passes.

    Args:
        holds: whether a value is inside; false for NaN.
        domain: the same in words, such as "must be in [0, 1)".
        *holders: the flags.
    """
    for holder in holders:
        flags.register_validator(holder, lambda value: value is None or holds(value), domain)


def check_each(known: Callable[[str], Any], *holders: flags.FlagHolder) -> None:
    """Refuse values, or items of lists, for which a function raises a ValueError, when they are parsed.

    Args:
        known: value → anything; the message of its error is shown.
        *holders: the flags.
    """

    def hold(value: Any) -> bool:
        try:
            for item in value if isinstance(value, list) else [] if value is None else [value]:
                known(item)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from None
        return True

    for holder in holders:
        flags.register_validator(holder, hold)


def check_among(known: Iterable[str], *holders: flags.FlagHolder) -> None:
    """Refuse items of lists that are not among those known."""
    names = list(known)
    check(lambda items: {*items} <= {*names}, f"must be of {', '.join(names)}", *holders)


def check_rates(*holders: flags.FlagHolder) -> None:
    """Refuse lists of anything but different numbers above 0."""

    def number(item: str) -> float:
        try:
            return float(item)
        except ValueError:
            return math.nan

    domain = "must be different numbers above 0 and at most 1e30"
    check(lambda items: all(0 < number(item) <= LARGEST_FLOAT for item in items), domain, *holders)
    check(lambda items: len({*map(number, items)}) == len(items), domain, *holders)


def check_together(
    holds: Callable[[dict[str, Any]], Any], domain: str, own: Flags, *holders: flags.FlagHolder
) -> None:
    """Refuse values of flags that do not go together, when they are parsed.

    Args:
        holds: name → value, to whether they go together, or to a ValueError with a message of its own.
        domain: the same in words.
        own: flags that these are of.
        *holders: the flags.
    """

    def hold(values: dict[str, Any]) -> bool:
        try:
            return bool(holds(values))
        except ValueError as error:
            raise flags.ValidationError(str(error)) from None

    names = [holder.name for holder in holders]
    flags.register_multi_flags_validator(names, hold, domain, flag_values=own)


@contextlib.contextmanager
def arguments(name: str, argv: Sequence[str], own: Flags) -> Iterator[None]:
    """Give another program's flags the values that it is to be called with, while it is asked about them.

    Args:
        name: of the flag that holds the arguments, for messages.
        argv: the arguments.
        own: the other program's flags; afterwards they have their values again.

    Raises:
        ValueError: the arguments are refused, as they are parsed or in the body.
    """
    saved = flagsaver.save_flag_values(own)
    try:
        own.unparse_flags()
        rest = own([name, *argv])
        if len(rest) > 1:
            raise ValueError(f"flags begin with --, got {' '.join(rest[1:])}")
        yield
    except (flags.Error, ValueError, OSError) as error:
        raise ValueError(f"--{name}: {error}") from None
    finally:
        flagsaver.restore_flag_values(saved, own)


def typed(program: str) -> str:
    """The command line of a program in this folder, for a report."""
    return shlex.join(["python", "-m", f"examples.{program}", *sys.argv[1:]])


def _exit(error: Exception | str, code: int) -> NoReturn:
    print("error:", compare.shown(" ".join(str(error).split())), file=sys.stderr)
    sys.exit(code)


def show(markdown: str) -> None:
    """Print Markdown: set on a terminal, else as it is."""
    console = rich.console.Console()
    shown = rich.markdown.Markdown(markdown) if console.is_terminal else markdown
    console.print(shown, soft_wrap=True, markup=False, highlight=False, emoji=False)


@contextlib.contextmanager
def bar(title: str, examples_per_step: int) -> Iterator[Callable[[training.Progress], None]]:
    """Show a run's progress, a bar on a terminal, else a line at every look; and its troubles, each once.

    Args:
        title: what runs.
        examples_per_step: for the speed.

    Yields:
        The function that ``training.fit`` calls at every look.
    """
    console = rich.console.Console()
    shown: dict[str, str] = {}
    told = troubles(console, title)

    def describe(progress: training.Progress) -> str:
        headlines = [name for name in _HEADLINES if name in progress.figures]
        name = headlines[0] if headlines else "loss"
        shown[f"validation {name}" if headlines else name] = f"{progress.figures[name]:.3f}"
        if progress.seconds > 0:
            shown["examples/s"] = f"{examples_per_step * progress.steps / progress.seconds:.0f}"
        return "  ".join(f"{name} {value}" for name, value in shown.items())

    if not console.is_terminal:

        def line(progress: training.Progress) -> None:
            told(progress)
            console.print(f"{title}  {progress.steps}/{progress.total}  {describe(progress)}", soft_wrap=True)

        yield line
        return
    columns: list[Any] = ["{task.description}", rich.progress.BarColumn()]
    columns += [rich.progress.MofNCompleteColumn(), "{task.fields[figures]}"]
    columns += [rich.progress.TimeRemainingColumn(compact=True), "left"]
    with rich.progress.Progress(*columns, console=console) as display:
        task = display.add_task(title, total=None, figures="compiling")

        def update(progress: training.Progress) -> None:
            told(progress)  # above the bar
            figures = describe(progress)
            display.update(task, total=progress.total, completed=progress.steps, figures=figures)

        yield update


@contextlib.contextmanager
def matrix_bar() -> Iterator[Callable[[compare.MatrixProgress], None]]:
    """Show how far a matrix of runs is, as :func:`bar` does, and each run's troubles, each once.

    Yields:
        The function that ``compare.run_matrix`` calls at every look.
    """
    console, told = rich.console.Console(), {}

    def tell(progress: compare.MatrixProgress) -> None:
        run = f"{progress.arm}, seed {progress.seed}"
        if run not in told:
            told.clear()  # the run before is over
            told[run] = troubles(console, run)
        told[run](progress.within)

    if not console.is_terminal:
        yield lambda progress: (tell(progress), console.print(str(progress), soft_wrap=True))
        return
    with rich.progress.Progress("{task.description}", rich.progress.BarColumn(), console=console) as display:
        task = display.add_task("measuring prices", total=1.0)

        def update(progress: compare.MatrixProgress) -> None:
            tell(progress)  # above the bar
            display.update(task, completed=progress.share, description=str(progress))

        yield update


def troubles(console: rich.console.Console, title: str) -> Callable[[training.Progress], None]:
    """A function that prints what is wrong with a run, with a remedy, when it is first seen.

    Args:
        console: where to print; one with a bar prints above it.
        title: what runs.
    """
    watch = diagnostics.Watch()

    def tell(progress: training.Progress) -> None:
        for finding in watch(progress.rows, progress.share):
            console.print(f"{title}: {finding}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    return tell
