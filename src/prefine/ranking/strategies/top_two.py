"""Top two: a knockout, then duels of the leader against those who may be better."""

from typing import Annotated

import numpy as np
from pydantic import Field

from prefine.newton import Array
from prefine.ranking.fitting.bradley_terry import PRIOR_SD
from prefine.ranking.protocol import Duel, Strategy, duel_limit, strategy
from prefine.ranking.strategies.duel_history import DuelHistory, best_first


def _max_asks(m: int, *, limit: int | None = None) -> int:
    """The most calls for m completions. Fewer only if the strategy stops early.

    Raises:
        ValueError: `limit` is too small for m completions.
    """
    return duel_limit("top_two", m, limit, default=2 * m - 2)


def _rounds(m: int, *, limit: int | None = None, batch: int | None = None) -> int:
    """The most rounds for m completions: those of the knockout, and the rest in batches.

    Raises:
        ValueError: `limit` is too small for m completions.
    """
    return (m - 1).bit_length() - (
        m - 1 - duel_limit("top_two", m, limit, default=2 * m - 2)
    ) // _batch(m, batch)


@strategy(guarantees={"best", "scores"}, max_asks=_max_asks, rounds=_rounds)
def top_two(
    num_completions: int,
    *,
    limit: Annotated[int, Field(ge=1)] | None = None,
    batch: Annotated[int, Field(ge=1)] | None = None,
    stop_at: Annotated[float, Field(gt=0)] | None = None,
    exploration: Annotated[float, Field(ge=0)] = 1.5,
    first_slot_bias: float = 0.0,
    prior_sd: Annotated[float, Field(gt=0)] = PRIOR_SD,
) -> Strategy:
    """Find the best of M completions, and all scores, with `limit` duels where it is in doubt.

    A knockout of M - 1 duels comes first. Then, batch by batch, the leader meets those with the
    highest score + exploration / sqrt(n + 1/2), n being the duels that they were in, and never two
    in the same order again. Scores are Bradley-Terry's by all duels so far. Of the two, who was
    first less often is shown first. When the leader has met everyone in both orders, the next best
    takes its place in the batch.

    The leader, in the end the champion, is the knockout's winner until it loses a duel; from then
    on it is the one with the highest score. So a judge without noise leads to the best one: it wins
    the knockout, whatever byes there are, and never loses. (A tie counts half in the fit, and here
    as lost by the higher index: the judge's answers agree with one strict order.) Under noise the
    rule costs nothing: a winner that never lost has the highest score anyway, or meets those who
    have more.

    A failed duel is missing; the lower index goes on in the knockout. If a completion has no
    answered duel, its place is unknown: the champion is that of the others, and there are no
    scores. Without any answer, nothing was found.

    Args:
        num_completions: M, at least 2.
        limit: Number of duels, at least M - 1; by default 2 M - 2. There are no more than M (M -
            1), each pair twice.
        batch: Duels in a round after the knockout; by default M / 4 rounded down, at least 1.
        stop_at: Stop when the leader is ahead of everyone else by so many standard errors of the
            difference; by default never. Much above 1 is hardly ever reached, since each pair can
            be asked twice only.
        exploration: Weight of having met few [logit]; 0 sends the leader against the highest scores
            alone.
        first_slot_bias: The judge's known preference for the first slot [logit], taken off in the
            fit.
        prior_sd: Standard deviation of a score a priori [logit].

    Raises:
        ValueError: M is below 2, `limit` below M - 1, or another option out of its bounds.
    Source: the leader against the most hopeful, arXiv:1312.3393 (relative upper confidence bound),
        here with scores.
    """
    if stop_at is not None and stop_at <= 0:
        raise ValueError(f"stop_at must be above 0 standard errors, got {stop_at}")
    return _play(
        DuelHistory(num_completions, first_slot_bias, prior_sd),
        duel_limit("top_two", num_completions, limit, default=2 * num_completions - 2),
        _batch(num_completions, batch),
        stop_at,
        exploration,
    )


def _batch(m: int, batch: int | None) -> int:
    if batch is not None and batch < 1:
        raise ValueError(f"top_two's batch must be at least 1, got {batch}")
    return max(1, m // 4) if batch is None else batch


def _play(
    history: DuelHistory, limit: int, batch: int, stop_at: float | None, exploration: float
) -> Strategy:
    def goes_on(duel: Duel, p_first: float | None) -> int:
        """The winner, or the lower index if the call failed."""
        return min(duel) if history.loser(duel, p_first) != min(duel) else max(duel)

    winner = yield from history.knockout(range(len(history.times)), goes_on)
    while True:
        scores = history.scores()
        ranked = best_first(scores, range(len(scores)))
        if winner in history.answered and history.unbeaten[winner]:
            ranked = [winner, *(i for i in ranked if i != winner)]
        left = limit - len(history.duels)
        if not left or (stop_at is not None and history.lead(ranked[0]) > stop_at):
            break
        hopes = scores + exploration / np.sqrt(np.array(history.times) + 0.5)
        yield from history.ask(_doubtful(ranked, hopes, min(batch, left), history))
    return history.outcome(champion=next((i for i in ranked if i in history.answered), None))


def _doubtful(ranked: list[int], hopes: Array, count: int, history: DuelHistory) -> list[Duel]:
    """The next `count` duels, or fewer if no more are left: those of the leader first."""
    hopeful = np.argsort(-hopes, kind="stable").tolist()
    duels: list[Duel] = []
    for leader in ranked:
        # Everyone once before anyone twice; the second time it is the other order.
        for rival in (*hopeful, *hopeful):
            if len(duels) == count:
                return duels
            duel = history.plan(history.balanced(leader, rival))
            if duel is not None:
                duels.append(duel)
    return duels
