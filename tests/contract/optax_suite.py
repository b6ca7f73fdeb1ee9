"""Run one of Optax's own test files on our factories: a program, for test_optax_suite.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.contract.optax_suite SUITE

SUITE is a module, or one test class of it. It is imported unmodified, after each factory of Optax has been
replaced by ours of the same name, where we have one, and ``contrib.sophia`` by ``sophia_h`` with its settings.
Tests about other optimizers are left out, and those in UNSHARED. The last line counts the tests that passed and
started an optimizer of ours, and all that failed.
"""

import functools
import inspect
import re
import sys
import unittest

import optax
from optax._src import alias

from optimiz import optimizers

OURS = {name: f for name, f in vars(optimizers).items() if inspect.isfunction(f) and hasattr(alias, name)}
SOPHIA = functools.partial(
    optimizers.sophia_h, b1=0.965, eps=1e-8, weight_decay=1e-4, debias=True, refresh="after_step"
)
# Tests of what we do otherwise on purpose: test → why.
UNSHARED = {
    "test_schedule_free_adamw": "compares AdamW, to 1e-6, with a chain that takes 1 - b2 = 0.001 in float32, "
    "which is off by 1e-5 of it. Ours is nearer to the float64 run, as test_optax_suite.py shows.",
}

started = set()  # which of ours the running test has started


def watched(name, factory):
    @functools.wraps(factory)
    def build(*args, **kwargs):
        tx = factory(*args, **kwargs)

        def init(params):
            started.add(name)
            return tx.init(params)

        return tx._replace(init=init)

    return build


def replace():
    for name, factory in OURS.items():
        setattr(alias, name, watched(name, factory))
        setattr(optax, name, getattr(alias, name))
    optax.contrib.sophia = watched("sophia", SOPHIA)


def cases(suite):
    """The test cases of nested suites."""
    for test in suite:
        yield from cases(test) if isinstance(test, unittest.TestSuite) else [test]


def optimizer(test):
    """The optimizer that is an argument of a test case, or None."""
    arguments = getattr(getattr(test, test._testMethodName), "__x_params_repr__", "")
    named = re.search(r"opt_name='?(\w+)'?", arguments)
    return named and named[1]


class Result(unittest.TextTestResult):
    """Counts the tests that started an optimizer of ours."""

    passed = 0

    def startTest(self, test):
        started.clear()
        super().startTest(test)

    def addSuccess(self, test):
        self.passed += bool(started)
        super().addSuccess(test)


def main(suite):
    replace()
    everything = cases(unittest.defaultTestLoader.loadTestsFromName(suite))
    shared = (test for test in everything if test._testMethodName not in UNSHARED)
    chosen = [test for test in shared if optimizer(test) in {None, "sophia", *OURS}]
    result = unittest.TextTestRunner(resultclass=Result).run(unittest.TestSuite(chosen))
    bad = len(result.failures) + len(result.errors)
    print(f"{result.passed} passed, {bad} failed")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main(sys.argv[1])
