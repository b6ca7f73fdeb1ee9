"""Five steps on a matrix and a vector: parameters, gradients and rates.

Golden values on them were computed in float64 by the authors' code that a test names, with torch 2.14.1.
"""

import jax.numpy as jnp
import numpy as np

RATES = [0.01, 0.02, 0.005, 0.01, 0.02]
_WEIGHTS = [
    [[0.2, -0.1], [0.4, 0.0], [0.3, -0.5], [0.1, 0.2]],
    [[-0.3, 0.2], [0.1, 0.6], [0.0, 0.2], [0.2, -0.1]],
    [[0.05, 0.05], [-0.2, -0.1], [0.4, 0.3], [-0.3, 0.1]],
    [[0.1, -0.4], [0.2, 0.3], [-0.2, 0.0], [0.05, -0.2]],
    [[-0.2, 0.1], [0.3, 0.0], [0.1, -0.1], [0.4, 0.3]],
]
_BIASES = [[0.5, 0.1], [-0.2, 0.3], [0.0, -0.4], [0.1, 0.2], [-0.3, 0.0]]


def params():
    """Parameters before the first step, in float64."""
    return {
        "w": np.array([[1.0, -2.0], [3.0, 0.5], [0.0, -1.0], [2.0, 0.25]]),
        "b": np.array([0.1, -0.2]),
    }


def gradients():
    """The gradients of five steps."""
    return [{"w": np.array(w), "b": np.array(b)} for w, b in zip(_WEIGHTS, _BIASES, strict=True)]


def varying(count):
    """A schedule that goes through RATES."""
    return jnp.asarray(RATES)[count]


def golden(w, b):
    """Values given row by row, as numbers in a string, in the form of the parameters."""
    return {"w": np.array(w.split(), float).reshape(4, 2), "b": np.array(b.split(), float)}
