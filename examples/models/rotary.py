"""Rotary positions: queries and keys are turned by angles that grow with their positions.

The two halves of a head are the coordinates of K/2 planes. At position p plane i is turned by p f_i, so that a
product of a query and a key depends on the distance of their positions alone. Without a scaling,

    f_i = θ^(-2i/K).

Scalings let a model read texts that are s times longer than those it was trained on, of length L:

    linear    f_i / s
    dynamic   θ grows once a text has n > L tokens, to θ (s n / L - s + 1)^(K/(K - 2))
    llama3    f_i / s for waves 2π/f_i longer than L/low, f_i for those shorter than L/high, between the two a
              mean of both whose weight is linear in L f_i / 2π
    yarn      f_i / s for planes that turn less than `slow` times over L, f_i for those that turn more than
              `fast` times, between the two a mean whose weight is linear in i; the products of queries and keys
              grow by a factor squared

Letters in names: B batch, T tokens, H heads, K size of a head.

Source: Su et al., "RoFormer" (arXiv:2104.09864); Chen et al., "Extending Context Window of Large Language
Models via Positional Interpolation" (arXiv:2306.15595); Peng et al., "YaRN" (arXiv:2309.00071), also for the
dynamic scaling; Grattafiori et al., "The Llama 3 Herd of Models" (arXiv:2407.21783), and the code of Llama 3.1.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from examples.models.fields import check_field


@dataclasses.dataclass(frozen=True)
class Linear:
    """The linear scaling by `factor`, s."""

    factor: float

    def __post_init__(self) -> None:
        check_field(self, "factor", self.factor >= 1, "at least 1")

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Scale the frequencies `[K/2]`."""
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """The dynamic scaling by `factor`, s, of texts longer than `original`, L."""

    factor: float
    original: int

    def __post_init__(self) -> None:
        check_field(self, "factor", self.factor >= 1, "at least 1")
        check_field(self, "original", self.original >= 1, "at least 1")


@dataclasses.dataclass(frozen=True)
class Llama3:
    """The scaling of Llama 3 by `factor`, s, of a model trained on texts of length `original`, L."""

    factor: float
    low: float
    high: float
    original: int

    def __post_init__(self) -> None:
        check_field(self, "factor", self.factor >= 1, "at least 1")
        check_field(self, "low", self.low > 0, "positive")
        check_field(self, "high", self.high > self.low, f"above low, {self.low}")
        check_field(self, "original", self.original >= 1, "at least 1")

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Scale the frequencies `[K/2]`."""
        turns = self.original * frequencies / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN's scaling by `factor`, s, of a model trained on texts of length `original`, L.

    `attention` is the factor of the turned queries and keys; None for the paper's, 0.1 ln s + 1. `truncate`
    says whether the planes where the frequencies begin and cease to be mixed are rounded to whole ones.
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    attention: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        check_field(self, "factor", self.factor >= 1, "at least 1")
        check_field(self, "original", self.original >= 1, "at least 1")
        check_field(self, "slow", self.slow > 0, "positive")
        check_field(self, "fast", self.fast > self.slow, f"above slow, {self.slow}")
        check_field(self, "attention", self.attention is None or self.attention > 0, "positive or None")

    def scaled(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Scale the frequencies `[K/2]`."""
        size = 2 * len(frequencies)

        def plane(turns: float) -> float:
            return size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = plane(self.fast), plane(self.slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, size - 1)
        # Where both are one plane, the frequencies jump between it and the next.
        width = last - first if last != first else 0.001
        scaled = np.clip((np.arange(size // 2) - first) / width, 0, 1)
        return frequencies * (1 - scaled + scaled / self.factor)


Scaling = Linear | Dynamic | Llama3 | Yarn


@dataclasses.dataclass(frozen=True)
class Rotary:
    """The angles of rotary positions: θ, and the scaling of its frequencies.

    Example:
        >>> Rotary(100.0).frequencies(4).tolist()
        [1.0, 0.10000000149011612]
        >>> Rotary(100.0, Linear(2.0)).frequencies(4).tolist()
        [0.5, 0.05000000074505806]
    """

    theta: float = 10_000.0
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        check_field(self, "theta", self.theta > 1, "above 1")

    def frequencies(self, size: int) -> np.ndarray:
        """The frequencies, float32 `[K/2]`, in radians per token.

        Args:
            size: size of a head, K, even; of a dynamic scaling, those of texts up to its length.
        """
        plain = self.theta ** -(np.arange(0, size, 2) / size)
        if self.scaling is None or isinstance(self.scaling, Dynamic):
            return plain.astype(np.float32)
        return self.scaling.scaled(plain, self.theta).astype(np.float32)

    @property
    def factor(self) -> float:
        """The factor of the turned queries and keys, which is 1 except with YaRN."""
        if not isinstance(self.scaling, Yarn):
            return 1.0
        attention = self.scaling.attention
        return 0.1 * math.log(self.scaling.factor) + 1 if attention is None else attention

    def turns(self, positions_BT: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        """The cosine and the sine of the angle of each plane, float32 `[B, T, 1, K/2]`, times the factor.

        Args:
            positions_BT: positions; a dynamic scaling takes the largest for the last of the text.
            size: size of a head, K, even.
        """
        frequencies = self.frequencies(size)
        if isinstance(self.scaling, Dynamic):
            length = jnp.maximum(positions_BT.max() + 1, self.scaling.original).astype(jnp.float32)
            growth = self.scaling.factor * length / self.scaling.original - (self.scaling.factor - 1)
            exponents = np.arange(0, size, 2, dtype=np.float32) / max(size - 2, 1)
            frequencies = frequencies * growth**-exponents
        angles = positions_BT[..., None, None].astype(jnp.float32) * frequencies
        return jnp.cos(angles) * self.factor, jnp.sin(angles) * self.factor


def turn(x_BTHK: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn queries or keys, in float32.

    Args:
        x_BTHK: queries or keys.
        turns: cosine and sine of the angles, from :meth:`Rotary.turns`.
    """
    cosine, sine = turns
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x_BTHK.dtype)
