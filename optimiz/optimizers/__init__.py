"""The optimizers: one paper, one page."""

from optimiz.optimizers.adamw import adamw as adamw
from optimiz.optimizers.lion import ScaleByLionState as ScaleByLionState
from optimiz.optimizers.lion import lion as lion
from optimiz.optimizers.lion import scale_by_lion as scale_by_lion
from optimiz.optimizers.sgd import sgd as sgd
from optimiz.optimizers.sgd_sai import sgd_sai as sgd_sai
from optimiz.optimizers.sign_sgd import sign_sgd as sign_sgd
from optimiz.optimizers.signum import signum as signum
