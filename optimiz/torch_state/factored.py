"""The second moments of Adafactor: which of PyTorch's row and column is which of ours."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from optimiz.torch_state.tensors import Place

KEYS = ("row_var", "col_var", "variance")


def keys_of(place: Place) -> dict[str, str]:
    """The keys of a parameter's state, and the field of ours for each.

    PyTorch takes means along the last axis (its row) and the one before (its column). Ours name by length: R is
    the mean along the longer of the two longest axes.

    Raises:
        ValueError: PyTorch factors along other axes, or takes the RMS of what are several parameters here.
    """
    shape = place.leaves[0].shape
    if len(place.leaves) > 1:
        raise ValueError(
            f"{place.name!r} is one parameter for torch.optim.Adafactor, whose steps depend on the RMS of it "
            f"all, and several here: {', '.join(place.tensor.paths)}"
        )
    if len(shape) < 2:
        return {"variance": "v"}
    shorter, longer = sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:]
    before_last, last = place.axes[-2:]
    if {before_last, last} != {shorter, longer}:
        raise ValueError(
            f"{place.name!r} of shape {place.shape} is factored along its last two axes by "
            "torch.optim.Adafactor, and along its two longest here"
        )
    return (
        {"row_var": "v_row", "col_var": "v_col"} if last == longer else {"row_var": "v_col", "col_var": "v_row"}
    )


def shape_of(place: Place, key: str) -> tuple[int, ...]:
    """The shape of an entry of PyTorch's."""
    shape = list(place.shape)
    if key != "variance":
        shape[-1 if key == "row_var" else -2] = 1
    return tuple(shape)


def empty(moments: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fields that a parameter does not use."""
    dtype = next(iter(moments.values())).dtype
    return {field: np.zeros((), dtype) for field in ("v_row", "v_col", "v") if field not in moments}
