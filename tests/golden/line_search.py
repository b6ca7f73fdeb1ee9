"""The line searches of the papers on problem P, in NumPy's float64, written from their equations.

Only what can happen on problem P is here: no gradient vanishes, and every value is finite. Where methods differ
by a decision, it is a keyword.
"""

import numpy as np

from tests.golden.problem_p import PARAMS, STEPS, Run, X, Y

ONE_UNIT = dict.fromkeys(PARAMS, 0)


def value(w, x, y):
    logits = np.tanh(x @ w["W1"] + w["b1"]) @ w["W2"] + w["b2"]
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y])


def gradient(w, x, y):
    hidden = np.tanh(x @ w["W1"] + w["b1"])
    exp = np.exp(hidden @ w["W2"] + w["b2"])
    error = (exp / exp.sum(1, keepdims=True) - np.eye(3)[y]) / len(y)
    inner = (error @ w["W2"].T) * (1 - hidden**2)
    return {"W1": x.T @ inner, "b1": inner.sum(0), "W2": hidden.T @ error, "b2": error.sum(0)}


def dot(a, b):
    return sum(np.sum(a[name] * b[name]) for name in a)


def ahead(w, eta, d):
    """w - η d."""
    return {name: w[name] - eta * d[name] for name in w}


class Adam:
    """Directions D g and D m̂; ``late`` updates are counted before the first."""

    def __init__(self, late=0):
        self.t, self.m, self.v = late, dict.fromkeys(PARAMS, 0.0), dict.fromkeys(PARAMS, 0.0)

    def directions(self, g):
        self.t += 1
        search, step = {}, {}
        for name in g:
            self.m[name] = 0.9 * self.m[name] + 0.1 * g[name]
            self.v[name] = 0.999 * self.v[name] + 0.001 * g[name] ** 2
            root = np.sqrt(self.v[name] / (1 - 0.999**self.t)) + 1e-8
            search[name] = g[name] / root
            step[name] = self.m[name] / (1 - 0.9**self.t) / root
        return search, step


class Frequency:
    """When SaLSa searches: at the first few steps, and the more often, the more the first step size changes."""

    def __init__(self, first):
        self.step, self.first, self.since, self.fast, self.slow = -1, first, 100, 1e-8, 1e-8

    def due(self):
        self.step += 1
        self.since += 1
        ratio = max(self.fast / self.slow, self.slow / self.fast)
        return self.step < self.first or self.since >= min(10, 1 / (ratio - 1 + 1e-8))

    def searched(self, eta):
        self.since = 0
        self.fast = 0.9 * self.fast + 0.1 * eta
        self.slow = 0.99 * self.slow + 0.01 * eta


class Always:
    """When the others search."""

    def due(self):
        return True

    def searched(self, eta):
        pass


def backtrack(accepts, eta, shrink, trials):
    """The step size that is left, the number of trials, and whether the last was accepted."""
    for n in range(1, trials + 1):
        if accepts(eta):
            return eta, n, True
        eta *= shrink
    return eta, trials, False


def recorded(step):
    """Run ``step(w, x, y) → (w, step sizes, trials)`` over all mini-batches."""
    w, rows = PARAMS, []
    for t in range(STEPS):
        x, y = X[t % 4], Y[t % 4]
        before = value(w, x, y)
        w, eta, trials = step(w, x, y)
        rows.append((before, np.copy(eta), 1 + trials, w))
    losses, sizes, forwards, params = zip(*rows, strict=True)
    return Run(
        np.array(losses),
        np.array(sizes),
        np.array(forwards),
        {name: np.stack([w[name] for w in params]) for name in PARAMS},
    )


def armijo_sgd(c=0.5, eta=100.0):
    def step(w, x, y):
        nonlocal eta
        f, g = value(w, x, y), gradient(w, x, y)
        eta *= 2 ** (1 / 500)
        eta, trials, _ = backtrack(
            lambda e: value(ahead(w, e, g), x, y) <= f - c * e * dot(g, g), eta, 0.9, 100
        )
        return ahead(w, eta, g), [eta], trials

    return recorded(step)


