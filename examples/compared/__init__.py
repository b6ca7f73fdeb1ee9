"""What ``compare_optimizers`` can compare optimizers on: one room for each kind of task."""
