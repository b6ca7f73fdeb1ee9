"""A digest of a traced function: the same in every process for the same computation, whatever else was traced.

It covers the operations in order, with all numbers in them: literals, parameters, constants. It omits what may
differ for the same computation: addresses, source locations, names of variables.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

_WHOLE = 2**22  # bytes of a constant; a larger one is data, and only its shape and dtype are hashed
_PLACES = ("debug_info", "name_and_src_info", "src_info", "source_info")


def trace_digest(closed: ClosedJaxpr) -> str:
    """The digest of a traced function, in hexadecimal.

    Args:
        closed: the trace, from ``jax.jit(f).trace(...).jaxpr`` or ``jax.make_jaxpr(f)(...)``.

    Example:
        >>> digest_of = lambda b: trace_digest(jax.make_jaxpr(lambda x: b * x)(1.0))
        >>> digest_of(0.9) == digest_of(0.9), digest_of(0.9) == digest_of(0.95)
        (True, False)
    """
    return _Digest().of(closed)


class _Digest:
    def __init__(self) -> None:
        # A function that is called repeatedly is walked once. The jaxpr is kept, so that its id stays unique.
        self._known: dict[int, tuple[Jaxpr, str]] = {}

    def of(self, value: Any) -> str:
        """A text that represents a value."""
        if isinstance(value, ClosedJaxpr):
            return f"{self._jaxpr(value.jaxpr)} {[self._array(const) for const in value.consts]}"
        if isinstance(value, Jaxpr):
            return self._jaxpr(value)
        if isinstance(value, (np.ndarray, np.generic, jax.Array)):
            return self._array(value)
        if value is None or isinstance(
            value, bool | int | float | complex | str | bytes | enum.Enum | np.dtype
        ):
            return repr(value)
        if isinstance(value, Mapping):
            items = sorted((str(name), item) for name, item in value.items() if name not in _PLACES)
            return str([(name, self.of(item)) for name, item in items])
        if isinstance(value, set | frozenset):
            return str(sorted(map(self.of, value)))
        if isinstance(value, tuple | list):
            return f"{type(value).__name__}{[self.of(item) for item in value]}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return type(value).__name__ + self.of(fields)
        # Functions, meshes, shardings: how they are made differs from process to process.
        return getattr(value, "__name__", type(value).__name__)

    def _jaxpr(self, jaxpr: Jaxpr) -> str:
        if id(jaxpr) not in self._known:
            self._known[id(jaxpr)] = jaxpr, self._walked(jaxpr)
        return self._known[id(jaxpr)][1]

    def _walked(self, jaxpr: Jaxpr) -> str:
        digest = hashlib.sha256()
        numbers: dict[Any, int] = {}

        def name(atom: Any) -> str:
            if isinstance(atom, Literal):
                return self.of(atom.val) + _type(atom.aval)
            return f"{numbers.setdefault(atom, len(numbers))}{_type(atom.aval)}"

        for atoms in (jaxpr.constvars, jaxpr.invars):
            digest.update(str([name(atom) for atom in atoms]).encode())
        for equation in jaxpr.eqns:
            described = [equation.primitive.name, self.of(equation.params)]
            described += [[name(atom) for atom in atoms] for atoms in (equation.invars, equation.outvars)]
            digest.update(str(described).encode())
        digest.update(str([name(atom) for atom in jaxpr.outvars]).encode())
        return digest.hexdigest()

    @staticmethod
    def _array(array: Any) -> str:
        if not hasattr(array, "dtype"):
            return repr(array)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        known = f"{array.dtype}{list(array.shape)}"
        if array.nbytes > _WHOLE:
            return known
        return f"{known} {hashlib.sha256(np.asarray(array).tobytes()).hexdigest()}"


def _type(aval: Any) -> str:
    if not hasattr(aval, "dtype"):
        return type(aval).__name__
    return f":{aval.dtype}{list(getattr(aval, 'shape', ()))}{'*' * bool(getattr(aval, 'weak_type', False))}"
