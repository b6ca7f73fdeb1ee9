"""Imported before the rest of its package, so that one line names what is missing."""

from optimiz import checks

checks.installed("optimiz.testing", "testing", "chex")
