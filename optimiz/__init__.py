"""optimiz: optimizers and learning-rate schedules for JAX.

Every optimizer and primitive is an ``optax.GradientTransformationExtraArgs`` and every schedule an Optax
schedule, so that all of it composes with Optax. ``optimiz.training`` and ``optimiz.compare`` are imported by
name and need the extra ``train``.
"""

from optimiz import groups as groups
from optimiz import schedules as schedules
from optimiz.optimizers import adamw as adamw
from optimiz.optimizers import lion as lion
from optimiz.optimizers import scale_by_lion as scale_by_lion
from optimiz.optimizers import sgd as sgd
from optimiz.optimizers import sgd_sai as sgd_sai
from optimiz.optimizers import sign_sgd as sign_sgd
from optimiz.optimizers import signum as signum
from optimiz.primitives import decoupled_weight_decay as decoupled_weight_decay
from optimiz.primitives import ema as ema
from optimiz.primitives import scale_by_adam as scale_by_adam
from optimiz.primitives import scale_by_groups as scale_by_groups
from optimiz.primitives import scale_by_gsnr as scale_by_gsnr
from optimiz.primitives import scale_by_learning_rate as scale_by_learning_rate
from optimiz.primitives import seeded_ema as seeded_ema
from optimiz.primitives import trace as trace

__version__ = "0.1.0"
