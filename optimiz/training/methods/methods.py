"""How a run departs from plain training: in the depth of its model, in its layers, in its examples."""

import dataclasses
from typing import Any

from optimiz.training.methods.growth import Growth
from optimiz.training.methods.layer_drop import LayerDrop
from optimiz.training.methods.selection import Selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Methods:
    """Methods that are meant to save time; they can be combined.

    Args:
        growth: when the model is doubled in depth; None for constant depth.
        layer_drop: which layers are on at each step; None for all.
        selection: which examples are trained on; None for all.
    """

    growth: Growth | None = None
    layer_drop: LayerDrop | None = None
    selection: Selection | None = None

    def described(self) -> dict[str, Any]:
        """The methods that are not None, by name, as plain JSON."""
        fields = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: method.described() for name, method in fields if method is not None}


PLAIN = Methods()
"""Train every layer on every example, at constant depth."""
