"""Summarize what to know about images before training a model on them."""

import hashlib
from collections.abc import Mapping

import numpy as np

from examples.data.images import ImageExamples
from examples.data.summary import Summary, of_classes, of_equals

_SQUARE = 1.1  # largest ratio of the longer side to the shorter


def of_images(parts: Mapping[str, ImageExamples]) -> Summary:
    """Sources, sizes, classes, what was done to the images, and warnings.

    Args:
        parts: "train" and others, of the same size.
    """
    sources: dict[str, ImageExamples] = {}
    for part in parts.values():
        sources.setdefault(part.source, part)
    _, side, _, channels = parts["train"].images.shape
    facts = {"data": ", ".join(sources), "images": f"{side} × {side} × {channels}"}
    scaled, warnings = _of_sizes(parts, side)
    facts |= scaled
    for part in sources.values():
        of = f" of {part.source}" * (len(sources) > 1)
        facts |= {f"{note}{of}": str(count) for note, count in part.notes.items()}
    labels = {name: part.labels for name, part in parts.items()}
    keys = {
        name: [hashlib.sha256(np.ascontiguousarray(image)).digest() for image in part.images]
        for name, part in parts.items()
    }
    classes = of_classes(labels, parts["train"].label_names)
    return Summary(facts, warnings) | classes | of_equals(keys, labels, "images")


def _of_sizes(parts: Mapping[str, ImageExamples], side: int) -> tuple[dict[str, str], list[str]]:
    """The sizes before scaling, by quantiles of their pixels, and a warning if images were stretched."""
    known = [part.sizes for part in parts.values() if part.sizes is not None]
    sizes = np.concatenate(known) if known else np.zeros((0, 2), np.int32)
    if (sizes == side).all():
        return {}, []
    ordered = sizes[np.argsort(sizes.astype(np.int64).prod(-1), kind="stable")]
    quantiles = {"smallest": 0, "median": len(sizes) // 2, "largest": -1}
    shown = (f"{name} {ordered[i][0]} × {ordered[i][1]}" for name, i in quantiles.items())
    stretched = float((sizes.max(-1) > _SQUARE * sizes.min(-1)).mean())
    warnings = []
    if stretched:
        warnings.append(f"{stretched:.0%} of the images are not square, and were stretched to {side} × {side}")
    return {"sizes in the files": ", ".join(shown)}, warnings
