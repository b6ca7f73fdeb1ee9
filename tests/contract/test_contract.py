"""Every method and every wrapper keeps every promise of ``optimiz.testing``, the conventions among them too.

What does not apply is declared in the table. Promises about devices are those of test_devices.py, where all
methods share a program.
"""

import pytest

import optimiz.testing as ot
from tests.contract.table import SUBJECTS, quick

CASES = {
    f"{name}-{case}": case
    for name, subject in SUBJECTS.items()
    for case in ot.promises(subject, conventions=True)
    if case.promise.theme != "devices"
}


@pytest.mark.parametrize("case", quick(CASES))
def test_contract(case):
    try:
        case.check()
    except ot.NotApplicable as reason:
        assert str(reason) in case.subject.exempt.values()
        raise
