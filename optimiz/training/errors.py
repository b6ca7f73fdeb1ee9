"""The errors of a run, each with a message of one line."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path


class RunError(Exception):
    """A run cannot start, continue or be resumed; the message is one line for its user."""


class OtherSettings(RunError):
    """The directory holds a run that was started with other settings.

    Attributes:
        names: the names of the settings that differ.
    """

    def __init__(self, message: str, names: Sequence[str] = ()):
        super().__init__(message)
        self.names = tuple(names)


class DoesNotFit(RunError):
    """A step needs more memory than a device has; nothing has been trained.

    Attributes:
        needed: bytes that it needs on a device; None if the compiler does not say.
        available: bytes that a device has; None if it does not say.
    """

    def __init__(self, needed: int | None, available: int | None):
        needs = "memory" if needed is None else f"{needed / 2**30:.3g} GiB"
        has = "it has" if available is None else f"its {available / 2**30:.3g} GiB"
        super().__init__(
            f"a step needs {needs} on a device, more than {has}: use micro-batches or a smaller batch, compute "
            "layers again in the backward pass, or keep parameters or state in fewer bits or on more devices"
        )
        self.needed, self.available = needed, available


class UnusableDirectory(RunError):
    """The directory cannot be used for a run; nothing has been trained."""


class RunExists(UnusableDirectory):
    """The directory holds a run, and neither ``resume`` nor ``overwrite`` was given.

    Attributes:
        directory: its absolute path.
    """

    def __init__(self, directory: Path):
        super().__init__(
            f"{directory} holds a run: continue it (resume=True), delete it and start over (overwrite=True), "
            "or choose another directory"
        )
        self.directory = directory


@contextlib.contextmanager
def as_run_error(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` from the body into a one-line ``RunError`` that names the path.

    Args:
        path: the path to name if the error does not name one.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or path}: {error.strerror or one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The first line of an error's message; the name of its class if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
