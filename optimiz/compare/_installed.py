"""Imported first, so that a missing dependency is reported in one line."""

from optimiz import checks

checks.installed("optimiz.compare", "train", "filelock", "markdown_it", "matplotlib", "orbax")
