"""Problem P: a network of two layers, four mini-batches in turn, and what line searches do there in 120 steps.

The rows were read off the authors' code, run in float64 on these arrays: ADAMSLS and PLASLS off
Faster-Convergence @dd23386, the version of ADAMSLS in the paper off SLSforDifferentLayers @6ccb9a7^, SaLSa as
class and as package off No-learning-rates-needed @717b41c, SGD off IssamLaradji/sls with a growth of 2^(1/500).
c is 0.3 and the first step size 1, but where a row says otherwise. The page ``line_search`` reproduces them
from the equations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 120

_I, _J = np.arange(32)[:, None], np.arange(5)[None, :]
X = (np.sin(1 + 0.7 * _I + 1.3 * _J) + 0.5 * np.cos(0.3 * _I * _J)).reshape(4, 8, 5)
Y = ((7 * np.arange(32) + np.arange(32) // 5) % 3).reshape(4, 8)
PARAMS = {
    "W1": 0.3 * np.cos(np.arange(20)).reshape(5, 4),
    "b1": 0.1 * np.sin(np.arange(4)),
    "W2": 0.3 * np.sin(np.arange(2, 14)).reshape(4, 3),
    "b2": np.zeros(3),
}
THREE_UNITS = {"W1": 0, "b1": 0, "W2": 1, "b2": 2}


class Golden(NamedTuple):
    """Rows "0-based step, loss before, step sizes after, forward passes, sum of squares of parameters"."""

    rows: str
    forwards: int  # in the whole run, the loss before each step included
    skipped: int = 0  # steps without a search


ADAM_SLS = Golden(
    """
    0 1.10899440853 .22908528416 16 3.3580805665
    1 1.09001262755 .185816498063 4 3.93709803234
    2 1.11840566146 .167466845755 3 4.33737504474
    20 1.0693351829 .0821227504606 2 5.9892725891
    60 .9436715396 .0868052287774 2 29.7072235719
    119 .760562550732 .0618069713982 2 90.2319369022""",
    forwards=268,
)
PLA_SLS = Golden(  # three units
    """
    0 1.10899440853 .387957940286 .387957940286 .387957940286 11 7.06293464999
    6 1.20620640492 .207898837796 .207898837796 .207898837796 2 12.6762296525
    7 .976751942516 .208187246646 .151768502805 .208187246646 5 13.1812596942
    60 .969813953528 .0868052287774 .163339352397 .224059468309 2 60.9669906103
    119 .676911438379 .0364963985409 .143581136873 .243155916057 2 107.804965381""",
    forwards=278,
)
PAPER_VERSION = Golden(
    """
    0 1.10899440853 .22908528416 16 3.3580805665
    1 1.09001262755 .185816498063 4 3.02628686384
    2 1.14978803276 .186074273061 2 1.97312849282
    20 1.10794491088 .125168039111 2 4.04245422221
    119 .906801012577 .0763049029607 2 62.1695412046""",
    forwards=266,
)
SALSA_CLASS = Golden(  # beta 0.99, as in all of the class
    """
    0 1.10899440853 .22908528416 16 3.3580805665
    1 1.09001262755 .185816498063 4 3.93709803234
    2 1.11840566146 .186074273061 2 4.40061791499
    20 1.06586959901 .1126512352 2 7.00393993558
    119 .735756647949 .0942035839021 2 121.587134738""",
    forwards=264,
)
SALSA_CLASS_SKIPPING = Golden(
    "119 .735759275025 .0847832255119 1 119.711074594",
    forwards=236,
    skipped=29,
)
SALSA_CLASS_THREE_UNITS = Golden(
    """
    0 1.10899440853 .314245931632 .314245931632 .314245931632 13 5.09918068746
    1 1.10294191178 .283213683986 .283213683986 .283213683986 3 7.26837543752
    60 .990510045401 .18148816933 .201653521478 .224059468309 3 76.5214891946
    119 .666033100937 .177260662806 .159534596525 .243155916057 2 184.374954284""",
    forwards=262,
)
SALSA_CLASS_THREE_UNITS_SKIPPING = Golden(
    "119 .659906407086 .159534596525 .196956292006 .243155916057 1 183.233531308",
    forwards=229,
    skipped=32,
)
SALSA_PACKAGED = Golden(  # its own defaults
    """
    0 1.10899440853 .094489280512 13 2.07854893078
    1 1.07992391002 .0831505668506 3 2.14060109948
    2 1.08726509359 .0914656235356 2 1.92162720775
    20 1.10977040922 .106648841253 3 1.82059892501
    119 .748808478178 .097699969158 1 38.6450444423""",
    forwards=266,
    skipped=25,
)
SALSA_PACKAGED_MOMENTUM = Golden(  # its own defaults, use_mv
    """
    0 1.10899440853 .1476395008 11 1.87090869629
    1 1.07807228892 .16240345088 2 2.19671524329
    20 1.08098627608 .325466434486 2 9.62570974048
    119 .61596740728 .726278688689 1 840.236588986""",
    forwards=267,
    skipped=18,
)
ARMIJO_SGD = Golden(  # c 0.5, first step size 100
    """
    0 1.10899440853 3.82049690865 33 1.69953244679
    1 1.05532260608 3.8257969148 2 2.21038101156
    2 1.16216020222 2.26222876241 7 1.42739922402
    20 1.10932167745 2.31938903471 2 2.00144042772
    119 .96843612898 1.5710502855 2 16.9498359098""",
    forwards=281,
)


class Run(NamedTuple):
    """What there is to compare of a run, step by step; T is the number of steps and U that of units."""

    losses: np.ndarray  # [T]: before the step
    step_sizes: np.ndarray  # [T, U]: kept after it
    forwards: np.ndarray  # [T]: the loss before the step included
    params: dict[str, np.ndarray]  # [T, ...]: after it


def three_units(params):
    return {name: THREE_UNITS[name] for name in params}


def loss(params, x, y):
    logits = jnp.tanh(x @ params["W1"] + params["b1"]) @ params["W2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def run(tx, steps=STEPS):
    """Train in float64.

    Args:
        tx: a chain that ends in a line search.
        steps: number of updates.
    """
    with jax.enable_x64(True):

        def step(carry, batch):
            params, state = carry

            def value_fn(params):
                return loss(params, *batch)

            value, grad = jax.value_and_grad(value_fn)(params)
            updates, after = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
            params = optax.apply_updates(params, updates)
            trials = after[-1].evaluations - state[-1].evaluations
            return (params, after), Run(value, after[-1].step_size, 1 + trials, params)

        params = jax.tree.map(jnp.asarray, PARAMS)
        turns = np.arange(steps) % len(X)
        start = params, tx.init(params)
        return jax.tree.map(
            np.asarray, jax.jit(lambda *args: jax.lax.scan(step, *args)[1])(start, (X[turns], Y[turns]))
        )


def check(tx, golden):
    """Hold a line search to the authors' rows: decision by decision, and to the digits that they have."""
    check_rows(run(tx), golden)


