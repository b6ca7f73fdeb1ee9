"""Diagnostics of a run: statistics of gradients and parameters, and problems with evidence and a remedy.

Nothing here changes an update. A *block* is a parameter tensor, a layer of a stacked one, or the parameters
with one label.
"""

from optimiz.diagnostics.blocks import block_names as block_names
from optimiz.diagnostics.blocks import by_layer as by_layer
from optimiz.diagnostics.blocks import by_tensor as by_tensor
from optimiz.diagnostics.curvature import Curvature as Curvature
from optimiz.diagnostics.curvature import block_curvature as block_curvature
from optimiz.diagnostics.finding import Finding as Finding
from optimiz.diagnostics.health import health as health
from optimiz.diagnostics.heterogeneity import Heterogeneity as Heterogeneity
from optimiz.diagnostics.heterogeneity import heterogeneity as heterogeneity
from optimiz.diagnostics.noise import GradientNoise as GradientNoise
from optimiz.diagnostics.noise import NoiseLevel as NoiseLevel
from optimiz.diagnostics.noise import Tails as Tails
from optimiz.diagnostics.noise import gradient_noise as gradient_noise
from optimiz.diagnostics.noise import gradient_tails as gradient_tails
from optimiz.diagnostics.noise import noise_level as noise_level
from optimiz.diagnostics.noise import noise_scale as noise_scale
from optimiz.diagnostics.probe import ProbeState as ProbeState
from optimiz.diagnostics.probe import probe as probe
from optimiz.diagnostics.probe import readings as readings
from optimiz.diagnostics.watch import Watch as Watch
