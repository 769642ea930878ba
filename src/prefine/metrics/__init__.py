"""Metrics, each number with its uncertainty: pure functions of arrays."""

from prefine.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "prefine.metrics.judges.agreement": ("rater_agreement",),
        "prefine.metrics.judges.calibration": (
            "brier_score",
            "cyclic_triads",
            "expected_calibration_error",
            "reliability_curve",
        ),
        "prefine.metrics.judges.verdicts": (
            "first_slot_rate",
            "labelled_accuracy",
            "length_preference",
            "order_agreement",
            "slot_preference",
            "swap_consistency",
            "verdict_rates",
        ),
        "prefine.metrics.judges.reward_bench": (
            "TiesPrompts",
            "best_of",
            "reward_bench_v1",
            "reward_bench_v2",
            "ties_prompts",
            "ties_score",
            "weighted_subsets",
        ),
        "prefine.metrics.rewards.accuracy": (
            "log_ratio_margins",
            "longer_is_better",
            "reward_accuracies",
            "reward_accuracy",
        ),
        "prefine.metrics.rewards.auc": ("reward_auc",),
        "prefine.metrics.rewards.displacement": ("displacement",),
        "prefine.metrics.rewards.likelihood_indicators": (
            "likelihood_indicators",
            "log_likelihood",
            "token_spread",
            "watch",
            "watch_all",
        ),
        "prefine.metrics.rewards.ranking_accuracy": (
            "dpo_loss_threshold",
            "flip_table",
            "idealised_ranking_accuracy",
            "length_normalised_ranking_accuracy",
            "list_ranking_accuracy",
            "ranking_accuracy",
        ),
        "prefine.metrics.statistics.intervals": (
            "mean_value",
            "percentage",
            "score_interval",
        ),
        "prefine.metrics.statistics.paired": (
            "Outcomes",
            "compare",
            "compare_all",
            "holm",
            "paired_change",
            "sign_test",
        ),
        "prefine.metrics.sweeps.optimum": ("Optimum", "quadratic_optimum"),
        "prefine.metrics.sweeps.saturation": ("Saturation", "saturation"),
        "prefine.metrics.sweeps.seeds": ("BestOfMany", "best_of_many", "mean_over_seeds"),
        "prefine.metrics.texts.diversity": ("adjusted_distinct", "diversity"),
        "prefine.metrics.texts.overlap": (
            "exact_overlap",
            "near_overlap",
        ),
        "prefine.metrics.texts.screens": (
            "empty_outputs",
            "identical_outputs",
            "truncated_outputs",
            "verdict_like_outputs",
        ),
        "prefine.metrics.win_rates.arena_hard": (
            "Battles",
            "arena_hard_elo",
            "arena_hard_scores",
            "battles",
            "expanded_battles",
        ),
        "prefine.metrics.win_rates.length_data": ("AlpacaCalibration",),
        "prefine.metrics.win_rates.leaderboard": (
            "bradley_terry_leaderboard",
            "win_matrix",
        ),
        "prefine.metrics.win_rates.length_control": (
            "Weights",
            "controlled_against",
            "length_controlled_win_rate",
            "predicted_win_rate",
        ),
        "prefine.metrics.win_rates.prediction_powered": (
            "PredictionPowered",
            "prediction_powered",
        ),
        "prefine.metrics.win_rates.style": (
            "StyleCounts",
            "markdown_counts",
            "style_features",
        ),
        "prefine.metrics.win_rates.style_control": (
            "style_controlled_score",
            "style_controlled_scores",
        ),
        "prefine.metrics.win_rates.win_rates": (
            "both_order_wins",
            "from_one_to_two",
            "preference_rates",
            "win_rate",
        ),
    },
)