def check_rows(ours, golden):
    """As ``check``, of a run that has been made."""
    squares = sum(np.sum(leaf.reshape(STEPS, -1) ** 2, axis=1) for leaf in ours.params.values())
    for row in golden.rows.strip().splitlines():
        step, wanted_loss, *wanted_sizes, forwards, wanted_squares = map(float, row.split())
        step = int(step)
        np.testing.assert_allclose(ours.losses[step], wanted_loss, rtol=1e-10, err_msg=row)
        np.testing.assert_allclose(ours.step_sizes[step], wanted_sizes, rtol=1e-9, err_msg=row)
        assert ours.forwards[step] == forwards, row
        np.testing.assert_allclose(squares[step], wanted_squares, rtol=1e-10, err_msg=row)
    assert ours.forwards.sum() == golden.forwards
    assert np.sum(ours.forwards == 1) == golden.skipped


def check_same(ours, theirs):
    """Hold one run to another at every step."""
    np.testing.assert_array_equal(ours.forwards, theirs.forwards)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-10)
    np.testing.assert_allclose(ours.step_sizes, theirs.step_sizes, rtol=1e-9)
    # Along directions with momentum, noise of 2e-16 in the gradients becomes 4e-11 of the largest parameter.
    scale = max(np.abs(leaf).max() for leaf in theirs.params.values())
    for name, leaf in ours.params.items():
        np.testing.assert_allclose(leaf, theirs.params[name], rtol=0, atol=1e-10 * scale, err_msg=name)
