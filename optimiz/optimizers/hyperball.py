r"""Hyperball: hidden matrices keep their norms, and each step turns them; AdamW for the other parameters.

.. math::
    Q = W - \eta_t\, \|W\|_F \frac{d}{\|d\|_F}, \qquad W \leftarrow \|W\|_F \frac{Q}{\|Q\|_F}

d is the direction of Muon (MuonH) or of Adam (AdamH), whose size has no part in it.

Source: arXiv 2606.16899, and its first author's code in KellerJordan/modded-nanogpt (track 3, 2026-04-30).

Departures from the author's code: those of ``optimiz.project_to_sphere`` and of ``optimiz.muon``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh

from optimiz import groups, numerics
from optimiz.beside_adamw import beside_adamw
from optimiz.groups.routing import Routing
from optimiz.numerics import newton_schulz
from optimiz.primitives.decoupled_weight_decay import Coupling
from optimiz.primitives.low_memory_update import low_memory_update
from optimiz.primitives.project_to_sphere import project_to_sphere
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_muon import scale_by_muon


def muonh(
    learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    momentum: jax.typing.ArrayLike = 0.95,
    nesterov: bool = True,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    newton_schulz: numerics.NewtonSchulz = newton_schulz.CONVERGED,
    ns_dtype: jax.typing.DTypeLike | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.95,
    adam_eps: jax.typing.ArrayLike = 1e-10,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon on spheres: the orthogonalised momentum turns hidden matrices, whose norms stay.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count, of the matrices:
            about the angle of a step.
        adam_learning_rate: that of AdamW, which has another scale and has to be given.
        momentum: μ in [0, 1), decay rate of the momentum, an average.
        nesterov: whether to use Nesterov's momentum, looked up from the new average.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, of the parameters of AdamW.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
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
        A transformation whose ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type; or, in ``update``, a matrix is complex.
        ValueError: an argument is outside its domain, or ``adam_learning_rate`` is missing; a gradient has
            another shape than its parameter; or, in ``init``, a matrix is zero, or as for ``groups.matrices``.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = muonh(0.75, 0.25, ns_dtype=jnp.float32)
        >>> params = {"bias": jnp.zeros(2), "kernel": jnp.array([[10.0, 0.0], [0.0, 10.0]])}
        >>> grads = {"bias": jnp.array([3.0, -4.0]), "kernel": jnp.array([[0.0, 5.0], [-5.0, 0.0]])}
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> (params["kernel"] + updates["kernel"]).round(4).tolist()  # turned by the arctangent of 3/4
        [[8.0, -6.0], [6.0, 8.0]]
        >>> updates["bias"].round(4).tolist()
        [-0.25, 0.25]
    """

    def of_matrices(routing: Routing) -> optax.GradientTransformation:
        return optax.chain(
            scale_by_muon(
                momentum,
                nesterov,
                newton_schulz=newton_schulz,
                ns_dtype=ns_dtype,
                matrices=routing,
                mesh=mesh,
                mu_dtype=mu_dtype,
            ),
            project_to_sphere(learning_rate, matrices=routing),
        )

    return beside_adamw(
        "muonh",
        of_matrices,
        matrices,
        scanned,
        learning_rate=_given(adam_learning_rate),
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        decay_coupling=decay_coupling,
    )


def adamh(
    learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
    adam_b1: jax.typing.ArrayLike = 0.9,
    adam_b2: jax.typing.ArrayLike = 0.95,
    adam_eps: jax.typing.ArrayLike = 1e-10,
    matrices: Mapping[str, groups.Matrix | None] | Routing | None = None,
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam on spheres: its direction turns hidden matrices, whose norms stay.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count, of the matrices:
            about the angle of a step.
        adam_learning_rate: that of AdamW, which has another scale and has to be given.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, of the parameters of AdamW.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the second moment; None for the parameters' dtype, at least float32.
        adam_b1: β₁ in [0, 1), decay rate of AdamW's first moment.
        adam_b2: β₂ in [0, 1), decay rate of its second moment.
        adam_eps: ε ≥ 0, added to the root of that.
        matrices: which parameters are matrices: axes, or None, by pattern of path where those of
            ``groups.matrices`` do not fit, or a function of the parameters to the tree of both.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own.

    Returns:
        A transformation whose ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or ``adam_learning_rate`` is missing; a gradient has
            another shape than its parameter; or, in ``init``, a matrix is zero, or as for ``groups.matrices``.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adamh(0.75, 0.25)
        >>> params = {"kernel": jnp.array([[5.0, 5.0], [5.0, 5.0]])}
        >>> grads = {"kernel": jnp.array([[3.0, -9.0], [1.0, -2.0]])}  # whose signs are perpendicular to that
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> (params["kernel"] + updates["kernel"]).round(4).tolist()  # 5 (1 ∓ 3/4) / (5/4)
        [[1.0, 7.0], [1.0, 7.0]]
    """

    def of_matrices(routing: Routing) -> optax.GradientTransformation:
        chain = optax.chain(
            scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
            project_to_sphere(learning_rate, matrices=routing),
        )
        return low_memory_update(chain)  # numerics.fusion, rule 1, for the norm of d

    return beside_adamw(
        "adamh",
        of_matrices,
        matrices,
        scanned,
        learning_rate=_given(adam_learning_rate),
        b1=adam_b1,
        b2=adam_b2,
        eps=adam_eps,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        decay_coupling=decay_coupling,
    )


def _given(adam_learning_rate: optax.ScalarOrSchedule | None) -> optax.ScalarOrSchedule:
    if adam_learning_rate is None:
        raise ValueError(
            "adam_learning_rate must be given, as the learning_rate of matrices is an angle and does not suit "
            "AdamW; for a model from random parameters 3e-3 goes with the author's 0.018"
        )
    return adam_learning_rate
