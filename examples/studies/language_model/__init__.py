"""The study of optimizers that pre-train a language model of ten million parameters."""
