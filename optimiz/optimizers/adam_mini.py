r"""Adam-mini: Adam with one second moment for each block of entries, which halves the state.

For every block B of a parameter:

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad
        v_B \leftarrow \beta_2 v_B + (1 - \beta_2)\, \tfrac{1}{|B|} \sum_{i \in B} g_i^2 \\
    \theta_i &\leftarrow \theta_i - \eta_t \left( \frac{m_i / (1 - \beta_1^t)}
        {\sqrt{v_B / (1 - \beta_2^t)} + \epsilon} + \lambda\, \theta_i \right)

A block is a head of queries or keys, an output of another kernel, or a row of an embedding; each entry of a
bias; and the whole of a norm or of what is none of these. ``groups.adam_mini_blocks`` derives them from the
parameters.

Source: arXiv 2406.16793 (Zhang et al.), Algorithms 1 to 3, and the authors' code, release 1.1.1.

Departures from the authors' code: blocks are derived from Flax's names and shapes, stacked layers and kernels
of rank 3 too; a head is one of ``heads`` or of the shape, with ``kv_heads`` for keys, where theirs is a run of
dim² / n_heads entries; a flat kernel whose number of heads is not given has a block for each output; a
parameter of one axis that is no bias is one block, which is an error for some of theirs; tables of positions
have a block for each row; experts have blocks of their own; all parameters share the count; weight decay has a
mask, where theirs spares all names that contain "norm", "ln" or "bias"; second moments are at least float32; a
finite gradient too large to be squared enters at the largest value that can be; updates in the parameter's
dtype; validation of arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, groups, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByAdamMiniState(NamedTuple):
    """State of :func:`scale_by_adam_mini`."""

    count: jax.Array  # int32 scalar: updates made so far
    mu: optax.Updates  # m; like the parameters
    nu: optax.Updates  # v; like the parameters, with length 1 along the axes that are averaged; real


def scale_by_adam_mini(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    blocks: Any | Callable[[optax.Params], Any] | None = None,
    scanned: Mapping[str, int] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by a first moment per entry and a second moment per block.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        blocks: the ``groups.Blocks`` of each parameter: a tree of them, a prefix of one, or a function of the
            parameters; None for ``groups.adam_mini_blocks(scanned=scanned)``.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has blocks of its own. ``blocks`` say it themselves.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.

    Returns:
        A transformation that keeps its updates' dtype.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, both blocks and scanned are given, blocks do not fit a
            parameter, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_adam_mini(0.9, 0.999, 0.0, blocks=groups.Blocks())
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, 7.0]), tx.init(params), params)
        >>> [round(u, 4) for u in updates.tolist()], state.nu.shape  # over √((1 + 49) / 2)
        ([0.2, 1.4], (1,))
    """
    checks.floating("mu_dtype", mu_dtype)
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.999)
    checks.number("eps", eps, ge=0, typical=1e-8)
    checks.static("blocks", blocks)
    if blocks is not None and scanned is not None:
        raise ValueError(f"blocks say which layers are stacked, got both blocks and scanned={scanned!r}")
    given = groups.adam_mini_blocks(scanned=scanned) if blocks is None else blocks
    blocks_of = checks.per_parameter("blocks", given)

    def of(tree):
        found = jax.tree.broadcast(blocks_of(tree), tree)
        for path, each in jax.tree_util.tree_leaves_with_path(found):
            if not isinstance(each, groups.Blocks):
                at = f" at {jax.tree_util.keystr(path)}" if path else ""
                raise TypeError(f"blocks must be groups.Blocks of each parameter, got {each!r}{at}")
        return found

    def init_fn(params):
        mu = optax.tree.zeros_like(params, dtype=mu_dtype)

        def zero_means(p, each):
            means = jax.eval_shape(each.means, p)
            return jnp.zeros_like(means, dtype=numerics.real_dtype(p.dtype))

        return ScaleByAdamMiniState(jnp.zeros([], jnp.int32), mu, jax.tree.map(zero_means, params, of(params)))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)
        of_m, of_v = (numerics.bias_corrections(b, count, updates) for b in (b1, b2))

        def second(g, nu, each):
            # numerics.fusion, rule 1: a narrow leaf is widened for the mean and again for the moment.
            g = numerics.rematerialise(g) if numerics.is_narrow(g.dtype) else g
            square = each.means(numerics.abs_sq(numerics.widen(g)))
            square = jnp.minimum(square, numerics.largest_square(g.dtype))
            return (b2 * nu + (1 - b2) * square).astype(nu.dtype)

        def leaf(g, mu, nu):
            wide, real = numerics.widen(g), numerics.real_dtype(g.dtype)
            m = b1 * mu.astype(wide.dtype) + (1 - b1) * numerics.squarable(wide)
            root = jnp.sqrt(nu.astype(real) / of_v[real]) + eps
            # Where the root is 0, all gradients were 0, and so is m.
            direction = m / of_m[real] / numerics.nonzero_divisor(root, eps)
            return direction.astype(g.dtype), m.astype(mu.dtype)

        nu = jax.tree.map(second, updates, state.nu, of(updates))
        direction, mu = numerics.map_many(leaf, 2, updates, state.mu, nu)
        return direction, ScaleByAdamMiniState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adam_mini(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    blocks: Any | Callable[[optax.Params], Any] | None = None,
    scanned: Mapping[str, int] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with a second moment per head, output neuron or token.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; that of AdamW.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        blocks: the ``groups.Blocks`` of each parameter: a tree of them, a prefix of one, or a function of the
            parameters, such as ``groups.adam_mini_blocks(heads=12)``; None for
            ``groups.adam_mini_blocks(scanned=scanned)``.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has blocks of its own. ``blocks`` say it themselves.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, both blocks and scanned are given, blocks do not fit a
            parameter, or a gradient has another shape than its parameter.

    Example:
        >>> tx = adam_mini(0.5, eps=0.0)
        >>> params = {"kernel": jnp.zeros((2, 2))}
        >>> grads = {"kernel": jnp.array([[1.0, 3.0], [7.0, 3.0]])}  # of two outputs, whose roots are 5 and 3
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> [[round(u, 4) for u in row] for row in updates["kernel"].tolist()]
        [[-0.1, -0.5], [-0.7, -0.5]]
    """
    return optax.chain(
        scale_by_adam_mini(b1, b2, eps, blocks=blocks, scanned=scanned, mu_dtype=mu_dtype),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
