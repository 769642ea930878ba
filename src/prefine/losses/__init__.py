"""Preference losses: pure functions of log-probabilities, one value per pair."""

from prefine.losses.base import PairLogps
from prefine.losses.dpo import dpo
from prefine.losses.ipo import ipo
from prefine.losses.simpo import simpo

__all__ = ["PairLogps", "dpo", "ipo", "simpo"]
