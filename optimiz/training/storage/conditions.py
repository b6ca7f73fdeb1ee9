"""What a run's numbers depend on besides its settings, compared on resume with what its checkpoint recorded.

- JAX's numerical options: precision of products, 64-bit types, random numbers. If one differs, the run is
  refused, and the message names the option.
- The step as it was traced: the optimizer with its hyperparameters, the loss, and the data that either holds.
  If it differs, the run is refused, provided that everything in the next item is the same, as that may change
  the trace.
- Versions, devices, the mesh, whether state is offloaded, and XLA's flags. If one differs, the run continues
  with a warning, as its numbers may differ from then on.
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
_DEVICES = "--xla_force_host_platform_device_count"  # the devices are recorded anyway

_log = logging.getLogger(__name__)


def conditions(mesh: Mapping[str, int] | None, offload_state: bool = False) -> dict[str, dict[str, Any]]:
    """The current conditions, as plain JSON, by kind and name.

    Args:
        mesh: the size of each axis of the mesh, by name; None for one device.
        offload_state: whether the optimizer's state lies in the host's memory.
    """
    kinds = sorted({device.device_kind for device in jax.devices()})
    flags = sorted(flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICES))
    machine = {
        "device": ", ".join(kinds),
        "mesh": json.dumps(mesh and dict(mesh)),
        "XLA_FLAGS": " ".join(flags),
    }
    if offload_state:
        machine["offload_state"] = "true"
    numerics = {name: getattr(jax.config, name) for name in _NUMERICS if hasattr(jax.config, name)}
    return {"numerics": numerics, "versions": _versions(), "machine": machine}


def refuse_other_numerics(place: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Refuse to continue a run under other numerical options of JAX.

    Args:
        place: the run, for the message.
        saved: the conditions of its checkpoint; empty if an earlier version saved it.
        present: the current conditions.

    Raises:
        RunError: an option differs; the message names every option that does.
    """
    options = {"jax.config": saved.get("numerics", present["numerics"])}
    refuse_other_settings(place, options, {"jax.config": present["numerics"]})


def warn_of_others(place: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    """Warn if a run continues under other versions, or on another machine.

    Args:
        place: the run, for the warning.
        saved: the conditions of its checkpoint.
        present: the current conditions.

    Returns:
        Whether all conditions are known to be the same, so that the trace of the step must be the same too.
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
        _log.warning(
            "%s continues under other conditions, so results may differ: %s", place, "; ".join(differing)
        )
    return not differing


def refuse_other_step(place: str, saved: str | None, present: str, more: str | None = None) -> None:
    """Refuse a step whose trace differs from that of the checkpoint.

    Args:
        place: the run, for the message.
        saved: digest of the step when the checkpoint was saved; None if it cannot be compared.
        present: digest of the current step.
        more: how the number of steps has changed, if it is larger than before; then the step must be known to
            be the same.

    Raises:
        RunError: the digests differ.
    """
    if more is not None and saved is None:
        raise RunError(
            f"{place}: {more}, and it is not known whether the step is the same, as it was saved under other "
            "versions, or on another machine or mesh: continue there, or start over in another directory"
        )
    if more is not None and saved != present:
        raise RunError(
            f"{place}: {more}, and this changes the step: a schedule depends on the number of steps "
            "(schedules.over_steps), or layer dropping does, or something else has changed since. A run can be "
            "extended only if nothing depends on its number of steps, as at a constant learning rate"
        )
    if saved is not None and saved != present:
        raise RunError(
            f"{place} holds a run whose step computed something else: the code of the optimizer or the loss, "
            "or a number in it, has changed since; change it back, or start over in another directory"
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):  # used from its source
            found[name] = version(name)
    return found
