"""Benchmarks of an update and of a training step."""
