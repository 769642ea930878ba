"""What is measured, each number with its uncertainty: pure functions of arrays, numpy only."""

from prefine.metrics.arena_hard import Battles, arena_hard_elo, arena_hard_scores, battles, expanded_battles
from prefine.metrics.calibration import AlpacaCalibration
from prefine.metrics.displacement import displacement
from prefine.metrics.diversity import diversity
from prefine.metrics.intervals import mean_value, percentage, score_interval
from prefine.metrics.judge_agreement import rater_agreement
from prefine.metrics.judge_calibration import brier_score, cyclic_triads, expected_calibration_error, reliability_curve
from prefine.metrics.judge_facts import first_slot_rate, swap_consistency
from prefine.metrics.judge_labels import (
    labelled_accuracy,
    length_preference,
    order_agreement,
    slot_preference,
    verdict_rates,
)
from prefine.metrics.leaderboard import bradley_terry_leaderboard, win_matrix
from prefine.metrics.length_control import Weights, controlled_against, length_controlled_win_rate, predicted_win_rate
from prefine.metrics.likelihood_indicators import likelihood_indicators, log_likelihood, token_spread, watch, watch_all
from prefine.metrics.model_rewards import log_ratio_margins, reward_accuracies
from prefine.metrics.overlap import exact_overlap, near_overlap
from prefine.metrics.paired import Outcomes, compare, compare_all, holm, sign_test
from prefine.metrics.preferences import from_one_to_two, preference_rates
from prefine.metrics.ranking_accuracy import (
    dpo_loss_threshold,
    flip_table,
    idealised_ranking_accuracy,
    length_normalised_ranking_accuracy,
    list_ranking_accuracy,
    ranking_accuracy,
)
from prefine.metrics.reward_bench import (
    TiesPrompts,
    best_of,
    reward_bench_v1,
    reward_bench_v2,
    ties_prompts,
    ties_score,
)
from prefine.metrics.rewards import longer_is_better, reward_accuracy
from prefine.metrics.screens import empty_outputs, identical_outputs, truncated_outputs, verdict_like_outputs
from prefine.metrics.style import StyleCounts, markdown_counts, style_features
from prefine.metrics.style_control import style_controlled_score, style_controlled_scores
from prefine.metrics.subsets import weighted_subsets
from prefine.metrics.win_rates import both_order_wins, win_rate

__all__ = [
    "AlpacaCalibration",
    "Battles",
    "Outcomes",
    "StyleCounts",
    "TiesPrompts",
    "Weights",
    "arena_hard_elo",
    "arena_hard_scores",
    "battles",
    "best_of",
    "both_order_wins",
    "bradley_terry_leaderboard",
    "brier_score",
    "compare",
    "compare_all",
    "controlled_against",
    "cyclic_triads",
    "displacement",
    "diversity",
    "dpo_loss_threshold",
    "empty_outputs",
    "exact_overlap",
    "expanded_battles",
    "expected_calibration_error",
    "first_slot_rate",
    "flip_table",
    "from_one_to_two",
    "holm",
    "idealised_ranking_accuracy",
    "identical_outputs",
    "labelled_accuracy",
    "length_controlled_win_rate",
    "length_normalised_ranking_accuracy",
    "length_preference",
    "likelihood_indicators",
    "list_ranking_accuracy",
    "log_likelihood",
    "log_ratio_margins",
    "longer_is_better",
    "markdown_counts",
    "mean_value",
    "near_overlap",
    "order_agreement",
    "percentage",
    "predicted_win_rate",
    "preference_rates",
    "ranking_accuracy",
    "rater_agreement",
    "reliability_curve",
    "reward_accuracies",
    "reward_accuracy",
    "reward_bench_v1",
    "reward_bench_v2",
    "score_interval",
    "sign_test",
    "slot_preference",
    "style_controlled_score",
    "style_controlled_scores",
    "style_features",
    "swap_consistency",
    "ties_prompts",
    "ties_score",
    "token_spread",
    "truncated_outputs",
    "verdict_like_outputs",
    "verdict_rates",
    "watch",
    "watch_all",
    "weighted_subsets",
    "win_matrix",
    "win_rate",
]
