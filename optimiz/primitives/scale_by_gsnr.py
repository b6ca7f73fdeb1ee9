r"""Scale each block by the g-SNR of its first gradient, for the whole run.

.. math:: d_i = G_i\, g_i, \qquad G_i = \|g_i^{(1)}\|_2 \,/\, (s(g_i^{(1)}) + \epsilon)

A block is one parameter tensor, or one layer of a tensor that ``nn.scan`` has stacked. G is latched at the
block's first usable gradient and kept in the state, so that it survives a restart from a checkpoint (the
authors' code measures it again).

Source: arXiv 2412.11768, section 4.1, and the authors' release 1.0.3.

Blocks whose ratio is meaningless (``degenerate``):

=============================  ==================  =======================================
the block's first gradient     ``"reference"``     ``"unit"``
=============================  ==================  =======================================
has one entry, or zero         G = norm / ε        G = 1
variance (to rounding)
is zero                        G = 0: frozen       wait for the first that is not zero
is NaN, infinite, or too       G = NaN, 0 or ∞:    wait; this update is not scaled
large to be squared            poisoned
=============================  ==================  =======================================
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, groups, numerics


class ScaleByGsnrState(NamedTuple):
    """State of :func:`scale_by_gsnr`."""

    gsnr: optax.Params  # per leaf: G, a scalar, or one per layer with dimensions kept
    latched: optax.Params  # per leaf: bool of the same shape, whether G has been measured


def scale_by_gsnr(
    eps: float,
    *,
    normalize: Literal["max"] | None = None,
    degenerate: Literal["unit", "reference"] = "unit",
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale each block by the g-SNR of its first gradient.

    Args:
        eps: ε ≥ 0, added to the standard deviation.
        normalize: None for the released code (raw G, unbiased variance); ``"max"`` for the paper's
            Algorithm 1 (population variance; each G divided by the largest among the blocks measured).
        degenerate: how to treat a block whose ratio is meaningless, see above.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a block of its own.

    Returns:
        A transformation that keeps its updates' dtype; G is computed and kept in at least float32.

    Raises:
        TypeError: ``eps`` is not a number.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_gsnr(0.0, normalize="max")
        >>> g = {"a": jnp.array([3.0, -3.0, 3.0, -3.0]), "b": jnp.array([1.0, -1.0])}
        >>> _, state = tx.update(g, tx.init(g))
        >>> [round(float(x), 4) for x in jax.tree.leaves(state.gsnr)]  # 6 / 3 and √2 / 1
        [2.0, 1.4142]
    """
    checks.number("eps", eps, ge=0)
    checks.one_of("normalize", normalize, (None, "max"))
    checks.one_of("degenerate", degenerate, ("unit", "reference"))
    ddof = 0 if normalize == "max" else 1

    def measure(g: jax.Array, axis: int | None) -> tuple[jax.Array, jax.Array]:
        """G of each block of a leaf, and whether it may be latched."""
        axes = None if axis is None else numerics.block_axes(g.ndim, axis)
        norm, deviation = numerics.norm_and_deviation(g, ddof=ddof, axes=axes)
        ratio = norm / (deviation + eps)
        if degenerate == "reference":
            return ratio, jnp.ones_like(ratio, bool)
        entries = g.size // norm.size
        flat = deviation * entries**0.5 <= 16 * jnp.finfo(norm.dtype).eps * norm
        return jnp.where(flat, 1, ratio), jnp.isfinite(norm) & (norm > 0)

    def init_fn(params):
        leaves, tree = jax.tree.flatten(params)
        gsnr, latched = [], []
        for p, axis in zip(leaves, groups.scanned_axes(params, scanned), strict=True):
            shape = () if axis is None else [n if a == axis else 1 for a, n in enumerate(p.shape)]
            gsnr.append(jnp.ones(shape, numerics.compute_dtype(p.dtype)))
            latched.append(jnp.full(shape, p.size == 0))  # an empty leaf never has a gradient
        return ScaleByGsnrState(tree.unflatten(gsnr), tree.unflatten(latched))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is not None:
            checks.same_shapes("gradient", updates, "parameter", params)
        else:  # the state holds the paths of the parameters, not their shapes
            of_paths = (jax.tree.map(lambda _: 0, tree) for tree in (updates, state.gsnr))
            checks.same_shapes("gradient", next(of_paths), "parameter", next(of_paths))
        leaves, tree = jax.tree.flatten(updates)
        axes = groups.scanned_axes(updates, scanned)
        gsnr, latched = tree.flatten_up_to(state.gsnr), tree.flatten_up_to(state.latched)

        def latch():
            measured = [measure(g, axis) for g, axis in zip(leaves, axes, strict=True)]
            new = zip(gsnr, latched, measured, strict=True)
            return (
                [jnp.where(~done & usable, ratio.astype(old.dtype), old) for old, done, (ratio, usable) in new],
                [done | usable for done, (_, usable) in zip(latched, measured, strict=True)],
            )

        # The passes over the gradient run only while a block is waiting.
        all_done = _all(latched)
        gsnr, latched = numerics.cond(all_done, lambda: (gsnr, latched), latch)
        scales = _scales(gsnr, latched)
        if normalize == "max":
            each = [jnp.max(jnp.where(d, r, 0), initial=0) for r, d in zip(gsnr, latched, strict=True)]
            largest = jnp.max(numerics.stacked([jnp.float32(0), *each]))
            scales = [scale / jnp.where(largest > 0, largest, 1) for scale in scales]
        scaled = list(map(numerics.scaled, leaves, scales))
        state = ScaleByGsnrState(tree.unflatten(gsnr), tree.unflatten(latched))
        return tree.unflatten(scaled), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@numerics.dispatched_once
def _all(latched: list[jax.Array]) -> jax.Array:
    return numerics.all_of([done.all() for done in latched])


@numerics.dispatched_once
def _scales(gsnr: list[jax.Array], latched: list[jax.Array]) -> list[jax.Array]:
    return [jnp.where(done, ratio, 1) for ratio, done in zip(gsnr, latched, strict=True)]
