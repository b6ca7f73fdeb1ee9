"""The sections of a report, each of which answers one question.

Each function takes the record, its methods from :func:`optimiz.compare.methods.by_method` and the metric that
ranks them, as far as it needs them, and returns paragraphs of Markdown: none if the record does not answer the
question.
"""

from optimiz.compare.sections.costs import cost as cost
from optimiz.compare.sections.gradients import beginning as beginning
from optimiz.compare.sections.gradients import noise as noise
from optimiz.compare.sections.grids import axes as axes
from optimiz.compare.sections.grids import dropped as dropped
from optimiz.compare.sections.grids import rates as rates
from optimiz.compare.sections.leads import differences as differences
from optimiz.compare.sections.leads import seeds as seeds
from optimiz.compare.sections.single_runs import all_runs as all_runs
from optimiz.compare.sections.single_runs import by_class as by_class
from optimiz.compare.sections.single_runs import by_label as by_label
from optimiz.compare.sections.single_runs import health as health
from optimiz.compare.sections.single_runs import kept as kept
from optimiz.compare.sections.single_runs import pictures as pictures
from optimiz.compare.sections.single_runs import samples as samples
