"""What an update and a training step take."""
