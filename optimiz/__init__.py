"""optimiz: optimizers and learning-rate schedules for JAX.

Every optimizer and primitive is an ``optax.GradientTransformationExtraArgs`` and every schedule an Optax
schedule, so that all of it composes with Optax. ``optimiz.training`` and ``optimiz.compare`` are imported by
name and need the extra ``train``.
"""

from optimiz import diagnostics as diagnostics
from optimiz import groups as groups
from optimiz import schedules as schedules
from optimiz.hyperparams import hyperparams as hyperparams
from optimiz.mean_over import mean_over as mean_over
from optimiz.numerics import BFloat16 as BFloat16
from optimiz.numerics import Float8 as Float8
from optimiz.numerics import Int8 as Int8
from optimiz.optimizers import adafactor as adafactor
from optimiz.optimizers import adagrad as adagrad
from optimiz.optimizers import adam as adam
from optimiz.optimizers import adam_sls as adam_sls
from optimiz.optimizers import adamax as adamax
from optimiz.optimizers import adamaxw as adamaxw
from optimiz.optimizers import adamw as adamw
from optimiz.optimizers import amsgrad as amsgrad
from optimiz.optimizers import armijo_sgd as armijo_sgd
from optimiz.optimizers import lamb as lamb
from optimiz.optimizers import lars as lars
from optimiz.optimizers import lion as lion
from optimiz.optimizers import momentum_sls as momentum_sls
from optimiz.optimizers import nadam as nadam
from optimiz.optimizers import nadamw as nadamw
from optimiz.optimizers import pla_sls as pla_sls
from optimiz.optimizers import rmsprop as rmsprop
from optimiz.optimizers import salsa as salsa
from optimiz.optimizers import salsa_class as salsa_class
from optimiz.optimizers import salsa_packaged as salsa_packaged
from optimiz.optimizers import scale_by_adamax as scale_by_adamax
from optimiz.optimizers import scale_by_amsgrad as scale_by_amsgrad
from optimiz.optimizers import scale_by_factored_rms as scale_by_factored_rms
from optimiz.optimizers import scale_by_lion as scale_by_lion
from optimiz.optimizers import scale_by_rms as scale_by_rms
from optimiz.optimizers import scale_by_rss as scale_by_rss
from optimiz.optimizers import sgd as sgd
from optimiz.optimizers import sgd_sai as sgd_sai
from optimiz.optimizers import sign_sgd as sign_sgd
from optimiz.optimizers import signum as signum
from optimiz.optimizers import sophia_g as sophia_g
from optimiz.optimizers import sophia_h as sophia_h
from optimiz.optimizers import sqrt_size_sgd as sqrt_size_sgd
from optimiz.primitives import accumulate as accumulate
from optimiz.primitives import clip_by_global_norm as clip_by_global_norm
from optimiz.primitives import decoupled_weight_decay as decoupled_weight_decay
from optimiz.primitives import ema as ema
from optimiz.primitives import gauss_newton_bartlett as gauss_newton_bartlett
from optimiz.primitives import guard as guard
from optimiz.primitives import hutchinson as hutchinson
from optimiz.primitives import kahan as kahan
from optimiz.primitives import lean as lean
from optimiz.primitives import low_bit as low_bit
from optimiz.primitives import on_step as on_step
from optimiz.primitives import scale_by_adam as scale_by_adam
from optimiz.primitives import scale_by_armijo as scale_by_armijo
from optimiz.primitives import scale_by_groups as scale_by_groups
from optimiz.primitives import scale_by_gsnr as scale_by_gsnr
from optimiz.primitives import scale_by_learning_rate as scale_by_learning_rate
from optimiz.primitives import scale_by_sophia as scale_by_sophia
from optimiz.primitives import scale_by_trust_ratio as scale_by_trust_ratio
from optimiz.primitives import search_every as search_every
from optimiz.primitives import search_when_changing as search_when_changing
from optimiz.primitives import seeded_ema as seeded_ema
from optimiz.primitives import stochastic_rounding as stochastic_rounding
from optimiz.primitives import trace as trace
from optimiz.state_bytes import StateBytes as StateBytes
from optimiz.state_bytes import state_bytes as state_bytes

__version__ = "0.1.0"
