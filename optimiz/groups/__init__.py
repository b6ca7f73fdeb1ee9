"""Groups of parameters: masks, labels, multipliers, matrices and frozen groups from path, rank, scanned axis.

A pattern that matches nothing, a label without a parameter and a parameter without a label are errors. The
first two are not checked on a *partial* tree, which has ``optax.MaskedNode`` holes or no leaves, because Optax
calls a function with such a tree for one group of parameters.
"""

from optimiz.groups.averaged import Blocks as Blocks
from optimiz.groups.averaged import adam_mini_blocks as adam_mini_blocks
from optimiz.groups.describe import describe as describe
from optimiz.groups.freeze import freeze as freeze
from optimiz.groups.kinds import kind as kind
from optimiz.groups.kinds import kinds as kinds
from optimiz.groups.labels import label as label
from optimiz.groups.layers import LAYER_INDEX as LAYER_INDEX
from optimiz.groups.layers import layerwise_decay as layerwise_decay
from optimiz.groups.matrices import Matrix as Matrix
from optimiz.groups.matrices import matrices as matrices
from optimiz.groups.mup import Mup as Mup
from optimiz.groups.mup import mup as mup
from optimiz.groups.rules import Leaf as Leaf
from optimiz.groups.rules import Rule as Rule
from optimiz.groups.rules import biases as biases
from optimiz.groups.rules import embeddings as embeddings
from optimiz.groups.rules import everything as everything
from optimiz.groups.rules import no_decay as no_decay
from optimiz.groups.rules import norms as norms
from optimiz.groups.rules import path as path
from optimiz.groups.rules import rank as rank
from optimiz.groups.rules import scanned_axes as scanned_axes
from optimiz.groups.units import query_key_value as query_key_value
from optimiz.groups.units import search_units as search_units
from optimiz.groups.units import units_by as units_by
