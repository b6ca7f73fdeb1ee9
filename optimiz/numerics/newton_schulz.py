r"""Newton-Schulz: the nearest orthogonal matrix, by polynomials in products of matrices.

.. math::
    X &\leftarrow X / (s\, \|X\|_F + \epsilon) \\
    X &\leftarrow a X + (b A + c A^2) X, \qquad A = X X^\top, \qquad \text{for each } (a, b, c)

Every step maps each singular value :math:`\sigma` to :math:`a \sigma + b \sigma^3 + c \sigma^5` and leaves the
singular vectors alone. A set of polynomials and the divisor s that it is made for are one object, because a
polynomial that is steep at 0 may explode beyond 1.

Source: KellerJordan/Muon for the loop and for :data:`KELLER`; arXiv 2505.16932 (Amsel et al.) for
:data:`POLAR_EXPRESS`, with the safety of 1.02 that the code of modded-nanogpt has.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimiz import checks
from optimiz.numerics.dispatch import dispatched_once
from optimiz.numerics.moments import nonzero_divisor
from optimiz.numerics.precision import compute_dtype, widen

__all__ = ["CONVERGED", "FIVE_TRIPLES", "KELLER", "POLAR_EXPRESS"]  # of optimiz.newton_schulz

# Rounding to bfloat16, and products in it, may move a singular value beyond 1.
_TOP = 1 + 1 / 32
_LARGEST = 1.5


@dataclasses.dataclass(frozen=True)
class NewtonSchulz:
    """A set of polynomials, and the divisor of the matrix that they need.

    Attributes:
        triples: (a, b, c) of every step, in order.
        safety: s ≥ 1, by which the matrix is divided beside its Frobenius norm.
        eps: ε ≥ 0, added to the norm.

    Raises:
        TypeError: an argument is not of these types.
        ValueError: an argument is outside its domain; or the polynomials map a singular value of up to 1, with
            what the rounding of bfloat16 adds, to less than 0 or more than 1.5, or 1 itself to less than 0.5.

    Example:
        >>> round(KELLER.of(1.0), 4), round(POLAR_EXPRESS.of(1.0), 2)
        (0.6964, 0.9)
        >>> NewtonSchulz(POLAR_EXPRESS.triples, safety=1.0)
        Traceback (most recent call last):
        ValueError: polynomials must map singular values up to 1.03 into [0, 1.5], got ...
    """

    triples: tuple[tuple[float, float, float], ...]
    safety: float = 1.0
    eps: float = 1e-7

    def __post_init__(self) -> None:
        checks.number("safety", self.safety, ge=1)
        checks.number("eps", self.eps, ge=0)
        is_set = isinstance(self.triples, tuple) and len(self.triples) > 0
        if not is_set or any(not isinstance(t, tuple) or len(t) != 3 for t in self.triples):
            raise TypeError(f"triples must be a tuple of at least one (a, b, c), got {self.triples!r}")
        for coefficient in (x for triple in self.triples for x in triple):
            checks.number("a coefficient of triples", coefficient)
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.of(np.linspace(0, _TOP, 4097))
        if not (np.min(values) >= 0 and np.max(values) <= _LARGEST):  # also NaN
            raise ValueError(
                f"polynomials must map singular values up to {_TOP:.3g} into [0, {_LARGEST}], got "
                f"[{np.min(values):.3g}, {np.max(values):.3g}] from {self.triples}"
            )
        if self.of(1.0) < 0.5:
            raise ValueError(
                f"polynomials must map a singular value of 1 to at least 0.5, got {self.of(1.0):.3g} from "
                f"{self.triples}"
            )

    def of(self, value: Any) -> Any:
        """What becomes of a singular value that is this share of the norm.

        Args:
            value: a number, or an array of them.
        """
        value = value / self.safety
        for a, b, c in self.triples:
            square = value * value
            value = value * (a + square * (b + square * c))
        return value


KELLER = NewtonSchulz(((3.4445, -4.7750, 2.0315),) * 5)
"""Keller Jordan's: five steps of one polynomial; singular values end between 0.68 and 1.13."""

