"""The trainers next to PyTorch and `transformers`, which nothing else here needs."""
