"""What a strategy would cost and find, by a simulated judge of known accuracy, noise and slot bias."""

from prefine.simulator.bounds import check
from prefine.simulator.playing import (
    Contestant,
    SimulatedGames,
    chunks_of,
    joined,
    play,
    play_one,
    worlds_per_chunk,
)
from prefine.simulator.summary import Advice, Estimate, Prices, StrategyResult, summarise
from prefine.simulator.worlds import JudgeModel, Worlds, draw_worlds

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
    "worlds_per_chunk",
]
