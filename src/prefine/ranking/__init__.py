"""Ranking strategies: pure generators that ask for duels and return what they found."""

from prefine.ranking.base import Duel, Outcome, Rate, strategy
from prefine.ranking.iterative import iterative
from prefine.ranking.round_robin import round_robin
from prefine.ranking.run import drive

__all__ = ["Duel", "Outcome", "Rate", "drive", "iterative", "round_robin", "strategy"]
