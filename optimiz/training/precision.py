"""In which dtypes a run's parameters are, and in which its loss computes.

The loss sees the matrices of the parameters in the dtype of computation. A gradient passes back through that
conversion, so that parameters, gradients and the optimizer's state are in the parameters' own dtype:

    Precision()                                                   everything in float32
    Precision(compute=jnp.bfloat16)                               mixed: float32 parameters, bfloat16 products
    Precision(params=jnp.bfloat16, compute=jnp.bfloat16)          bfloat16 parameters too

Scales and biases, and everything else of rank 0 or 1, stay in the parameters' dtype: they take no memory, and
norms are computed in float32. A model computes a product in the dtype of its matrix, and norms, softmax and
loss in float32; those of ``examples.models`` do. bfloat16 has float32's range, so no loss is scaled.

Source: Micikevicius et al., "Mixed Precision Training" (arXiv 1710.03740); Kalamkar et al., "A Study of
BFLOAT16 for Deep Learning Training" (arXiv 1905.12322).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optimiz import groups
from optimiz.training.task import Task

_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes of a run's parameters and of its computation.

    Args:
        params: dtype of the parameters, float32 or bfloat16. Steps below the resolution of bfloat16 are lost
            unless ``optimiz.stochastic_rounding`` or ``optimiz.kahan`` is the last of the optimizer's chain.
        compute: dtype of the matrices that the loss sees, likewise; not wider than ``params``.

    Raises:
        ValueError: a dtype is neither, or the computation is wider than the parameters. float16, whose range is
            too small for gradients, would need a scaled loss.

    Example:
        >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        >>> jax.tree.map(lambda x: x.dtype.name, Precision(compute=jnp.bfloat16).cast(params))
        {'bias': 'float32', 'kernel': 'bfloat16'}
    """

    params: Any = jnp.float32
    compute: Any = jnp.float32

    def __post_init__(self) -> None:
        for name in ("params", "compute"):
            try:
                dtype = jnp.dtype(getattr(self, name))
            except TypeError:
                dtype = None
            if dtype is None or dtype.name not in _DTYPES:
                raise ValueError(f"{name} must be {' or '.join(_DTYPES)}, got {getattr(self, name)!r}")
            object.__setattr__(self, name, dtype)
        if self.compute.itemsize > self.params.itemsize:
            raise ValueError(f"compute must not be wider than params, got {self.compute} and {self.params}")

    def cast(self, params: Any) -> Any:
        """The parameters as the loss sees them: matrices in the dtype of computation; traceable.

        Args:
            params: parameters. Those that have no weight decay by convention, see ``groups.no_decay``, and
                integers are returned as they are.
        """

        def narrow(leaf: jax.Array, is_matrix: bool) -> jax.Array:
            is_wide = is_matrix and jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.asarray(leaf).astype(self.compute) if is_wide else leaf

        return jax.tree.map(narrow, params, groups.no_decay()(params))

    def task(self, task: Task) -> Task:
        """The task in these dtypes.

        Its initial parameters have the dtype of the parameters, and its ``loss`` and ``logits`` see them as
        :meth:`cast` gives them. So are frozen arrays, for the whole run. ``evaluate`` sees the parameters
        themselves.
        """
        if self == Precision():
            return task

        def init(key: jax.Array) -> Any:
            return jax.tree.map(lambda leaf: leaf.astype(self.params), task.init(key))

        def narrow(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda params, *args, **given: function(self.cast(params), *args, **given)

        frozen, logits = task.frozen, task.logits
        return dataclasses.replace(
            task,
            init=init,
            loss=narrow(task.loss),
            logits=None if logits is None else narrow(logits),
            frozen=None if frozen is None else lambda key: self.cast(frozen(key)),
        )
