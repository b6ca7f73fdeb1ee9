"""Check an optimizer against the promises, all at once or one by one as tests."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import optax
import pytest

from optimiz.testing.contract import PROMISES
from optimiz.testing.promise import BrokenPromise, NotApplicable, Promise
from optimiz.testing.report import BROKEN, KEPT, NOT_APPLICABLE, Outcome, Report
from optimiz.testing.subject import Subject


@dataclasses.dataclass(frozen=True)
class Case:
    """A promise and the optimizer that should keep it: one test.

    Attributes:
        promise: the promise.
        subject: the optimizer.
    """

    promise: Promise
    subject: Subject

    def __str__(self) -> str:
        return self.promise.name

    def check(self) -> None:
        """Check the promise.

        Raises:
            NotApplicable: the promise does not apply; pytest reports a skipped test.
            BrokenPromise: the optimizer breaks it.
        """
        self.promise.check(self.subject)

    def outcome(self) -> Outcome:
        """Check the promise, and return the outcome instead of raising.

        Returns:
            The outcome.
        """
        started = time.perf_counter()
        status, message = KEPT, ""
        try:
            self.check()
        except NotApplicable as reason:
            status, message = NOT_APPLICABLE, str(reason)
        except BrokenPromise as broken:
            status, message = BROKEN, str(broken)
        return Outcome(self.promise, status, message, time.perf_counter() - started)


Factory = Callable[..., optax.GradientTransformation]


def _subject(factory: Subject | Factory, options: dict[str, Any]) -> Subject:
    if not isinstance(factory, Subject):
        factory, options = Subject(factory, **options), {}
    subject = dataclasses.replace(factory, **options) if options else factory
    _known("exempt", subject.exempt)
    return subject


def _known(argument: str, names: Iterable[str]) -> None:
    known = {promise.name for promise in PROMISES}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{argument} must name promises of optimiz.testing.PROMISES, got {unknown[0]!r}")


def promises(factory: Subject | Factory, *, conventions: bool = False, **options: Any) -> list[Case]:
    """The promises that an optimizer should keep, as cases for a test to check.

    Args:
        factory: learning rate → the optimizer; or a :class:`Subject`.
        conventions: whether to include the promises that are conventions of this suite.
        **options: further fields of :class:`Subject`.

    Returns:
        A case for each promise; its ``check()`` raises if the promise is broken.

    Raises:
        TypeError: ``factory`` does not make an optimizer from a learning rate.
        ValueError: a name in ``exempt`` is not that of a promise.

    Example:
        >>> case = promises(optax.sgd)[0]
        >>> str(case), case.check()
        ('state keeps its tree, shapes, dtypes and weak types', None)
    """
    subject = _subject(factory, options)
    return [Case(promise, subject) for promise in PROMISES if conventions or not promise.convention]


def check(
    factory: Subject | Factory,
    *,
    conventions: bool = False,
    only: Iterable[str] | None = None,
    **options: Any,
) -> Report:
    """Check an optimizer against the promises.

    Args:
        factory: learning rate → the optimizer; or a :class:`Subject`.
        conventions: whether to include the promises that are conventions of this suite.
        only: names of promises to check; None for all.
        **options: further fields of :class:`Subject`.

    Returns:
        The report. A broken promise raises nothing here; see :meth:`Report.raise_for_failures`.

    Raises:
        TypeError: ``factory`` does not make an optimizer from a learning rate.
        ValueError: a name in ``only`` or ``exempt`` is not that of a promise.

    Example:
        >>> report = check(optax.sgd, rate=0.1, only=["jit equals eager"])
        >>> print(report)
        sgd: 1 kept, 0 broken, 0 not applicable
          ✓ jit equals eager
        >>> report.raise_for_failures()
    """
    subject = _subject(factory, options)
    chosen = promises(subject, conventions=conventions)
    if only is not None:
        only = list(only)
        _known("only", only)
        chosen = [case for case in chosen if case.promise.name in only]
    return Report(str(subject), tuple(case.outcome() for case in chosen))


def parametrize(factory: Subject | Factory, *, conventions: bool = False, **options: Any) -> Any:
    """Parametrize a test by the promises of an optimizer, as its argument ``promise``.

    Args:
        factory: learning rate → the optimizer; or a :class:`Subject`.
        conventions: whether to include the promises that are conventions of this suite.
        **options: further fields of :class:`Subject`.

    Returns:
        A decorator.

    Example:
        >>> @parametrize(optax.sgd, rate=0.1)
        ... def test_contract(promise):
        ...     promise.check()
    """
    return pytest.mark.parametrize("promise", promises(factory, conventions=conventions, **options), ids=str)
