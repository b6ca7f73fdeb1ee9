"""Trainers, models and data readers built on the public face of `optimiz`."""
