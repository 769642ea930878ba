"""Figures of texts: diversity, overlap with training data, suspicious outputs."""
