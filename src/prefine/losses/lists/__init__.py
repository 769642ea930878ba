"""Losses of lists: several answers to a prompt, in an order; one file a loss."""
