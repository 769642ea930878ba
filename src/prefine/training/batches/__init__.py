"""Batches of token rows, and the pairs of each step."""
