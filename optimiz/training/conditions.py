"""What a run computes its numbers under, beside its settings; a resumed run is compared with what was saved.

- How JAX is told to compute: precision of products, 64-bit types, random numbers. Another is refused, by name.
- The step as it was traced: the optimizer with its hyperparameters, the loss, what both hold. Another is
  refused where all of what follows is the same, for that may change the trace too.
- Versions, devices, the mesh and XLA's flags. A run goes on under others, with a warning: from then on its
  numbers may be other than they would have been.
"""

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

from optimiz.training.errors import RunError
from optimiz.training.storage.same_settings import refuse_other_settings

_NUMERICS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
)
_LIBRARIES = ("optimiz", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")
_DEVICES = "--xla_force_host_platform_device_count"  # they are counted anyway

_log = logging.getLogger(__name__)


def conditions(mesh: Mapping[str, int] | None) -> dict[str, dict[str, Any]]:
    """What there is now, as plain JSON, by kind and name.

    Args:
        mesh: axis → size; None for one device.
    """
    kinds = sorted({device.device_kind for device in jax.devices()})
    flags = sorted(flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICES))
    machine = {
        "device": ", ".join(kinds),
        "mesh": json.dumps(mesh and dict(mesh)),
        "XLA_FLAGS": " ".join(flags),
    }
    numerics = {name: getattr(jax.config, name) for name in _NUMERICS if hasattr(jax.config, name)}
    return {"numerics": numerics, "versions": _versions(), "machine": machine}


def refuse_other_numerics(place: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Refuse to go on where JAX is told to compute otherwise.

    Args:
        place: the run, for the message.
        saved: the conditions of its checkpoint; one of an earlier version says nothing.
        present: those that are there now.

    Raises:
        RunError: naming each option that differs.
    """
    told = {"jax.config": saved.get("numerics", present["numerics"])}
    refuse_other_settings(place, told, {"jax.config": present["numerics"]})


def warn_of_others(place: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    """Warn where a run goes on under other versions, or on another machine.

    Args:
        place: the run, for the warning.
        saved: the conditions of its checkpoint.
        present: those that are there now.

    Returns:
        Whether all are known to be the same, so that the step must be traced as it was.
    """
    if not saved:
        return False
    differing = [
        f"{name} was {was or 'absent'}, is {now or 'absent'}"
        for kind in ("versions", "machine")
        for name in sorted(saved.get(kind, {}).keys() | present[kind].keys())
        if (was := saved.get(kind, {}).get(name)) != (now := present[kind].get(name))
    ]
    if differing:
        _log.warning("%s goes on under other conditions, and may depart: %s", place, "; ".join(differing))
    return not differing


def refuse_other_step(place: str, saved: str | None, present: str, more: str | None = None) -> None:
    """Refuse a step that is traced otherwise than it was.

    Args:
        place: the run, for the message.
        saved: digest of the step when it was saved; None where it is not known.
        present: of that which is there now.
        more: what was said of the number of steps and is said now, where these are to be more; then the step
            must be known to be the same.

    Raises:
        RunError: they differ.
    """
    if more is not None and saved is None:
        raise RunError(
            f"{place}: {more}, and it is not known whether the step is the same, for it was saved under "
            "other versions, or on another machine or mesh: go on there, or begin anew in another directory"
        )
    if more is not None and saved != present:
        raise RunError(
            f"{place}: {more}, and the step is another one with them: a schedule that follows the number of "
            "steps (schedules.over_steps), layers dropped by it, or another change since. A run goes on beyond "
            "its steps where nothing depends on them, as at a constant rate"
        )
    if saved is not None and saved != present:
        raise RunError(
            f"{place} holds a run whose step computed something else: the code, or a number in it, of the "
            "optimizer or the loss has changed since; change it back, or begin anew in another directory"
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):  # used from its source
            found[name] = version(name)
    return found
