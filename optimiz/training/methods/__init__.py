"""Departures from plain training: growth, layer dropping, selected examples."""
