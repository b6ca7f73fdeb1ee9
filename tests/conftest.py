"""What several test files share: programs that run on devices of their own, and the record of the contract."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
_FLAGS = pytest.StashKey[str]()

# Most of the time is compilation of small programs, which these halve. JAX 0.11.2 has one kind of emitters, and
# the compiler of TPUs ends the process at a flag that it does not know.
UNOPTIMIZED = "--xla_backend_optimization_level=0"
_HAS_EMITTERS = jax.__version_info__ < (0, 11) and importlib.util.find_spec("libtpu") is None
ONE_DEVICE = ["--xla_cpu_use_fusion_emitters=false"] if _HAS_EMITTERS else []


def pytest_addoption(parser):
    parser.addoption(
        "--record",
        type=Path,
        metavar="PATH",
        help="write to PATH, as JSON, which optimizer keeps which promise; and beside it the page",
    )


def pytest_configure(config):
    os.environ.setdefault("XLA_FLAGS", " ".join([UNOPTIMIZED, *ONE_DEVICE]))
    config.stash[_FLAGS] = os.environ["XLA_FLAGS"]
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # in the workers, and in children, it is
        _share_programs_for_this_run(config)
    path = config.getoption("record")
    if path and not hasattr(config, "workerinput"):  # the workers of pytest-xdist report to the one that asked
        from tests.contract.record import Recorder

        config.pluginmanager.register(Recorder(path))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Cases after the first few of a test that is marked quick are long."""
    cases = Counter()
    for item in items:
        if few := item.get_closest_marker("quick"):
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > few.args[0]:
                item.add_marker("long")


def pytest_collection_finish(session):
    """Programs of the tests are imported, for their doctests; what one sets would hold for every test."""
    if os.environ["XLA_FLAGS"] != session.config.stash[_FLAGS]:
        raise pytest.UsageError(f"importing the tests set XLA_FLAGS, to {os.environ['XLA_FLAGS']!r}")


def _share_programs_for_this_run(config):
    """What one test or process has compiled is there for all."""
    directory = tempfile.TemporaryDirectory(prefix="optimiz-tests-")
    config.add_cleanup(directory.cleanup)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": directory.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def on_devices(count):
    """The environment of a child whose CPU looks like so many devices; JAX reads it when it starts."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag not in ONE_DEVICE]
    flags.append(f"--xla_force_host_platform_device_count={count}")
    # On a busy machine a thread may be later for a collective than the 40 seconds after which XLA gives up.
    flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=600")
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}


def run_program(module, *arguments, devices):
    """Run a module of the tests as a program on so many devices: the JSON in the last line that it prints."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=on_devices(devices), capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def run_programs(module, *arguments, processes, timeout):
    """Run a module of the tests as several processes of one device each, that wait for one another."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    children = [
        subprocess.Popen(
            [*command, str(index)],
            cwd=ROOT,
            env=on_devices(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(processes)
    ]
    try:
        printed = [child.communicate(timeout=timeout)[0] for child in children]
    finally:
        for child in children:  # SIGKILL: jax.distributed holds SIGTERM up
            child.kill()
            child.wait()
    for child, output in zip(children, printed, strict=True):
        assert child.returncode == 0, output.decode()[-4000:]
    return [json.loads(output.splitlines()[-1]) for output in printed]


@pytest.fixture(scope="session", autouse=True)
def functions_of_the_package():
    """Where pytest has imported a module for its doctests, it stands in the place of its function."""
    import optimiz

    for name in ("hyperparams", "mean_over", "state_bytes"):
        setattr(optimiz, name, getattr(sys.modules[f"optimiz.{name}"], name))


@pytest.fixture
def program():
    return run_program


@pytest.fixture
def programs():
    return run_programs
