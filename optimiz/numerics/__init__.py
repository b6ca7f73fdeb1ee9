"""Functions of arrays, JAX only: the arithmetic that primitives map over a tree."""

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
