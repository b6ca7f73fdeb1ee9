"""A promise: one property of an optimizer, why it matters, and a check for it."""

import dataclasses
import unittest
from collections.abc import Callable

from optimiz.testing.subject import Subject


class BrokenPromise(AssertionError):
    """An optimizer breaks a promise; the message names the leaf, the dtype and the step where it does."""


class NotApplicable(unittest.SkipTest):
    """A promise does not apply to an optimizer, for the reason given. pytest reports it as a skipped test."""


def always(subject: Subject) -> str | None:
    """Return None: the promise applies to every optimizer."""
    return None


@dataclasses.dataclass(frozen=True)
class Promise:
    """One property that an optimizer should have.

    Attributes:
        name: the promise in words.
        why: what goes wrong for a user if the promise is broken.
        test: a function that raises if a subject breaks the promise.
        applies_to: subject → the reason why the promise does not apply to it, or None if it does.
        convention: whether an optimizer may reasonably decide otherwise: the promise is a convention of this
            suite rather than a requirement of JAX or Optax.
        theme: the module in which the promise is defined.
    """

    name: str
    why: str
    test: Callable[[Subject], None]
    applies_to: Callable[[Subject], str | None] = always
    convention: bool = False
    theme: str = ""

    def __str__(self) -> str:
        return self.name

    def check(self, subject: Subject) -> None:
        """Check that a subject keeps this promise.

        Args:
            subject: the optimizer and how to use it.

        Raises:
            NotApplicable: the promise does not apply to the subject.
            BrokenPromise: the optimizer breaks it.
        """
        if reason := subject.exempt.get(self.name) or self.applies_to(subject):
            raise NotApplicable(reason)
        try:
            self.test(subject)
        except NotApplicable:
            raise
        except AssertionError as error:
            raise BrokenPromise(f"{subject} breaks {self.name!r}: {error}") from error
        except Exception as error:
            message = f"{type(error).__name__}: {error}".strip()
            raise BrokenPromise(f"{subject} breaks {self.name!r}: {message}") from error


def promise(
    name: str, *, applies_to: Callable[[Subject], str | None] = always, convention: bool = False
) -> Callable[[Callable[[Subject], None]], Promise]:
    """Turn a check into a promise. The check's docstring says why the promise matters.

    Args:
        name: the promise in words.
        applies_to: subject → the reason why the promise does not apply to it, or None if it does.
        convention: whether an optimizer may reasonably decide otherwise.

    Returns:
        A decorator.

    Example:
        >>> @promise("it has a name")
        ... def it_has_a_name(subject):
        ...     '''Error messages need a name.'''
        ...     assert str(subject)
        >>> it_has_a_name.name, it_has_a_name.why
        ('it has a name', 'Error messages need a name.')
    """

    def made(test: Callable[[Subject], None]) -> Promise:
        why = " ".join((test.__doc__ or "").split())
        return Promise(name, why, test, applies_to, convention, test.__module__.rpartition(".")[2])

    return made
