"""What is measured, each number with its uncertainty: pure functions of arrays, numpy only."""

from prefine.metrics.intervals import mean_value
from prefine.metrics.judge_facts import first_slot_rate, swap_consistency
from prefine.metrics.rewards import longer_is_better, reward_accuracy
from prefine.metrics.win_rates import both_order_wins, win_rate

__all__ = [
    "both_order_wins",
    "first_slot_rate",
    "longer_is_better",
    "mean_value",
    "reward_accuracy",
    "swap_consistency",
    "win_rate",
]
