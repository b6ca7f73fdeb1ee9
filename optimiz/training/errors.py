"""Why a run cannot go on: one class for every kind of trouble, each with a message of one line."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path


class RunError(Exception):
    """A run cannot start, go on or be resumed; the message is one line for who started it."""


class OtherSettings(RunError):
    """A run is there, and it was started with other settings.

    Attributes:
        names: of the settings that differ.
    """

    def __init__(self, message: str, names: Sequence[str] = ()):
        super().__init__(message)
        self.names = tuple(names)


class UnusableDirectory(RunError):
    """The directory cannot be that of a run; nothing has been trained."""


class RunExists(UnusableDirectory):
    """The directory holds a run, and it was not said what is to become of it.

    Attributes:
        directory: the absolute path.
    """

    def __init__(self, directory: Path):
        super().__init__(
            f"{directory} holds a run: go on with it (resume=True), delete it and begin anew (overwrite=True), "
            "or choose another directory"
        )
        self.directory = directory


@contextlib.contextmanager
def as_run_error(path: Path) -> Iterator[None]:
    """Make of the body's trouble with the disk a ``RunError`` of one line that names what it is about.

    Args:
        path: what the body works on, where the error names nothing nearer.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or path}: {error.strerror or one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an error says first; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