FIVE_TRIPLES = NewtonSchulz(
    (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    )
)
"""Five polynomials that are tuned one by one; singular values from 0.01 end between 0.98 and 1.03."""

POLAR_EXPRESS = NewtonSchulz(
    (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
    safety=1.02,
    eps=1e-8,
)
"""The steepest at 0 of five polynomials, twice as steep as the others; it explodes from 1.02 on."""

CONVERGED = NewtonSchulz(((2.0, -1.5, 0.5),) * 12)
"""Twelve steps of a polynomial with the fixed point 1, after which singular values from 0.01 are 1."""


def check_newton_schulz(newton_schulz: object, ns_dtype: jax.typing.DTypeLike | None) -> None:
    """Check a set of polynomials and the dtype of their products.

    Args:
        newton_schulz: the set.
        ns_dtype: the dtype, or None.

    Raises:
        TypeError: the set is not a :class:`NewtonSchulz`, or the dtype is not floating point.
        ValueError: the dtype is none of bfloat16, float32 and float64.
    """
    if not isinstance(newton_schulz, NewtonSchulz):
        raise TypeError(
            "newton_schulz must be a set of polynomials such as newton_schulz.POLAR_EXPRESS, got "
            f"{newton_schulz!r}"
        )
    if ns_dtype is not None:
        checks.floating("ns_dtype", ns_dtype)
        checks.one_of("ns_dtype", jnp.dtype(ns_dtype).name, ("bfloat16", "float32", "float64"))


def product_dtype(dtype: jnp.dtype, given: jax.typing.DTypeLike | None) -> jnp.dtype:
    """The dtype of the products for a momentum of a dtype: the given one, float64 for float64, or bfloat16.

    Args:
        dtype: dtype of the momentum.
        given: dtype that is asked for, or None.

    Example:
        >>> product_dtype(jnp.dtype("float32"), None)
        dtype(bfloat16)
    """
    if given is not None:
        return jnp.dtype(given)
    return dtype if dtype == jnp.float64 else jnp.dtype(jnp.bfloat16)


@functools.partial(dispatched_once, static=("polynomials", "dtype"))
def orthogonalise(x: jax.Array, polynomials: NewtonSchulz, dtype: jnp.dtype) -> jax.Array:
    """Each matrix of a stack with its singular values brought near 1.

    The norm is taken in at least float32, after a division by the largest entry, so that neither a huge nor a
    tiny matrix loses its direction. A matrix of zeros stays zero. A matrix with an entry that is not finite
    becomes NaN as a whole.

    Args:
        x: real matrices [..., in, out].
        polynomials: the set.
        dtype: dtype of the products.

    Returns:
        The same shape, in ``dtype``.

    Example:
        >>> x = jnp.array([[3.0, 0.0], [0.0, 3.0]])
        >>> orthogonalise(x, CONVERGED, jnp.float32).round(4).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    x = _normalised(widen(x), polynomials).astype(dtype)
    is_tall = x.shape[-2] > x.shape[-1]  # the Gram matrix of the shorter side is the smaller one
    x = x.mT if is_tall else x

    def step(x, triple):
        a, b, c = triple
        gram = _product(x, x.mT)
        square = _product(gram.astype(dtype), gram.astype(dtype))
        product = _product((b * gram + c * square).astype(dtype), x)
        return (a * widen(x) + product).astype(dtype), None

    # A loop also for numerics.deferred, which would compute the parts of a step in between again.
    triples = jnp.asarray(polynomials.triples, compute_dtype(dtype))
    x, _ = jax.lax.scan(step, x, triples)
    return x.mT if is_tall else x


def _normalised(x: jax.Array, polynomials: NewtonSchulz) -> jax.Array:
    # The scale has no part in the result, so neither in its derivative.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True))
    largest = nonzero_divisor(largest)
    x = x / largest
    norm = jnp.sqrt(nonzero_divisor(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True)))
    return x / (polynomials.safety * norm + polynomials.eps / largest)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """The product in at least float32, of factors that accelerators would otherwise round to fewer bits."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST, preferred_element_type=compute_dtype(x.dtype))
