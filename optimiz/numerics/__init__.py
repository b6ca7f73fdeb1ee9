"""Functions of arrays, JAX only: the arithmetic that primitives map over a tree."""

from optimiz.numerics.armijo import Directions as Directions
from optimiz.numerics.armijo import grow_each_search as grow_each_search
from optimiz.numerics.armijo import grow_each_step as grow_each_step
from optimiz.numerics.armijo import smoothed as smoothed
from optimiz.numerics.armijo import sufficient_decrease as sufficient_decrease
from optimiz.numerics.blocks import block_axes as block_axes
from optimiz.numerics.blocks import block_norm as block_norm
from optimiz.numerics.blocks import norm_and_deviation as norm_and_deviation
from optimiz.numerics.leaves import map_many as map_many
from optimiz.numerics.moments import abs_sq as abs_sq
from optimiz.numerics.moments import bias_correction as bias_correction
from optimiz.numerics.moments import real_moment as real_moment
from optimiz.numerics.moments import squarable as squarable
from optimiz.numerics.moments import zero_moment as zero_moment
from optimiz.numerics.precision import compute_dtype as compute_dtype
from optimiz.numerics.precision import narrow as narrow
from optimiz.numerics.precision import real_dtype as real_dtype
from optimiz.numerics.precision import widen as widen
from optimiz.numerics.units import number_of_units as number_of_units
from optimiz.numerics.units import unit_scale as unit_scale
from optimiz.numerics.units import unit_vdot as unit_vdot
