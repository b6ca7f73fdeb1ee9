"""What has to be installed beside JAX and Optax is asked for by the name of the extra that brings it."""

import importlib.util


def installed(what: str, extra: str, *packages: str) -> None:
    """Refuse what needs packages that are not there.

    Args:
        what: needs them.
        extra: of ``optimiz``, which brings them.
        *packages: names to import.

    Raises:
        ModuleNotFoundError: naming those that are missing, and what to install.

    Example:
        >>> installed("optimiz.compare", "train", "no_such_package")
        Traceback (most recent call last):
        ModuleNotFoundError: optimiz.compare needs no_such_package: pip install "optimiz[train]"
    """
    missing = [name for name in packages if not _is_there(name)]
    if missing:
        raise ModuleNotFoundError(
            f'{what} needs {", ".join(missing)}: pip install "optimiz[{extra}]"', name=missing[0]
        )


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
