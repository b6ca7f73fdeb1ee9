"""Models in Flax, pretrained checkpoints, and the adapters that turn both into parameter trees."""
