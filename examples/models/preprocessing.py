"""The normalization of pixels that an image model expects, in its `preprocessor_config.json`."""

import json
from collections.abc import Sequence
from pathlib import Path

from examples.shared import strict_json
from optimiz import training

PREPROCESSOR = "preprocessor_config.json"
_BICUBIC = 3  # Pillow's number of the filter by which images are scaled here


def norm(directory: Path, channels: int) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """The mean and deviation by which a model normalizes pixels in [0, 1]; None if there is no such file.

    Args:
        directory: directory of the model.
        channels: number of channels of the images, C, and of numbers returned for each.

    Raises:
        ValueError: the file is damaged, or requires something that is not supported.
    """
    path = directory / PREPROCESSOR
    if not path.exists():
        return None, None
    described = strict_json.read_object(path)
    for key, value in {"do_rescale": True, "rescale_factor": 1 / 255}.items():
        if described.get(key, value) != value:
            raise ValueError(f"{path}: {key} must be {value!r}, got {described[key]!r}")
    does = described.get("do_normalize", True)
    if not isinstance(does, bool):
        raise ValueError(f"{path}: do_normalize must be of type bool, got {does!r}")
    found = []
    for key, least, plain in (("image_mean", 0.0, 0.0), ("image_std", 1 / 255, 1.0)):
        # 0.5 is the default of transformers for a ViT.
        numbers = described.get(key, [0.5] * channels) if does else [plain] * channels
        is_list = isinstance(numbers, list) and not {type(x) for x in numbers} - {int, float}
        if not is_list or len(numbers) != channels or not all(least <= x <= 1 for x in numbers):
            domain = f"a list of {channels} numbers in [{least:.3g}, 1]"
            raise ValueError(f"{path}: {key} must be {domain}, got {str(numbers)[:100]}")
        found.append(numbers)
    return found[0], found[1]


def save(directory: Path, size: int, mean: Sequence[float], deviation: Sequence[float]) -> None:
    """Write how images become the input of a model, so that `norm`, and `transformers`, read it back.

    Args:
        directory: directory of the model.
        size: side to which images are scaled, in pixels.
        mean: mean of the pixels of each channel by which they are normalized, in [0, 1].
        deviation: standard deviation, likewise.
    """
    described = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [float(x) for x in mean],
        "image_std": [float(x) for x in deviation],
    }
    training.write_whole(directory / PREPROCESSOR, json.dumps(described, indent=2) + "\n")
