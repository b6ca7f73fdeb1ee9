"""Imported before any program, so that a missing dependency is reported in one line."""

from optimiz import checks

_TO_TRAIN = ("absl", "filelock", "markdown_it", "matplotlib", "orbax", "rich")
_FOR_MODELS = ("flax", "huggingface_hub", "PIL", "safetensors", "sklearn", "tokenizers")
checks.installed("examples", "examples", *_TO_TRAIN, *_FOR_MODELS)
