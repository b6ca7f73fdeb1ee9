r"""Muon: momentum, orthogonalised, for the hidden matrices; AdamW for the other parameters.

.. math:: W \leftarrow W - \eta_t \left( \kappa\, \operatorname{orth}(u) + \lambda\, W \right)

u is Nesterov's momentum, and the direction that of ``optimiz.scale_by_muon``. AdamW has a learning rate of its
own. With ``cautious_decay`` only those entries decay that the direction, too, moves toward zero.

Source: KellerJordan/Muon; arXiv 2502.16982 (Moonlight) for the scale by which one learning rate suits all
parameters; arXiv 2510.12402 for the cautious decay.

Departures from the authors' code: which parameters are matrices is read off the tree
(``optimiz.groups.matrices``); a convolution's factor is that of its matrix, where theirs is of the filter's
sides; m is at least float32; the norm neither overflows nor underflows; equal matrices are one stack, which the
devices of a mesh share.

Departures from ``optax.contrib.muon``: kernels of attention and of scanned layers are matrices, and embeddings,
heads, biases and norms are not, where Optax takes every array of rank 2; the momentum is the authors', not
NAdam's; AdamW has β₂ = 0.95, decays, and is given a learning rate of its own, where Optax takes that of the
matrices; a set of polynomials has its number of steps and its safety; zeros in float16 give 0, not NaN;
matrices move between devices once on the way in and once on the way out; updates in the parameter's dtype;
validation of arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from optimiz import groups, numerics
from optimiz.beside_adamw import beside_adamw
from optimiz.groups.routing import Routing
from optimiz.numerics import matrix_scales, newton_schulz
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate
from optimiz.primitives.scale_by_muon import scale_by_muon


def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    momentum: jax.typing.ArrayLike = 0.95,
    nesterov: bool = True,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    cautious_decay: bool = False,
    scale: numerics.Scale | None = None,
    newton_schulz: numerics.NewtonSchulz = newton_schulz.KELLER,
    ns_dtype: jax.typing.DTypeLike | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.95,
    adam_eps: jax.typing.ArrayLike = 1e-10,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalised momentum for hidden matrices, AdamW for the rest.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count, of the matrices.
        adam_learning_rate: that of AdamW; None for ``learning_rate``, which suits both with ``match_adam``.
        momentum: μ in [0, 1), decay rate of the momentum, an average.
        nesterov: whether to use Nesterov's momentum, looked up from the new average.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, of all parameters, each at its rate.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        cautious_decay: whether only those entries decay that the direction, too, moves toward zero, or not at
            all.
        scale: factor of a step by the matrix's numbers of inputs and outputs, see ``optimiz.matrix_scales``;
            None for ``keller``.
        newton_schulz: polynomials that orthogonalise, see ``optimiz.newton_schulz``.
        ns_dtype: dtype of their products, bfloat16, float32 or float64; None for float64 where the parameters
            are, and else bfloat16.
        adam_b1: β₁ in [0, 1), decay rate of AdamW's first moment.
        adam_b2: β₂ in [0, 1), decay rate of its second moment.
        adam_eps: ε ≥ 0, added to the root of that.
        matrices: which parameters are matrices: axes, or None, by pattern of path where those of
            ``groups.matrices`` do not fit, or a function of the parameters to the tree of both.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own.
        mesh: mesh whose devices share the matrices; None for that of ``jax.set_mesh``, if there is one.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type; or, in ``update``, a matrix is complex.
        ValueError: an argument is outside its domain; ``adam_learning_rate`` is missing where one rate does not
            suit both; or a gradient has another shape than its parameter; or, in ``init``, as for
            ``groups.matrices``.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = muon(0.5, adam_learning_rate=0.25, newton_schulz=newton_schulz.CONVERGED, ns_dtype=jnp.float32)
        >>> params = {"bias": jnp.zeros(2), "kernel": jnp.zeros((2, 2))}
        >>> grads = {"bias": jnp.array([3.0, -4.0]), "kernel": jnp.array([[0.0, 5.0], [5.0, 0.0]])}
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> updates["kernel"].round(4).tolist(), updates["bias"].round(4).tolist()
        ([[-0.0, -0.5], [-0.5, -0.0]], [-0.25, 0.25])
    """

    def of_matrices(routing: Routing) -> optax.GradientTransformation:
        return optax.chain(
            scale_by_muon(
                momentum,
                nesterov,
                newton_schulz=newton_schulz,
                scale=matrix_scales.keller if scale is None else scale,
                ns_dtype=ns_dtype,
                matrices=routing,
                mesh=mesh,
                mu_dtype=mu_dtype,
            ),
            decoupled_weight_decay(
                weight_decay,
                weight_decay_mask,
                coupling=decay_coupling,
                learning_rate=learning_rate,
                cautious=cautious_decay,
            ),
            scale_by_learning_rate(learning_rate),
        )

    return beside_adamw(
        "muon",
        of_matrices,
        matrices,
        scanned,
        learning_rate=matrix_scales.adam_rate(learning_rate, adam_learning_rate, scale),
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        decay_coupling=decay_coupling,
        cautious_decay=cautious_decay,
    )
