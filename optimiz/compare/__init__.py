"""Compare optimizers on one task: run the matrix, keep the record, and render the report from it."""

from optimiz.compare.curves import learning_curves as learning_curves
from optimiz.compare.curves import rate_curves as rate_curves
from optimiz.compare.curves import running_mean as running_mean
from optimiz.compare.lr_range_test import RangeTest as RangeTest
from optimiz.compare.lr_range_test import lr_range_test as lr_range_test
from optimiz.compare.markdown import listed as listed
from optimiz.compare.markdown import table as table
from optimiz.compare.matrix import Arm as Arm
from optimiz.compare.matrix import MatrixProgress as MatrixProgress
from optimiz.compare.matrix import run_matrix as run_matrix
from optimiz.compare.record import Record as Record
from optimiz.compare.record import Run as Run
from optimiz.compare.record import TornRecord as TornRecord
from optimiz.compare.record import environment as environment
from optimiz.compare.report import summary as summary
from optimiz.compare.report import write_report as write_report
from optimiz.compare.statistics import Difference as Difference
from optimiz.compare.statistics import estimate as estimate
from optimiz.compare.statistics import paired_difference as paired_difference
from optimiz.compare.statistics import sensitivity as sensitivity
from optimiz.compare.statistics import t_quantile as t_quantile
from optimiz.compare.statistics import time_to_target as time_to_target
