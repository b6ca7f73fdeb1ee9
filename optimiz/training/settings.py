"""How long a run goes and when it is looked at, and what makes it this run and no other."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to train, and when to look.

    Args:
        steps: number of updates, ≥ 1.
        seed: of the initial parameters and of dropout, ≥ 0.
        log_every: steps between two looks at the figures, ≥ 1; in between, the host does not wait.
        evaluate_every: steps between two evaluations; 0 for one at the end.
        save_every: steps between two checkpoints; 0 for one at the end.
        keep: number of checkpoints kept, ≥ 1.

    Raises:
        TypeError: a value that is not an integer.
        ValueError: a value outside its range.
    """

    steps: int
    seed: int = 0
    log_every: int = 100
    evaluate_every: int = 0
    save_every: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 1 if field.name in ("steps", "log_every", "keep") else 0
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{field.name} must be an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{field.name} must be at least {least}, got {value}")


def description(settings: Settings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what decides a run's trajectory and its metrics, as plain JSON.

    When to look, when to save and how much to keep decide nothing, and may change on resume.

    Args:
        settings: of the run.
        identity: what else decides it.

    Raises:
        TypeError: naming the entry of ``identity`` that is not plain JSON.
    """
    for name, value in identity.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"identity[{name!r}] is not plain JSON: {error}") from None
    decisive = {name: getattr(settings, name) for name in ("steps", "seed", "evaluate_every")}
    # There and back, so that a tuple is the list it will be when it is read.
    return json.loads(json.dumps({"settings": decisive, "identity": dict(identity)}))
