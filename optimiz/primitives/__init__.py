"""The primitives: one verb, one page. Optimizers are chains of them."""

from optimiz.primitives.decoupled_weight_decay import (
    DecoupledWeightDecayState as DecoupledWeightDecayState,
)
from optimiz.primitives.decoupled_weight_decay import (
    decoupled_weight_decay as decoupled_weight_decay,
)
from optimiz.primitives.momentum import EmaState as EmaState
from optimiz.primitives.momentum import SeededEmaState as SeededEmaState
from optimiz.primitives.momentum import TraceState as TraceState
from optimiz.primitives.momentum import ema as ema
from optimiz.primitives.momentum import seeded_ema as seeded_ema
from optimiz.primitives.momentum import trace as trace
from optimiz.primitives.scale_by_adam import ScaleByAdamState as ScaleByAdamState
from optimiz.primitives.scale_by_adam import scale_by_adam as scale_by_adam
from optimiz.primitives.scale_by_groups import scale_by_groups as scale_by_groups
from optimiz.primitives.scale_by_gsnr import ScaleByGsnrState as ScaleByGsnrState
from optimiz.primitives.scale_by_gsnr import scale_by_gsnr as scale_by_gsnr
from optimiz.primitives.scale_by_learning_rate import (
    ScaleByLearningRateState as ScaleByLearningRateState,
)
from optimiz.primitives.scale_by_learning_rate import (
    scale_by_learning_rate as scale_by_learning_rate,
)
