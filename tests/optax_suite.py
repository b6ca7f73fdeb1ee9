"""Run one of Optax's own test files on our factories: a program, for test_optax_suite.py.

python -m tests.optax_suite MODULE NAMES

The module is imported unmodified, after every name in NAMES (comma-separated) has been replaced by ours where
the tests take it from. Only tests with one of the names in their own name or parameters are run, or all of them
where no test of the file is about an optimizer. The last line counts them.
"""

import importlib
import os
import re
import sys
import unittest

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before JAX starts, as sharding_test asks

import optax
from optax._src import alias

import optimiz


def cases(suite):
    """The test cases of nested suites."""
    for test in suite:
        yield from cases(test) if isinstance(test, unittest.TestSuite) else [test]


def about(test, names):
    """Whether a test case is about one of the optimizers."""
    method = getattr(test, test._testMethodName)
    parameters = getattr(method, "__x_params_repr__", "")
    named = re.search(r"opt_name='?(\w+)'?", parameters)
    if named:
        return named[1] in names
    return any(test._testMethodName.endswith(f"_{name}") for name in names)


def main(module, names):
    """Run the tests and exit with the number of failures."""
    for name in names:
        setattr(alias, name, getattr(optimiz, name))
        setattr(optax, name, getattr(optimiz, name))
    loaded = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(module))
    everything = list(cases(loaded))
    chosen = [test for test in everything if about(test, names)] or everything
    result = unittest.TextTestRunner(verbosity=1).run(unittest.TestSuite(chosen))
    bad = [str(test) for test, _ in result.failures + result.errors]
    skipped = len(result.skipped)
    print(f"{result.testsRun - len(bad) - skipped} passed, {len(bad)} failed, {skipped} skipped")
    sys.exit(min(len(bad), 125))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","))
