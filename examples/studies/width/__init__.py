"""Whether the best rate of a narrow model is that of a wide one, with μP and without."""
