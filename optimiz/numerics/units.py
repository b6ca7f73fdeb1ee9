"""Sums and multiples per unit, a unit being a set of parameters, or of layers of stacked ones.

Labels are a tree of integers u ≥ 0, one per parameter, or of integer arrays that broadcast against the
parameter and give each layer of a stack its unit; -1 is in no unit. They are static and never depend on values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimiz.numerics.precision import compute_dtype


def number_of_units(labels: Any) -> int:
    """One more than the largest label, and at least one.

    Example:
        >>> number_of_units({"stem": 0, "layers": np.array([[1], [2]]), "frozen": -1})
        3
    """
    return 1 + max([0, *(int(np.max(label)) for label in jax.tree.leaves(labels))])


def unit_vdot(labels: Any, a: Any, b: Any, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The inner product of two trees, unit by unit.

    Args:
        labels: units of the parameters, see the module docstring.
        a: a tree of arrays.
        b: a tree of the same shapes.
        dtype: real dtype of the products and sums.

    Returns:
        An array [U]; for complex arrays, the real part of ā b. Parameters in no unit are left out, whatever
        their values.

    Example:
        >>> labels = {"layers": np.array([[0], [1]]), "x": 0}
        >>> a = {"layers": jnp.full((2, 2), 2.0), "x": jnp.ones(3)}
        >>> unit_vdot(labels, a, a, jnp.float32).tolist()
        [11.0, 8.0]
    """
    units = np.arange(number_of_units(labels))

    def leaf(label: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        label = np.reshape(label, (1,) * (x.ndim - np.ndim(label)) + np.shape(label))
        within = tuple(axis for axis, size in enumerate(label.shape) if size == 1)
        product = x.real.astype(dtype) * y.real.astype(dtype)
        if jnp.iscomplexobj(x):
            product += x.imag.astype(dtype) * y.imag.astype(dtype)
        product = jnp.sum(product, axis=within).reshape(-1)
        # A sum, not a matrix product, which accelerators compute with fewer bits.
        return jnp.sum(jnp.where(units[:, None] == label.reshape(-1), product, 0), axis=1)

    parts = jax.tree.map(leaf, labels, a, b)
    return jax.tree.reduce(jnp.add, parts, jnp.zeros(units.shape, dtype))


def unit_scale(labels: Any, coefficients: jax.Array, tree: Any) -> Any:
    """Each parameter times the coefficient of its unit, or times 0 in no unit.

    Args:
        labels: units of the parameters, see the module docstring.
        coefficients: an array [U]; may be traced.
        tree: a tree of arrays.

    Returns:
        A tree of the same shapes, in its leaves' compute dtype.

    Example:
        >>> tree = {"x": jnp.array(1.0), "y": jnp.array(1.0), "frozen": jnp.array(1.0)}
        >>> jax.tree.map(float, unit_scale({"x": 0, "y": 1, "frozen": -1}, jnp.array([2.0, 3.0]), tree))
        {'frozen': 0.0, 'x': 2.0, 'y': 3.0}
    """
    coefficients = jnp.append(coefficients, 0)  # where the label is -1

    def leaf(label: Any, x: jax.Array) -> jax.Array:
        dtype = compute_dtype(x.dtype)
        return coefficients[np.asarray(label)].astype(dtype) * x.astype(dtype)

    return jax.tree.map(leaf, labels, tree)
