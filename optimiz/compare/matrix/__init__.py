"""The runs of a comparison: which are made, in which order, and how each is made."""
