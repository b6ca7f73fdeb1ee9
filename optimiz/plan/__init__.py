"""What an optimizer costs on devices that you do not have: memory, traffic and collectives, by their compilers.

    >>> import jax, optax
    >>> from optimiz import plan
    >>> shapes = {"kernel": jax.ShapeDtypeStruct((1024, 1024), "float32")}
    >>> planned = plan.update(optax.sgd(0.1), shapes, "cpu")  # or "v5e:4x4", "h200"
    >>> planned.bound  # parameters and gradients are read, parameters are written
    12582912

It is imported by name and needs the extra ``train``; the extras ``tpu`` and ``gpu`` add the compilers.
"""

from optimiz.plan.plan import Plan as Plan
from optimiz.plan.planning import call as call
from optimiz.plan.planning import step as step
from optimiz.plan.planning import update as update
from optimiz.plan.targets import DEVICES as DEVICES
from optimiz.plan.targets import Device as Device
from optimiz.plan.targets import Target as Target
from optimiz.plan.targets import target as target
from optimiz.plan.traffic import Collective as Collective
from optimiz.plan.traffic import Traffic as Traffic
