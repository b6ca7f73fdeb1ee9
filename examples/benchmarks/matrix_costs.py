"""Counts the operations of an update of methods for matrices, next to those of a training step.

Nothing runs: an update of GPT-2's shapes is traced, and its matrix products are counted, those in a loop as
often as the loop runs.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import optax

import optimiz
from examples.models import shapes
from optimiz import compare

MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
TOKENS = (8192, 65_536, 524_288)
FREQUENCY = 10  # updates from one refresh of SOAP's bases to the next
_QR = 8 / 3  # operations to find Q of an n × n matrix by reflections, over n³


class Operations(NamedTuple):
    """Operations of the matrix products and decompositions of an update."""

    always: float
    in_branches: float  # of the branch of each condition that has most: of SOAP, of a refresh


def operations(jaxpr: Any) -> Operations:
    """Count them; where devices have branches of their own, those of all others.

    Args:
        jaxpr: a traced update. First eigenvectors, which are found once, are left out.

    Example:
        >>> x = jnp.ones((2, 3))
        >>> jaxpr = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: x @ (x.T @ y), x))(x)
        >>> operations(jaxpr.jaxpr)
        Operations(always=360.0, in_branches=0.0)
    """
    always = in_branches = 0.0
    for equation in jaxpr.eqns:
        found = [operations(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)]
        if equation.primitive.name == "cond":
            platforms = equation.params.get("branches_platforms")
            if platforms is None:
                in_branches += max(map(sum, found))
                continue
            found = [found[platforms.index(None)]]  # of jax.lax.platform_dependent
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        always += _own(equation) + times * sum(inner.always for inner in found)
        in_branches += times * sum(inner.in_branches for inner in found)
    return Operations(always, in_branches)


def _own(equation: Any) -> float:
    shape: tuple[int, ...] = equation.invars[0].aval.shape if equation.invars else ()
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if equation.primitive.name == "qr":
        return _QR * math.prod(shape) * shape[-1]
    return 0.0


def of_update(tx: optax.GradientTransformation, params: Any) -> Operations:
    """The operations of an update of parameters, arrays or their shapes."""
    return operations(jax.make_jaxpr(tx.update)(params, jax.eval_shape(tx.init, params), params).jaxpr)


def table(*names: str) -> str:
    """What an update costs, by model, as Markdown.

    Args:
        names: those of the optimizers.
    """
    rows = []
    for model in MODELS:
        params = shapes.structs(model, jnp.float32)
        in_layers = sum(x.size for x in jax.tree.leaves(params["layers"]) if x.ndim == 3)
        entries = in_layers + params["embedding"].size  # which is the head, too
        for name in names:
            found = of_update(_OPTIMIZERS[name](), params)
            average = found.always + found.in_branches / FREQUENCY
            shares = (f"{100 * average / (6 * entries * tokens):.1f} %" for tokens in TOKENS)
            refresh = f"{found.in_branches / 1e12:.2f}" if found.in_branches else "none"
            rows.append((model, name, f"{found.always / 1e12:.2f}", refresh, *shares))
    head = ("model", "optimizer", "update, 10¹²", "refresh, 10¹²")
    head += tuple(f"relative to {tokens:,} tokens" for tokens in TOKENS)
    note = (
        "Operations of matrix products, counted in the traced update, loops as often as they run; of a QR "
        f"8/3 n³, on a TPU 8 n³. A refresh is in every {FREQUENCY}th update. The last columns are their "
        "average relative to forward and backward passes, at most: these take at least 6 operations for each "
        "token and each parameter of a product."
    )
    return f"{compare.table(head, rows, words=2)}\n\n{note}"


_STACKED: dict[str, Any] = {"scanned": {"^layers/": 0}}
_OPTIMIZERS = {
    "muon": lambda: optimiz.muon(1e-3, scale=optimiz.matrix_scales.match_adam(), **_STACKED),
    "soap": lambda: optimiz.soap(1e-3, precondition_frequency=FREQUENCY, **_STACKED),
    "soap, sides up to 2048": lambda: optimiz.soap(
        1e-3, precondition_frequency=FREQUENCY, max_precond_dim=2048, **_STACKED
    ),
    "kl_soap": lambda: optimiz.kl_soap(1e-3, precondition_frequency=FREQUENCY, **_STACKED),
}
