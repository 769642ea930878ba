"""Metrics of a run's held-out pairs and lists: what training did to their log-probabilities."""

from typing import Annotated

import numpy as np
from pydantic import Field

from prefine.metrics.protocol import Evidence, metric
from prefine.metrics.rewards import ranking_accuracy as rankings
from prefine.metrics.rewards.displacement import displacement as spreads
from prefine.metrics.rewards.likelihood_indicators import IndicatorReading, watch_all
from prefine.records import MetricValue

Share = Annotated[float, Field(ge=0, le=1)]


@metric("held_out_pairs")
def displacement(
    evidence: Evidence, *, delta: Annotated[float, Field(ge=0)] = 5.0
) -> list[MetricValue]:
    """Means and quantiles of the log-ratios of both sides and of the margin.

    Args:
        evidence: Of the run.
        delta: The budget [nats per answer]: how far a chosen answer may fall.
    """
    pairs = evidence.pairs
    found = spreads(
        pairs.chosen,
        pairs.rejected,
        pairs.ref_chosen,
        pairs.ref_rejected,
        pairs.prompt_ids,
        delta=delta,
        **evidence.bootstrap,
    )
    spread = [found.chosen, found.rejected, found.margin]
    return [
        *(value for one in spread for value in (one.mean, *one.quantiles)),
        found.chosen_fell,
        found.chosen_fell_beyond,
    ]


@metric("held_out_pairs")
def ranking_accuracy(evidence: Evidence) -> list[MetricValue]:
    """The share of pairs whose chosen answer is likelier, by the reference and the model.

    Summed, and per token for the model.
    """
    pairs, options = evidence.pairs, evidence.bootstrap
    return [
        rankings.ranking_accuracy(
            pairs.ref_chosen,
            pairs.ref_rejected,
            pairs.prompt_ids,
            **options,
            name="reference_ranking_accuracy",
        ),
        rankings.ranking_accuracy(pairs.chosen, pairs.rejected, pairs.prompt_ids, **options),
        rankings.length_normalised_ranking_accuracy(
            pairs.chosen,
            pairs.rejected,
            pairs.chosen_tokens,
            pairs.rejected_tokens,
            pairs.prompt_ids,
            **options,
        ),
    ]


@metric("held_out_pairs")
def ranking_flips(evidence: Evidence) -> list[MetricValue]:
    """The shares of pairs whose ranking training turned around, and of those it left."""
    pairs = evidence.pairs
    table = rankings.flip_table(
        rankings.ranked_right(pairs.ref_chosen, pairs.ref_rejected),
        rankings.ranked_right(pairs.chosen, pairs.rejected),
        pairs.prompt_ids,
        **evidence.bootstrap,
    )
    return [value for value in table if value is not None]


@metric("held_out_pairs")
def idealised_ranking_accuracy(
    evidence: Evidence,
    *,
    betas: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (
        rankings.BETAS
    ),
) -> list[MetricValue]:
    """The ranking accuracy of the exact optimum of DPO: the best that training could come to.

    Of the pairs that state P(chosen is better).

    Args:
        evidence: Of the run.
        betas: The values of beta.

    Raises:
        ValueError: No pair states it.
    """
    pairs = evidence.pairs
    stated = np.flatnonzero(~np.isnan(pairs.p_chosen))
    if not stated.size:
        raise ValueError("no held-out pair states P(chosen is better)")
    found = rankings.idealised_ranking_accuracy(
        pairs.ref_chosen[stated],
        pairs.ref_rejected[stated],
        pairs.p_chosen[stated],
        [pairs.prompt_ids[int(index)] for index in stated],
        betas=betas,
        **evidence.bootstrap,
    )
    return [*(value for _, value in found.by_beta), found.minimum, found.median, found.maximum]


@metric("held_out_lists")
def list_ranking_accuracy(evidence: Evidence) -> list[MetricValue]:
    """The share of lists whose answers the model ranks as they should be, all of them."""
    return [rankings.list_ranking_accuracy(evidence.held_out_lists, **evidence.bootstrap)]


@metric("evaluation_log")
def likelihood_alarms(
    evidence: Evidence,
    *,
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    entropy_fall: Share = 0.2,
    mass_fall: Share = 0.05,
) -> list[MetricValue]:
    """Count the evaluations during training with an alarm of likelihood over-optimisation on.

    Args:
        evidence: Of the run.
        keep: Momentum of the moving averages.
        entropy_fall: How far the entropy may fall below its height, relative.
        mass_fall: How far the probability of the likeliest tokens may.
    """
    log = evidence.evaluation_log
    states = watch_all(
        [
            IndicatorReading(row["top_entropy_renormalised"], row["top_mass"], row["margin"])
            for row in log
        ],
        keep=keep,
        entropy_fall=entropy_fall,
        mass_fall=mass_fall,
    )
    counts = {
        "collapse_alarms": sum(state.collapse for state in states),
        "diffusion_alarms": sum(state.diffusion for state in states),
        "turn_alarms": sum(state.turn for state in states),
    }
    return [
        MetricValue(name=name, value=count, n=len(log), unit="evaluations")
        for name, count in counts.items()
    ]
