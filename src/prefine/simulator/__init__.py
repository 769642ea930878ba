"""The cost and the result of a strategy, by a simulated judge of known accuracy, noise and bias."""

from prefine.simulator.playing import Contestant, SimulatedGames, joined, play, play_one
from prefine.simulator.summary import Advice, Estimate, Prices, StrategyResult, summarise
from prefine.simulator.worlds import JudgeModel, Worlds, check, chunks_of, draw_worlds

__all__ = [
    "Advice",
    "Contestant",
    "Estimate",
    "JudgeModel",
    "Prices",
    "SimulatedGames",
    "StrategyResult",
    "Worlds",
    "check",
    "chunks_of",
    "draw_worlds",
    "joined",
    "play",
    "play_one",
    "summarise",
]
