"""Record the path of every optimizer on two landscapes of two parameters, for the pages of the methods.

    python -m examples.benchmarks.paths --output=runs/paths

A picture of such a path shows what a method does with scales and curvature, and says nothing about training.
Each optimizer takes 100 steps at a rate that decays linearly to zero, the best of a grid by the mean loss. Rows
that are already in the record of --output are kept. A method for matrices, layers or logits is given the two
parameters as GIVEN says.
"""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.shared import command, program_flags
from optimiz import compare, training
from optimiz.methods import METHODS, Method

STEPS = 100
RATES = [float(f"{rate:.2g}") for rate in np.geomspace(1e-4, 1e3, 29)]


def ravine(x: jax.Array) -> jax.Array:
    """Residuals of a quadratic with curvatures 1 and 30, turned by 30 degrees, whose minimum is (0.5, 0.5)."""
    c, s = jnp.cos(jnp.pi / 6), jnp.sin(jnp.pi / 6)
    x = x - 0.5  # so that weight decay does not lead there
    return jnp.stack([c * x[0] + s * x[1], jnp.sqrt(30.0) * (c * x[1] - s * x[0])])


def bend(x: jax.Array) -> jax.Array:
    """Residuals of a valley that bends along a parabola, after Rosenbrock, whose minimum is (1, 1)."""
    return jnp.stack([1.0 - x[0], jnp.sqrt(10.0) * (x[1] - x[0] ** 2)])


