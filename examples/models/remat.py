"""What the backward pass computes again, in place of reading what the forward pass kept.

After Chen et al. 2016 (arXiv:1604.06174); which values are kept is a policy of `jax.checkpoint`.
"""

from collections.abc import Callable
from functools import partial

import jax

# From what keeps most to what keeps least. With "dots" the outputs of linear maps are kept, and norms,
# activations, dropout and the weights of attention are computed again; with "layers", all of a layer.
REMAT: dict[str, Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]] = {
    "none": lambda layer: layer,
    "dots": partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "layers": jax.checkpoint,
}
