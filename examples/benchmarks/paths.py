"""Record the path of every optimizer on two landscapes of two parameters, for the pages of the methods.

    python -m examples.benchmarks.paths --output=runs/paths

A picture of such a path shows what a method does with scales and curvature, and says nothing about training.
Each optimizer takes 100 steps at a rate that decays linearly to zero, the best of a grid by the mean loss. Rows
that are already in the record of --output are kept. A method for matrices or layers is given the two parameters
as GIVEN says, and those of WITHOUT have no path.
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
    """A quadratic with curvatures 1 and 30, turned by 30 degrees, with its minimum at (0.5, 0.5)."""
    c, s = jnp.cos(jnp.pi / 6), jnp.sin(jnp.pi / 6)
    x = x - 0.5  # so that weight decay does not lead there
    return 0.5 * (c * x[0] + s * x[1]) ** 2 + 15.0 * (c * x[1] - s * x[0]) ** 2


def bend(x: jax.Array) -> jax.Array:
    """A valley that bends along a parabola, after Rosenbrock, with its minimum at (1, 1)."""
    return 0.5 * (1.0 - x[0]) ** 2 + 5.0 * (x[1] - x[0] ** 2) ** 2


# Name → (loss, the first parameters, the corners of the picture, the minimum).
LANDSCAPES: dict[str, tuple[Callable[[jax.Array], jax.Array], Any, Any, Any]] = {
    "ravine": (ravine, (-1.3, 1.4), ((-1.7, -0.9), (1.5, 2.1)), (0.5, 0.5)),
    "bend": (bend, (-1.3, 0.4), ((-1.8, -0.6), (1.8, 2.2)), (1.0, 1.0)),
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
GIVEN = {"muon": _DIAGONAL, "normuon": _DIAGONAL, "soap": _COLUMN, "kl_soap": _COLUMN, "pla_sls": _UNITS}
_ON_A_SPHERE = "it keeps the norm of a matrix, and no minimum here has that of the first parameters"
WITHOUT = {"sophia_g": "it needs the logits of a model", "adamh": _ON_A_SPHERE, "muonh": _ON_A_SPHERE}

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
    loss, start, _, _ = LANDSCAPES[name]
    tree, _, pair = GIVEN.get(method.name, _VECTOR)
    if method.kind == "line search":
        tx = method.factory(**{method.rate_argument: rate}, **method.settings)
    else:
        tx = method.at(lambda count: rate * (1 - count / STEPS), **method.settings)

    def of_tree(params: Any) -> jax.Array:
        return loss(pair(params))

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        params, state = carry
        value, grads = jax.value_and_grad(of_tree)(params)
        offered = {"value": value, "grad": grads, "value_fn": of_tree, "obj_fn": of_tree}
        updates, state = tx.update(grads, state, params, **offered)
        return (optax.apply_updates(params, updates), state), pair(params)

    params = tree(jnp.array(start))
    (last, _), before = jax.lax.scan(step, (params, tx.init(params)), None, STEPS)
    path = jnp.concatenate([before, pair(last)[None]])
    return path, jax.vmap(loss)(path)


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
            if name in WITHOUT or (name, landscape) in known:
                continue
            row = recorded(METHODS[name], landscape)
            record["rows"].append(row)
            print(f"{name}  {landscape}  rate {row['learning_rate']}  loss {row['loss']:.3g}", flush=True)
        record["rows"].sort(key=lambda row: (row["method"], row["landscape"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        training.write_whole(path, json.dumps(record) + "\n")


if __name__ == "__main__":
    command.run(main, FLAGS)
