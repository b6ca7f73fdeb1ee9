"""Promises about devices, of a sound optimizer and of the mutants: a program, for test_promises.py.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.testing.on_devices

Prints one line of JSON: optimizer → the promises that it breaks.
"""

import json

import optimiz.testing as ot
from tests.testing.mutants import DEVICE_MUTANTS, SOUND, Mutant, sound

if __name__ == "__main__":
    optimizers = {"sound": Mutant(sound, SOUND), **DEVICE_MUTANTS}
    reports = {
        name: ot.check(mutant.factory, only=DEVICE_MUTANTS, **mutant.options)
        for name, mutant in optimizers.items()
    }
    assert not any(report.not_applicable for report in reports.values())
    print(json.dumps({name: [str(o.promise) for o in report.broken] for name, report in reports.items()}))
