"""Fields of a model's configuration that are outside their domain are refused, by name."""

from typing import Any

from examples.models.remat import REMAT


def check_field(config: Any, name: str, holds: bool, domain: str) -> None:
    """Refuse a field of a configuration that is outside its domain, by name.

    Raises:
        ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(f"{name} must be {domain}, got {repr(getattr(config, name))[:100]}")


def check_sizes(config: Any, *names: str) -> None:
    """Refuse fields below 1.

    Raises:
        ValueError: a field is below 1.
    """
    for name in names:
        check_field(config, name, getattr(config, name) >= 1, "at least 1")


def check_rates(config: Any, *names: str) -> None:
    """Refuse dropout rates outside [0, 1).

    Raises:
        ValueError: a rate is outside.
    """
    for name in names:
        check_field(config, name, 0 <= getattr(config, name) < 1, "in [0, 1)")


def check_remat(config: Any) -> None:
    """Refuse a `remat` that is not known.

    Raises:
        ValueError: it is none of REMAT.
    """
    check_field(config, "remat", config.remat in REMAT, f"one of {', '.join(REMAT)}")


def check_slots(config: Any, slots: int) -> None:
    """Refuse to generate more tokens per row, the prompt's included, than a decoder has positions.

    Raises:
        ValueError: there are not as many positions as slots.
    """
    if slots > config.max_positions:
        raise ValueError(
            f"prompts and what follows must have at most {config.max_positions} tokens per row, got {slots}"
        )
