"""Whether a line search frees fine-tuning from its learning rate."""
