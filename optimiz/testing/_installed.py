"""Imported before the rest of its package, so that a missing dependency is reported in one line."""

from optimiz import checks

checks.installed("optimiz.testing", "testing", "chex", "pytest")
