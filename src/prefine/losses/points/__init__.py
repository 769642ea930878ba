"""Losses of labelled answers: single ones, good or bad; one file a loss."""
