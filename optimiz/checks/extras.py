"""Packages that JAX and Optax do not bring: an error names the extra that installs them."""

import importlib.util


def installed(what: str, extra: str, *packages: str) -> None:
    """Check that packages are installed.

    Args:
        what: name of what needs the packages, for the message.
        extra: extra of ``optimiz`` that installs them.
        *packages: names to import.

    Raises:
        ModuleNotFoundError: a package is missing; the message says what to install.

    Example:
        >>> installed("optimiz.compare", "train", "no_such_package")
        Traceback (most recent call last):
        ModuleNotFoundError: optimiz.compare needs no_such_package: pip install "optimiz-jax[train]"
    """
    missing = [name for name in packages if not _is_there(name)]
    if missing:
        raise ModuleNotFoundError(
            f'{what} needs {", ".join(missing)}: pip install "optimiz-jax[{extra}]"', name=missing[0]
        )


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
