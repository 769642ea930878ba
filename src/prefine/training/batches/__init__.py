"""Batches of token rows."""
