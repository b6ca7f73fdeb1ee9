"""Where compiled programs are kept: a program that starts again, or resumes, need not compile them again."""

import hashlib
import os
import platform
from pathlib import Path

import jax


def keep() -> None:
    """Keep what takes a second or longer to compile in the user's cache, unless JAX is told where, or not to.

    JAX's own settings decide: ``JAX_COMPILATION_CACHE_DIR`` is another place, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` none.
    """
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(_folder()))


def _folder() -> Path:
    """A folder of its own for each kind of CPU: a home may be shared between machines."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "optimiz" / "programs" / f"{platform.machine()}-{_cpu()}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # another operating system
        lines = [platform.processor()]
    kinds = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return hashlib.sha256("\n".join(sorted(kinds or lines)).encode()).hexdigest()[:12]
