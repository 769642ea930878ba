"""Losses on preference pairs, one file each."""
