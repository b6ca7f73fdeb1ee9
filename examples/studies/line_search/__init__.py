"""Whether a line search removes the need to tune a learning rate in fine-tuning."""
