"""optimiz: optimizers and learning-rate schedules for JAX.

Every optimizer and primitive is an ``optax.GradientTransformationExtraArgs`` and every schedule an Optax
schedule, so that all of it composes with Optax. ``optimiz.training`` and ``optimiz.compare`` are imported by
name and need the extra ``train``.
"""

from optimiz import diagnostics as diagnostics
from optimiz import groups as groups
from optimiz import methods as methods
from optimiz import schedules as schedules
from optimiz import torch_state as torch_state
from optimiz.averaged_params import averaged_params as averaged_params
from optimiz.hyperparams import hyperparams as hyperparams
from optimiz.mean_over import mean_over as mean_over
from optimiz.numerics import BFloat16 as BFloat16
from optimiz.numerics import Float8 as Float8
from optimiz.numerics import Int4 as Int4
from optimiz.numerics import Int8 as Int8
from optimiz.numerics import NewtonSchulz as NewtonSchulz
from optimiz.numerics import matrix_scales as matrix_scales
from optimiz.numerics import newton_schulz as newton_schulz
from optimiz.numerics import update_and_apply as update_and_apply
from optimiz.optimizers import *  # noqa: F403
from optimiz.primitives import accumulate as accumulate
from optimiz.primitives import average as average
from optimiz.primitives import cautious as cautious
from optimiz.primitives import clip_by_global_norm as clip_by_global_norm
from optimiz.primitives import decoupled_weight_decay as decoupled_weight_decay
from optimiz.primitives import ema as ema
from optimiz.primitives import gauss_newton_bartlett as gauss_newton_bartlett
from optimiz.primitives import guard as guard
from optimiz.primitives import hutchinson as hutchinson
from optimiz.primitives import kahan as kahan
from optimiz.primitives import low_bit as low_bit
from optimiz.primitives import low_memory_update as low_memory_update
from optimiz.primitives import on_step as on_step
from optimiz.primitives import project_to_sphere as project_to_sphere
from optimiz.primitives import scale_by_adam as scale_by_adam
from optimiz.primitives import scale_by_armijo as scale_by_armijo
from optimiz.primitives import scale_by_groups as scale_by_groups
from optimiz.primitives import scale_by_gsnr as scale_by_gsnr
from optimiz.primitives import scale_by_learning_rate as scale_by_learning_rate
from optimiz.primitives import scale_by_muon as scale_by_muon
from optimiz.primitives import scale_by_sophia as scale_by_sophia
from optimiz.primitives import scale_by_trust_ratio as scale_by_trust_ratio
from optimiz.primitives import schedule_free as schedule_free
from optimiz.primitives import search_every as search_every
from optimiz.primitives import search_when_changing as search_when_changing
from optimiz.primitives import seeded_ema as seeded_ema
from optimiz.primitives import stochastic_rounding as stochastic_rounding
from optimiz.primitives import trace as trace
from optimiz.state_bytes import StateBytes as StateBytes
from optimiz.state_bytes import state_bytes as state_bytes

__version__ = "0.1.0"
