"""One kernel for the update of a parameter whose state is stored in blocks of four or eight bits."""

from optimiz.numerics.block_kernels.fused_update import update_and_apply as update_and_apply
from optimiz.numerics.block_kernels.ops import decoded as decoded
from optimiz.numerics.block_kernels.ops import encoded as encoded
from optimiz.numerics.block_kernels.ops import is_traced as is_traced
