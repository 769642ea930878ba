"""Ranking strategies: pure generators that ask for duels and return what they found; and what aggregates duels."""

from prefine.ranking.base import Duel, Outcome, Rate, strategy
from prefine.ranking.bradley_terry import Fit, bradley_terry, fit_duels
from prefine.ranking.circulant import circulant
from prefine.ranking.eubo import eubo
from prefine.ranking.halving import halving
from prefine.ranking.insertion import insertion
from prefine.ranking.iterative import iterative
from prefine.ranking.knockout import knockout
from prefine.ranking.merge import merge
from prefine.ranking.minmax import minmax
from prefine.ranking.pointwise import pointwise
from prefine.ranking.round_robin import round_robin
from prefine.ranking.run import drive
from prefine.ranking.score_then_duel import score_then_duel
from prefine.ranking.swiss import swiss
from prefine.ranking.top_two import top_two
from prefine.ranking.tournament import copeland, cyclic_triads, kendall_distance

__all__ = [
    "Duel",
    "Fit",
    "Outcome",
    "Rate",
    "bradley_terry",
    "circulant",
    "copeland",
    "cyclic_triads",
    "drive",
    "eubo",
    "fit_duels",
    "halving",
    "insertion",
    "iterative",
    "kendall_distance",
    "knockout",
    "merge",
    "minmax",
    "pointwise",
    "round_robin",
    "score_then_duel",
    "strategy",
    "swiss",
    "top_two",
]
