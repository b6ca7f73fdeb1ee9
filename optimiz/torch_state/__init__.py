"""The state of an optimizer of ``torch.optim``, here and back: training goes on where it stopped.

A ``state_dict`` is read and written as plain dictionaries of NumPy arrays, so that PyTorch need not be
installed. Which of PyTorch's parameters is which of ours is given by :class:`Tensor`. What cannot be converted
is refused.
"""

from optimiz.torch_state.read import FromTorch as FromTorch
from optimiz.torch_state.read import from_torch as from_torch
from optimiz.torch_state.tensors import Tensor as Tensor
from optimiz.torch_state.write import to_torch as to_torch
