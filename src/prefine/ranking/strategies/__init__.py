"""Ranking strategies, one file each, and the records of duels that they share."""
