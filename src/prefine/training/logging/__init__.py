"""Logs, trackers and the model card."""
