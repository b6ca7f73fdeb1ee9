"""The promises, one module per theme. A report lists them in the order of this module."""

import types

from optimiz.testing.contract import (
    arguments,
    composition,
    containers,
    decay,
    devices,
    dtypes,
    numbers,
    persistence,
    state,
    transformations,
)
from optimiz.testing.promise import Promise


def _of(page: types.ModuleType) -> tuple[Promise, ...]:
    return tuple(value for value in vars(page).values() if isinstance(value, Promise))


PROMISES: tuple[Promise, ...] = (
    *_of(state),
    *_of(dtypes),
    *_of(transformations),
    *_of(composition),
    *_of(numbers),
    *_of(decay),
    *_of(containers),
    *_of(persistence),
    *_of(devices),
    *_of(arguments),
)
"""All promises."""
