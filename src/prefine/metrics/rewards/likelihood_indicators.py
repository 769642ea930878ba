"""Warnings of likelihood over-optimisation, from the spread of next-token distributions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import mean_value
from prefine.metrics.statistics.resampling import Resampling, by_group, measured, ratio_draws
from prefine.metrics.statistics.values import Array, Groups, finite_values, refuse, same_length
from prefine.records import MetricValue

_RISE, _TURN = 0.02, 0.01
"""By how much H_k must have risen, and fallen again, to have turned; relative. Ours: averages of a
hundred answers waver by less."""


class TokenSpread(NamedTuple):
    """The spread of the next-token distribution at each completion position [t].

    Attributes:
        top_mass: Probability of the k most likely tokens together, mass_k.
        top_entropy: -sum p log p over these k tokens, nats: H_k (raw). It can fall because the mass
            does.
        top_entropy_renormalised: Entropy of these k among themselves, nats: H_k (renorm), the shape
            alone.
        entropy: Entropy over the whole vocabulary, nats.
    """

    top_mass: Array
    top_entropy: Array
    top_entropy_renormalised: Array
    entropy: Array


class LikelihoodIndicators(NamedTuple):
    """The means of `TokenSpread` over positions, as metrics."""

    top_mass: MetricValue
    top_entropy: MetricValue
    top_entropy_renormalised: MetricValue
    entropy: MetricValue


class LogLikelihood(NamedTuple):
    """Mean log-likelihood of a token (all tokens alike) and of a completion, nats."""

    per_token: MetricValue
    per_sequence: MetricValue


class IndicatorReading(NamedTuple):
    """One measurement during training, on the same probes each time.

    Attributes:
        top_entropy: H_k, nats; the renormalised one unless there is a reason.
        top_mass: mass_k, in [0, 1].
        margin: Mean reward margin.
    """

    top_entropy: float
    top_mass: float
    margin: float


@dataclass(frozen=True)
class Watch:
    """The state of the alarms after some readings.

    Attributes:
        top_entropy: Moving average of H_k.
        top_mass: Moving average of mass_k.
        margin: Moving average of the margin.
        first_entropy: H_k at the first reading.
        highest_entropy: Highest moving average of H_k so far.
        highest_mass: Highest moving average of mass_k so far.
        collapse: H_k has fallen too far from its height while the margin still rises: fewer ways to
            go on.
        diffusion: mass_k has fallen too far from its height: probability leaks to the tail.
        turn: H_k has risen and falls again. In the source's trainings with DPO and IPO it rises
            first, and the turn comes with the best win rate.
    """

    top_entropy: float
    top_mass: float
    margin: float
    first_entropy: float
    highest_entropy: float
    highest_mass: float
    collapse: bool
    diffusion: bool
    turn: bool


def token_spread(logits: npt.ArrayLike, mask: npt.ArrayLike, *, k: int = 10) -> TokenSpread:
    """mass_k, H_k (raw and renormalised) and entropy at each masked-in position [t].

    Args:
        logits: Logits or log-probabilities [T, V] of the next token, -inf for a token that cannot
            come.
        mask: Which positions predict a completion token [T]; prompt and padding are false, whatever
            their logits.
        k: How many tokens are the top, from 1 to V.

    Raises:
        ValueError: Shapes that do not fit, no position left, k out of range, or logits that are
            NaN, +inf or all -inf.
    Source: our reading of arXiv:2410.11677, whose equations were not found; k is ours.
    """
    kept = np.asarray(mask)
    table = np.asarray(logits)
    if table.ndim != 2 or kept.shape != table.shape[:1]:
        raise ValueError(
            f"logits must be [T, V] and mask [T], got shapes {table.shape} and {kept.shape}"
        )
    if kept.dtype != np.bool_ and not np.isin(kept, (0, 1)).all():
        raise ValueError("mask must be true or false")
    kept = kept.astype(np.bool_)
    if not kept.any():
        raise ValueError("mask: no position is left to measure")
    if not 1 <= k <= table.shape[1]:
        raise ValueError(f"k must be from 1 to the vocabulary's {table.shape[1]}, got {k}")
    table = table[kept].astype(np.float64)
    top = table.max(axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(top[:, 0]) | np.isnan(table).any(axis=1))
    if bad.size:
        position = int(np.flatnonzero(kept)[bad[0]])
        raise ValueError(
            f"logits: {bad.size} positions hold NaN, +inf or only -inf, first at position "
            f"{position}"
        )
    logp = table - top
    logp -= np.log(np.exp(logp).sum(axis=1, keepdims=True))
    best = -np.partition(-logp, k - 1, axis=1)[:, :k]
    mass = np.minimum(np.exp(best).sum(axis=1), 1.0)
    raw = _minus_p_log_p(best)
    within = best - np.log(np.exp(best).sum(axis=1, keepdims=True))
    return TokenSpread(mass, raw, _minus_p_log_p(within), _minus_p_log_p(logp))


def likelihood_indicators(
    spread: TokenSpread, sequence_ids: Groups, *, samples: int = 2000, seed: int = 0
) -> LikelihoodIndicators:
    """The means over positions as metrics.

    Sequences are resampled: the positions of one are not independent.

    Args:
        spread: Of each position [t], those of several sequences one after the other.
        sequence_ids: Which sequence each position belongs to [t].
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns: Metrics top_mass (no unit), top_entropy, top_entropy_renormalised and entropy (nats).

    Raises:
        ValueError: No position, or lengths that differ.
    """
    mass, *entropies = same_length(spread._asdict())
    return LikelihoodIndicators(
        mean_value("top_mass", mass, groups=sequence_ids, samples=samples, seed=seed),
        *(
            mean_value(name, values, unit="nats", groups=sequence_ids, samples=samples, seed=seed)
            for name, values in zip(TokenSpread._fields[1:], entropies, strict=True)
        ),
    )


def log_likelihood(
    name: str,
    logps: npt.ArrayLike,
    tokens: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> LogLikelihood:
    """Mean log-likelihood of a token and of a completion, prompts resampled.

    Args:
        name: Of what, such as "chosen"; the metrics are NAME_logp_per_token and
            NAME_logp_per_sequence.
        logps: Summed log-probability of each completion [B], nats.
        tokens: Number of its tokens [B].
        prompt_ids: Prompt of each completion [B].
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns: Both in nats; `n` is the number of completions.

    Raises:
        ValueError: No completion, lengths that differ, a number that is not finite, or a completion
            without tokens.
    """
    sums, counts = same_length({"logps": logps, "tokens": tokens})
    refuse(counts < 1, counts, "must be at least 1", name="tokens")
    per_sequence = mean_value(
        f"{name}_logp_per_sequence",
        sums,
        samples=samples,
        seed=seed,
        unit="nats",
        groups=prompt_ids,
    )
    of_prompts, _ = by_group(sums, prompt_ids)
    tokens_of_prompts, _ = by_group(counts, prompt_ids)
    per_token = measured(
        f"{name}_logp_per_token",
        float(sums.sum() / counts.sum()),
        ratio_draws(of_prompts, tokens_of_prompts, Resampling(samples, seed)),
        n=sums.size,
        unit="nats",
    )
    return LogLikelihood(per_token, per_sequence)


def watch(
    before: Watch | None,
    reading: IndicatorReading,
    *,
    keep: float = 0.9,
    entropy_fall: float = 0.2,
    mass_fall: float = 0.05,
) -> Watch:
    """The alarms after one more reading.

    Falls are relative to the height: an alarm is on while average < (1 - fall) * height. The margin
    rises while its moving average is above that before this reading. The entropy has turned once
    its average stood 2 % above the first reading and is 1 % below its height again. The first
    reading starts the averages and raises no alarm.

    Args:
        before: Where the alarms stood; None before the first reading.
        reading: The new measurement.
        keep: How much of a moving average each reading keeps, in [0, 1).
        entropy_fall: r1, in [0, 1]. Default: ours.
        mass_fall: r2, in [0, 1]. Default: ours.

    Raises:
        ValueError: A reading that is not finite, or options out of range.
    Source: our reading of arXiv:2410.11677, which gives the two indicators and no rule.
    """
    if not 0 <= keep < 1 or not 0 <= entropy_fall <= 1 or not 0 <= mass_fall <= 1:
        raise ValueError(
            f"keep must be in [0, 1), entropy_fall and mass_fall in [0, 1]; got {keep}, "
            f"{entropy_fall}, {mass_fall}"
        )
    entropy, mass, margin = (float(value) for value in finite_values(reading, name="reading"))
    if before is None:
        return Watch(entropy, mass, margin, entropy, entropy, mass, False, False, False)
    entropy = keep * before.top_entropy + (1 - keep) * entropy
    mass = keep * before.top_mass + (1 - keep) * mass
    margin = keep * before.margin + (1 - keep) * margin
    highest_entropy = max(before.highest_entropy, entropy)
    highest_mass = max(before.highest_mass, mass)
    return Watch(
        entropy,
        mass,
        margin,
        before.first_entropy,
        highest_entropy,
        highest_mass,
        collapse=entropy < (1 - entropy_fall) * highest_entropy and margin > before.margin,
        diffusion=mass < (1 - mass_fall) * highest_mass,
        turn=highest_entropy > (1 + _RISE) * before.first_entropy
        and entropy < (1 - _TURN) * highest_entropy,
    )


def watch_all(
    readings: Iterable[IndicatorReading],
    *,
    keep: float = 0.9,
    entropy_fall: float = 0.2,
    mass_fall: float = 0.05,
) -> tuple[Watch, ...]:
    """Return the state of the alarms after each of the readings, see `watch`.

    Raises:
        ValueError: As `watch`.
    """
    states: list[Watch] = []
    for reading in readings:
        before = states[-1] if states else None
        states.append(
            watch(before, reading, keep=keep, entropy_fall=entropy_fall, mass_fall=mass_fall)
        )
    return tuple(states)


def _minus_p_log_p(logp: Array) -> Array:
    """-sum p log p of each row; a token that cannot come adds 0."""
    p = np.exp(logp)
    terms: Array = np.where(p > 0, p, 0.0) * np.where(p > 0, logp, 0.0)
    entropy: Array = np.maximum(-terms.sum(axis=1), 0.0)
    return entropy
