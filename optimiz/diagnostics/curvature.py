r"""Curvature of each block: the largest eigenvalue of the Hessian's diagonal block, by power iteration.

With H_b the Hessian of the loss with respect to block b alone, of size P_b of P, and g_b its gradient,

.. math::
    \lambda_b = \lambda_{\max}(H_b), \qquad
    \Lambda_G = \sum_b \frac{\|g_b\|^2}{\|g\|^2} \lambda_b, \qquad
    \Lambda_P = \sum_b \frac{P_b}{P} \lambda_b

Λ_G is said to govern gradient descent, which is slow where large gradients meet high curvature, and Λ_P sign
descent. λ_b is the algebraic maximum: power iteration on H_b finds the eigenvalue of largest
magnitude, μ, and where that is negative, or was not found, it goes on with H_b + |μ| I, whose eigenvalue of
largest magnitude is λ_b + |μ|. Each product H v is a forward derivative of the gradient.

It has converged when :math:`\|H_b v - \lambda v\| \le \tau\, \max(\|H_b v\|, |\mu|)`, which bounds the distance
from λ to an eigenvalue of H_b.

Source: arXiv 2502.00213 (Tomihari and Sato). The weighted sums have not been checked against it.

Departures from the authors' code: it stops where λ changes by less than a thousandth, which may be long before
λ is found, and looks for a positive eigenvalue among the first five, one after another, without a shift.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.diagnostics.blocks import Labels, partition
from optimiz.diagnostics.heterogeneity import energy_shares


class Curvature(NamedTuple):
    """What :func:`block_curvature` measures; B is the number of blocks."""

    eigenvalue: jax.Array  # [B]: λ_b
    residual: jax.Array  # [B]: ‖H_b v - λ_b v‖, at least the distance from λ_b to an eigenvalue
    converged: jax.Array  # [B]: bool
    products: jax.Array  # [B], int32: number of Hessian-vector products
    norm: jax.Array  # [B]: ‖g_b‖
    gradient_weighted: jax.Array  # Λ_G; 0 where the gradient is zero
    size_weighted: jax.Array  # Λ_P
    rank_correlation: jax.Array  # Spearman's, of ‖g_b‖ and λ_b; NaN where all of either are equal


def block_curvature(
    loss: Callable[[Any], jax.Array],
    params: optax.Params,
    blocks: Labels | Any | None = None,
    *,
    iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Curvature:
    """Measure the curvature of a loss along each block of its parameters.

    It costs up to 2 (``iterations`` + 1) Hessian-vector products a block, each about two gradients, one block
    after another in one compiled loop. Under ``jit`` it is compiled once for many calls.

    Args:
        loss: twice differentiable function from the parameters to a scalar, for one batch and without dropout.
        params: real parameters; bfloat16 and float16 are widened to float32 first.
        blocks: labels, as a function of the tree or as a tree (or prefix); None for one block per tensor,
            ``by_tensor()``.
        iterations: maximum number of steps of each power iteration, ≥ 1.
        tolerance: relative tolerance τ > 0 of convergence, see the module docstring.
        seed: seed of the initial vectors of the power iteration.

    Returns:
        Arrays over blocks, in the order of ``block_names(params, blocks)``, and scalars.

    Raises:
        TypeError: an argument has the wrong type, or a parameter is not real.
        ValueError: an argument is outside its domain; the labels do not fit; there are no parameters.

    Example:
        >>> loss = lambda p: p["a"] ** 2 - p["b"] ** 2 + 3 * p["a"] * p["b"]
        >>> measured = block_curvature(loss, {"a": jnp.array(1.0), "b": jnp.array(1.0)})
        >>> measured.eigenvalue.tolist(), measured.norm.tolist()  # 2 a + 3 b and 3 a - 2 b
        ([2.0, -2.0], [5.0, 1.0])

    Source:
        arXiv 2502.00213.
    """
    checks.integer("iterations", iterations, ge=1)
    checks.number("tolerance", tolerance, gt=0)
    checks.integer("seed", seed, ge=0)
    for path, p in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(p), jnp.floating):
            name = jax.tree_util.keystr(path)
            raise TypeError(f"params must be real floating point, got {jnp.result_type(p)} at {name}")
    cut = partition(params, blocks)
    if not cut.names:
        raise ValueError("params must have entries, got none")
    params = jax.tree.map(lambda p: numerics.widen(jnp.asarray(p)), params)
    # Linearized once, so that what does not depend on v is shared by all blocks and iterations.
    gradient, product = jax.linearize(jax.grad(loss), params)

    def measure(b: jax.Array) -> tuple[jax.Array, ...]:
        def within(tree):
            leaves, structure = jax.tree.flatten(tree)
            kept = [jnp.where(number == b, x, 0) for x, number in zip(leaves, cut.numbers, strict=True)]
            return structure.unflatten(kept)

        def hessian(v):
            return within(product(v))

        start = within(_normal(jax.random.fold_in(jax.random.key(seed), b), params))
        plain = _power_iteration(hessian, start, 0, iterations, tolerance)

        def shifted() -> _Iterate:
            # The eigenvector of a negative eigenvalue has almost no component along the one sought.
            again = jax.tree.map(lambda v, s: jnp.where(plain.eigenvalue > 0, v, s), plain.v, start)
            found = _power_iteration(hessian, again, _norm(plain.product), iterations, tolerance)
            return found._replace(products=plain.products + found.products)

        done = plain.converged & (plain.eigenvalue >= 0)
        found = jax.lax.cond(done, lambda: plain, shifted)
        return found.eigenvalue, found.residual, found.converged, found.products

    eigenvalue, residual, converged, products = jax.lax.map(measure, jnp.arange(len(cut.names)))
    norm = cut.norms(gradient)
    return Curvature(
        eigenvalue,
        residual,
        converged,
        products,
        norm,
        jnp.sum(energy_shares(norm) * eigenvalue),
        jnp.sum((cut.sizes / cut.sizes.sum()).astype(norm.dtype) * eigenvalue),
        _rank_correlation(norm, eigenvalue),
    )


class _Iterate(NamedTuple):
    v: Any  # of norm 1, or zero
    product: Any  # H v
    eigenvalue: jax.Array  # v·H v
    residual: jax.Array
    converged: jax.Array
    products: jax.Array
    ahead: Any  # where v goes next, of any norm


def _power_iteration(
    hessian: Callable[[Any], Any],
    start: Any,
    shift: jax.typing.ArrayLike,
    iterations: int,
    tolerance: float,
) -> _Iterate:
    """Find the eigenvalue of ``hessian`` for which eigenvalue + shift is of the largest magnitude."""

    def look(at: _Iterate) -> _Iterate:
        v = _unit(at.ahead)
        product = hessian(v)
        eigenvalue = _dot(v, product)
        residual = _norm(jax.tree.map(lambda h, v: h - eigenvalue * v, product, v))
        converged = residual <= tolerance * jnp.maximum(_norm(product), shift)
        ahead = jax.tree.map(lambda h, v: h + shift * v, product, v)
        return _Iterate(v, product, eigenvalue, residual, converged, at.products + 1, ahead)

    zero = jnp.zeros_like(_norm(start))
    first = _Iterate(start, start, zero, zero, jnp.array(False), jnp.int32(0), start)
    return jax.lax.while_loop(lambda at: ~at.converged & (at.products <= iterations), look, first)


def _normal(key: jax.Array, tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )


def _dot(x: Any, y: Any) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), x, y)), start=jnp.zeros([]))


def _norm(x: Any) -> jax.Array:
    return jnp.sqrt(_dot(x, x))


def _unit(x: Any) -> Any:
    norm = _norm(x)
    return jax.tree.map(lambda x: x / jnp.where(norm == 0, 1, norm), x)


def _rank_correlation(x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = _ranks(x), _ranks(y)
    x, y = x - jnp.mean(x), y - jnp.mean(y)
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))


def _ranks(x: jax.Array) -> jax.Array:
    """From 1; equal entries share the mean of their ranks."""
    below = jnp.sum(x[:, None] > x, axis=1, dtype=x.dtype)
    equal = jnp.sum(x[:, None] == x, axis=1, dtype=x.dtype)
    return below + (equal + 1) / 2
