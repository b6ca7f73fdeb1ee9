"""The contract of an optimizer, as checks for any ``optax.GradientTransformation``.

.. code-block:: python

    import optimiz.testing as ot

    print(ot.check(my_optimizer, rate=0.1))

    @ot.parametrize(my_optimizer, rate=0.1)
    def test_contract(promise):
        promise.check()

Each promise has a name and a reason why it matters. A failure names the leaf, the dtype and the step.
"""

from optimiz.testing import _installed as _installed
from optimiz.testing.cases import Case as Case
from optimiz.testing.cases import check as check
from optimiz.testing.cases import parametrize as parametrize
from optimiz.testing.cases import promises as promises
from optimiz.testing.contract import PROMISES as PROMISES
from optimiz.testing.promise import BrokenPromise as BrokenPromise
from optimiz.testing.promise import NotApplicable as NotApplicable
from optimiz.testing.promise import Promise as Promise
from optimiz.testing.report import Outcome as Outcome
from optimiz.testing.report import Report as Report
from optimiz.testing.subject import Subject as Subject
