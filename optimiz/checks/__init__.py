"""Refuse bad arguments by name, when a transformation is built or traced.

A hyperparameter outside its domain, or an argument of the wrong kind, is refused when the transformation is
built. A gradient tree that does not fit the parameters, or a chain in the wrong order, is refused when the
update is traced. A traced hyperparameter (under ``vmap``, ``jit`` or ``optax.inject_hyperparams``) has no value
yet and passes.
"""

from optimiz.checks.arguments import at_first as at_first
from optimiz.checks.arguments import either as either
from optimiz.checks.arguments import floating as floating
from optimiz.checks.arguments import integer as integer
from optimiz.checks.arguments import is_zero as is_zero
from optimiz.checks.arguments import key as key
from optimiz.checks.arguments import number as number
from optimiz.checks.arguments import one_of as one_of
from optimiz.checks.arguments import schedule as schedule
from optimiz.checks.arguments import static as static
from optimiz.checks.extras import installed as installed
from optimiz.checks.misplaced import BINDING as BINDING
from optimiz.checks.misplaced import OfCount as OfCount
from optimiz.checks.misplaced import OfProgress as OfProgress
from optimiz.checks.misplaced import bound as bound
from optimiz.checks.misplaced import kinds as kinds
from optimiz.checks.misplaced import transformation as transformation
from optimiz.checks.misplaced import uncalled as uncalled
from optimiz.checks.order import comes_last as comes_last
from optimiz.checks.order import no_step_before as no_step_before
from optimiz.checks.order import no_step_in as no_step_in
from optimiz.checks.order import only_step as only_step
from optimiz.checks.order import step_follows as step_follows
from optimiz.checks.per_parameter import mask as mask
from optimiz.checks.per_parameter import per_parameter as per_parameter
from optimiz.checks.updates import calling as calling
from optimiz.checks.updates import needs_loss as needs_loss
from optimiz.checks.updates import needs_params as needs_params
from optimiz.checks.updates import same_on_devices as same_on_devices
from optimiz.checks.updates import same_shapes as same_shapes
from optimiz.checks.updates import varying_axes as varying_axes
