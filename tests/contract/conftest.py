"""Which optimizers the programs on several devices train: a few of different kinds in a quick run, or all."""

import pytest

from tests.contract import devices


@pytest.fixture(params=["few", pytest.param("all", marks=pytest.mark.long)])
def methods(request, monkeypatch):
    """The names of those that are trained, here and in programs that a test starts."""
    monkeypatch.setenv(devices.CHOSEN, request.param)
    return devices.optimizers().keys()