class Landscape(NamedTuple):
    """A loss of two parameters: half the sum of two squared residuals.

    Attributes:
        residuals: function of the parameters [2, ...] to the residuals [2, ...].
        start: the first parameters.
        corners: the lower left and the upper right corner of its picture.
        minimum: where the loss is 0.
    """

    residuals: Callable[[jax.Array], jax.Array]
    start: tuple[float, float]
    corners: tuple[tuple[float, float], tuple[float, float]]
    minimum: tuple[float, float]

    def loss(self, x: jax.Array) -> jax.Array:
        """The loss [...] of parameters [2, ...]."""
        return 0.5 * jnp.sum(self.residuals(x) ** 2, axis=0)

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits [2, classes] whose mean cross-entropy is the loss plus a constant.

        The labels are the middle class. The logits are log densities of a normal distribution around each
        residual, at whole numbers; the sum of the densities hardly depends on where between these it is.
        """
        return -0.5 * (jnp.sqrt(2.0) * self.residuals(x)[:, None] - VALUES) ** 2


VALUES = np.arange(-64.0, 65.0)
LANDSCAPES = {
    "ravine": Landscape(ravine, (-1.3, 1.4), ((-1.7, -1.6), (2.6, 1.7)), (0.5, 0.5)),
    "bend": Landscape(bend, (-1.3, 0.4), ((-1.8, -0.8), (1.8, 2.3)), (1.0, 1.0)),
}


class Given(NamedTuple):
    """How a method is given the two parameters: as a tree, what that is, and the two of such a tree."""

    tree: Callable[[jax.Array], Any]
    words: str
    pair: Callable[[Any], jax.Array]


_VECTOR = Given(lambda x: {"x": x}, "a vector", lambda tree: tree["x"])
_DIAGONAL = Given(
    lambda x: {"dense": {"kernel": jnp.diag(x)}},
    "the diagonal of a matrix, whose singular values they are",
    lambda tree: jnp.diag(tree["dense"]["kernel"]),
)
_COLUMN = Given(
    lambda x: {"dense": {"kernel": jnp.stack([x, jnp.zeros_like(x)], axis=1)}},
    "a column of a matrix, so that an eigenbasis can turn them",
    lambda tree: tree["dense"]["kernel"][:, 0],
)
_UNITS = Given(
    lambda x: {"embed": x[0], "layers": [x[1]], "head": jnp.zeros_like(x[0])},
    "one in each of two units",
    lambda tree: jnp.stack([tree["embed"], *tree["layers"]]),
)
_ON_A_SPHERE = Given(
    lambda x: {"dense": {"kernel": jnp.diag(jnp.append(x, 1.0))}},
    "on the diagonal of a matrix whose norm stays, next to an entry that begins at 1 and takes up the rest",
    lambda tree: jnp.diag(tree["dense"]["kernel"])[:2],
)
_LOGITS = _VECTOR._replace(words="a vector, of which logits are made whose cross-entropy is the loss")
GIVEN = {
    **dict.fromkeys(("muon", "normuon"), _DIAGONAL),
    **dict.fromkeys(("muonh", "adamh"), _ON_A_SPHERE),
    **dict.fromkeys(("soap", "kl_soap"), _COLUMN),
    "pla_sls": _UNITS,
    "sophia_g": _LOGITS,
}

FLAGS = program_flags.Flags()
_METHODS = FLAGS.DEFINE_list("methods", list(METHODS), "Methods to record.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record.", required=True)
program_flags.check_among(METHODS, _METHODS)


def walk(method: Method, name: str, rate: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """The parameters before every step and after the last [STEPS + 1, 2], and their losses [STEPS + 1].

    Args:
        method: the method.
        name: name of the landscape.
        rate: the first learning rate; of a line search, the first step size.
    """
    landscape, (tree, _, pair) = LANDSCAPES[name], GIVEN.get(method.name, _VECTOR)
    if method.kind == "line search":
        tx = method.factory(**{method.rate_argument: rate}, **method.settings)
    else:
        tx = method.build(lambda count: rate * (1 - count / STEPS), classes=len(VALUES))

    def of_tree(params: Any) -> jax.Array:
        return landscape.loss(pair(params))

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        params, state = carry
        value, grads = jax.value_and_grad(of_tree)(params)
        offered = {"value": value, "grad": grads, "value_fn": of_tree, "obj_fn": of_tree}
        offered["logits_fn"] = lambda params: landscape.logits(pair(params))
        updates, state = tx.update(grads, state, params, **offered)
        return (optax.apply_updates(params, updates), state), pair(params)

    params = tree(jnp.array(landscape.start))
    (last, _), before = jax.lax.scan(step, (params, tx.init(params)), None, STEPS)
    path = jnp.concatenate([before, pair(last)[None]])
    return path, jax.vmap(landscape.loss)(path)


def recorded(method: Method, name: str) -> dict[str, Any]:
    """The row of a method on a landscape: its best path."""
    rates = [1.0] if method.kind == "line search" else RATES
    paths, losses = jax.jit(jax.vmap(lambda rate: walk(method, name, rate)))(jnp.array(rates))
    means = np.mean(losses, axis=1, where=np.isfinite(losses).all(axis=1, keepdims=True))
    best = int(np.nanargmin(means))
    return {
        "method": method.name,
        "landscape": name,
        "given": GIVEN.get(method.name, _VECTOR).words,
        "learning_rate": None if method.kind == "line search" else rates[best],
        "at_edge": method.kind != "line search" and best in (0, len(rates) - 1),
        "loss": float(losses[best, -1]),
        "path": np.round(np.asarray(paths[best], np.float64), 4).tolist(),
        "date": str(datetime.date.today()),
    }


def main() -> None:
    """Record what the flags ask for, and write the record."""
    path = Path(_OUTPUT.value) / "record.json"
    settings = {"steps": STEPS, "rates": RATES}
    record: dict[str, Any] = {"settings": settings, "environment": compare.environment(), "rows": []}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
    known = {(row["method"], row["landscape"]) for row in record["rows"]}
    for name in _METHODS.value:
        for landscape in LANDSCAPES:
            if (name, landscape) in known:
                continue
            row = recorded(METHODS[name], landscape)
            record["rows"].append(row)
            print(f"{name}  {landscape}  rate {row['learning_rate']}  loss {row['loss']:.3g}", flush=True)
        record["rows"].sort(key=lambda row: (row["method"], row["landscape"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        training.write_whole(path, json.dumps(record) + "\n")


if __name__ == "__main__":
    command.run(main, FLAGS)
