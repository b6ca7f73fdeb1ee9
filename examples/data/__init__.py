"""Labelled text: readers, the data set that every Python carries, and the baseline to beat."""
