"""Ranking strategies: pure generators that ask for duels and return what they found."""
