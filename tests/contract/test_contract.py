"""Every method and every wrapper keeps every promise of ``optimiz.testing``, the conventions among them too.

What does not apply is declared in the table. Promises about devices are those of test_devices.py, where all
methods share a program.
"""

import pytest

import optimiz.testing as ot
from tests.contract.table import SUBJECTS

# Their chains are those of adamw, adamax, nadamw, sgd, signum, sophia_g and salsa but for an argument or two.
SIBLINGS = {
    *("adam", "adamaxw", "nadam", "sqrt_size_sgd", "sign_sgd", "sophia_h"),
    *("adam_sls", "armijo_sgd", "momentum_sls", "pla_sls"),
}
CASES = {
    f"{name}-{case}": case
    for name, subject in SUBJECTS.items()
    for case in ot.promises(subject, conventions=True)
    if case.promise.theme != "devices"
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.long] if name.partition("-")[0] in SIBLINGS else [])
        for name, case in CASES.items()
    ],
)
def test_contract(case):
    try:
        case.check()
    except ot.NotApplicable as reason:
        assert str(reason) in case.subject.exempt.values()
        raise
