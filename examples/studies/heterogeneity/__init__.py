"""Whether gradient heterogeneity predicts the lead of Adam."""
