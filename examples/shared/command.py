"""The start and the end of every program: parsing, one-line errors, exit codes."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging
from absl.testing import flagsaver

from examples.shared import compiled_programs, signals, streams
from examples.shared.program_flags import Flags
from optimiz import compare, training

EXIT_ERROR, EXIT_USAGE = 1, 2

_DEBUG = flags.DEFINE_bool("debug", False, "On an error, show where in the code it was raised.")
flags.disclaim_key_flags()  # the flags below belong to the programs


def run(main: Callable[[], None], own: Flags) -> NoReturn:
    """Parse a program's flags and call its ``main``.

    Exit codes: 0 done; 1 the run cannot continue; 2 the flags or the files that they name are wrong;
    ``training.EXIT_PREEMPTED`` (75) preempted, with everything saved; 130 interrupted outside of a run, or a
    second time within one.
    """
    streams.keep()
    signals.exit_at_once()
    compiled_programs.keep()
    # Orbax logs each of its steps at the level that absl shows by default.
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(lambda _: guarded(main), flags_parser=lambda argv: parse(argv, own))
    except SystemExit as exit:
        # A failure may leave threads that never end, or that report it again. With several processes, each
        # shuts down fully, which informs the others.
        if exit.code in (EXIT_ERROR, EXIT_USAGE) and jax.process_count() == 1:
            sys.stdout.flush()
            os._exit(exit.code)
        raise
    raise AssertionError("app.run does not return")


def guarded(main: Callable[[], None]) -> None:
    """Call ``main``; an error that the user can fix becomes one line and an exit code."""
    try:
        main()
    except (ValueError, TypeError, OSError, ImportError, training.RunError) as error:
        if _DEBUG.value:
            raise
        can_resume = isinstance(error, training.RunError) and not isinstance(error, training.UnusableDirectory)
        _exit(_in_flags(error), EXIT_ERROR if can_resume else EXIT_USAGE)


def _in_flags(error: Exception) -> Exception | str:
    """The error with its message in terms of flags."""
    if isinstance(error, training.RunExists):
        return f"{error.directory} holds a run: continue it with --resume, or choose another --output"
    if isinstance(error, training.DoesNotFit):
        remedies = ("accumulate", "remat", "precision", "state", "offload", "batch_size")
        return f"{error}; see {', '.join(f'--{name}' for name in remedies if name in flags.FLAGS)}"
    if isinstance(error, training.OtherSettings) and {"steps", "settings.steps"} & {*error.names}:
        if "init" not in flags.FLAGS:
            return f"{error}; the learning rate follows --steps to its end: choose another --output"
        return (
            f"{error}; --resume takes more --steps, never fewer, and only where nothing follows their number: "
            "--schedule=constant --warmup=0, no --average=tail:S, no --patience. Choose another --output and "
            "--init=RUN to begin with its parameters"
        )
    if isinstance(error, training.OtherSettings) and "settings.keep_best" in error.names:
        return f"{error}; --resume takes the --keep and --patience of before, or choose another --output"
    return error


def parse(argv: Sequence[str], own: Flags) -> list[str]:
    """Parse a program's flags; an error becomes one line and an exit code, and help is no error."""
    own.join(argv[0])
    try:
        rest = flags.FLAGS(list(argv))
    except SystemExit:  # of --help, after which absl exits with 1
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        _exit(f"{error}; --help lists the flags", EXIT_USAGE)
    except flags.Error as error:
        _exit(error, EXIT_USAGE)
    if len(rest) > 1:
        _exit(f"flags must begin with --, got {' '.join(rest[1:])}", EXIT_USAGE)
    return rest


@contextlib.contextmanager
def arguments(name: str, argv: Sequence[str], own: Flags) -> Iterator[None]:
    """Set another program's flags as its command line would, within a ``with`` block.

    Args:
        name: name of the flag that contains the arguments, for messages.
        argv: the arguments.
        own: the other program's flags; their values are restored afterwards.

    Raises:
        ValueError: the arguments are refused, either when they are parsed or in the body.
    """
    saved = flagsaver.save_flag_values(own)
    try:
        own.unparse_flags()
        rest = own([name, *argv])
        if len(rest) > 1:
            raise ValueError(f"flags must begin with --, got {' '.join(rest[1:])}")
        yield
    except (flags.Error, ValueError, OSError) as error:
        raise ValueError(f"--{name}: {error}") from None
    finally:
        flagsaver.restore_flag_values(saved, own)


def typed(program: str) -> str:
    """The command line of a program in ``examples``, for a report."""
    return shlex.join(["python", "-m", f"examples.{program}", *sys.argv[1:]])


def _exit(error: Exception | str, code: int) -> NoReturn:
    print("error:", compare.shown(" ".join(str(error).split())), file=sys.stderr)
    sys.exit(code)
