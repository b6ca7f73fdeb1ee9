"""Compare optimizers on one task: the record of what was measured, and the report rendered from it."""

from optimiz.compare.curves import learning_curves as learning_curves
from optimiz.compare.record import Record as Record
from optimiz.compare.record import Run as Run
from optimiz.compare.report import summary as summary
from optimiz.compare.report import write_report as write_report
