"""Learning-rate schedules: shapes over a run, bound to its steps or to its budget.

A *shape* is a function from the progress of a run, x in [0, 1], to a value. It knows nothing of steps; bound by
:func:`over_steps`, it is an ordinary Optax schedule of the update count c. Counts are 0-based: T steps apply
η(0) … η(T - 1). After the end a schedule stays at η(T). Bound by :func:`over_budget`, its progress is the
fraction of a budget that was spent before the update, as set by :func:`spending`.
"""

from optimiz.schedules.binding import called as called
from optimiz.schedules.binding import made as made
from optimiz.schedules.binding import over_budget as over_budget
from optimiz.schedules.binding import over_steps as over_steps
from optimiz.schedules.binding import peak as peak
from optimiz.schedules.binding import spending as spending
from optimiz.schedules.binding import zero_from as zero_from
from optimiz.schedules.recipes import one_cycle as one_cycle
from optimiz.schedules.recipes import warmup_constant as warmup_constant
from optimiz.schedules.recipes import warmup_cosine as warmup_cosine
from optimiz.schedules.recipes import warmup_linear as warmup_linear
from optimiz.schedules.recipes import wsd as wsd
from optimiz.schedules.scaling import linear_scaling as linear_scaling
from optimiz.schedules.scaling import sqrt_scaling as sqrt_scaling
from optimiz.schedules.shapes import Shape as Shape
from optimiz.schedules.shapes import constant as constant
from optimiz.schedules.shapes import cosine as cosine
from optimiz.schedules.shapes import exponential as exponential
from optimiz.schedules.shapes import inverse_sqrt as inverse_sqrt
from optimiz.schedules.shapes import linear as linear
from optimiz.schedules.shapes import one_minus_sqrt as one_minus_sqrt
from optimiz.schedules.shapes import step as step
from optimiz.schedules.shapes import warm_up as warm_up