def adam_sls(
    c=0.3,
    *,
    units=ONE_UNIT,
    beta=0.0,
    when=None,
    trials=100,
    together=6,
    joint_slope=lambda slopes: slopes[-1],
    others="prefix",
    move_along="step",
):
    """ADAMSLS, PLASLS and the class of SaLSa, from a step size of 1.

    Args:
        c: the share of the promised decrease.
        units: unit of each array.
        beta: of SaLSa's averages.
        when: says when to search.
        trials: the most in one search.
        together: first searches that are joint.
        joint_slope: the slope of a joint search.
        others: whether units before the searched one have moved in a trial.
        move_along: what the searched unit does at the end.
    """
    adam, when = Adam(), when or Always()
    number = 1 + max(units.values())
    eta, h, s = np.ones(number), np.zeros(number), np.zeros(number)
    searches = 0

    def step(w, x, y):
        nonlocal eta, searches
        f, g = value(w, x, y), gradient(w, x, y)
        search, along = adam.directions(g)
        eta = eta * 2 ** (1 / 500)
        done, turn = 0, None
        if when.due():
            slopes = [np.sum([np.sum(g[k] * search[k]) for k in g if units[k] == u]) for u in range(number)]
            joint = searches < together or number == 1
            turn = range(number) if joint else [(searches - together) % number]
            first = turn[0]
            slope = joint_slope(slopes) if joint else slopes[first]
            s[turn] = beta * s[first] + (1 - beta) * slope

            def trial(e):
                point = dict(w)
                for k, u in units.items():
                    if u in turn:
                        point[k] = w[k] - e * search[k]
                    elif u < first and others == "prefix":
                        point[k] = w[k] - eta[u] * along[k]
                return point

            def smoothed(e):
                return beta * h[first] + (1 - beta) * (f - value(trial(e), x, y))

            found, done, accepted = backtrack(
                lambda e: smoothed(e) >= c * e * s[first], eta[first], 0.9, trials
            )
            if accepted:
                h[turn] = smoothed(found)
            eta[turn] = found
            searches += 1
            when.searched(eta[0])
        stays = turn if turn is not None and move_along == "search" else []
        w = {k: w[k] - eta[u] * (search if u in stays else along)[k] for k, u in units.items()}
        return w, eta, done

    return recorded(step)


def salsa_packaged(*, momentum_search=False, c=0.5, beta=0.9):
    adam, when = Adam(late=1), Frequency(9)
    stored, h, s = 1.0, 0.0, 0.0

    def step(w, x, y):
        nonlocal stored, h, s
        f, g = value(w, x, y), gradient(w, x, y)
        search, along = adam.directions(g)
        if momentum_search:
            search = along
        eta = 1.1 * stored
        if not when.due():
            return ahead(w, eta, along), [stored], 0
        s = beta * s + (1 - beta) * dot(g, search)

        def smoothed(e):
            return beta * h + (1 - beta) * (f - value(ahead(w, e, search), x, y))

        stored, done, accepted = backtrack(lambda e: smoothed(e) >= c * e * s, eta, 0.8, 100)
        assert accepted
        h = smoothed(stored)
        when.searched(stored)
        return ahead(w, stored, search), [stored], done

    return recorded(step)


def momentum_sls(c=0.3, beta=0.99):
    """With the slope itself in place of the authors' difference quotient, and the gradient where that rises."""
    adam = Adam()
    eta, h, s = 1.0, 0.0, 0.0

    def step(w, x, y):
        nonlocal eta, h, s
        f, g = value(w, x, y), gradient(w, x, y)
        _, d = adam.directions(g)
        if dot(g, d) < 0:
            length = np.sqrt(dot(d, d) / dot(g, g))
            d = {name: length * g[name] for name in g}
        eta /= 0.999
        s = beta * s + (1 - beta) * dot(g, d)

        def smoothed(e):
            return beta * h + (1 - beta) * (f - value(ahead(w, e, d), x, y))

        eta, done, accepted = backtrack(lambda e: smoothed(e) >= c * e * s, eta, 0.9, 100)
        if accepted:
            h = smoothed(eta)
        return ahead(w, eta, d), [eta], done

    return recorded(step)
