"""Imported before the rest of its package, so that what is missing is said in one line."""

from optimiz import checks

checks.installed("optimiz.training", "train", "filelock", "orbax")
