"""Every gap of the simulator is that of the pairs which `make_pairs` makes, whatever a strategy
found.
"""

import warnings
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import prefine
from prefine.ranking.protocol import Outcome
from prefine.records import Completion, Message, Prompt, Ranking
from prefine.simulator.gaps import GAPS

PROMPT = Prompt.from_text("anything")
STRATEGY_OF = {"best_vs_last_loser": "iterative"}  # the others need what round_robin guarantees


def answers(count: int) -> list[Completion]:
    """In the order of their ids, by which selectors break ties; the simulator breaks them by
    index.
    """
    return [
        Completion(
            id=f"id {n}",
            prompt_id=PROMPT.id,
            sample_index=n,
            message=Message(role="assistant", content=f"answer {n}"),
        )
        for n in range(count)
    ]


@st.composite
def found(draw: st.DrawFn) -> tuple[Outcome, list[float]]:
    """An outcome, as consistent or not as a noisy judge makes it, and true qualities."""
    m = draw(st.integers(2, 7))
    index = st.integers(0, m - 1)
    scores = draw(st.lists(st.integers(-6, 6).map(float), min_size=m, max_size=m))
    order = draw(st.permutations(range(m)))
    outcome = Outcome(
        champion=draw(st.sampled_from([order[0], draw(index)])),
        worst=draw(index),
        last_loser=draw(index),
        order=tuple(order),
        scores=tuple(scores),
    )
    quality = draw(st.lists(st.floats(-3, 3), min_size=m, max_size=m))
    return outcome, quality


def pairs_of(selector: str, outcome: Outcome, completions: list[Completion]) -> list[Any]:
    ids = [completion.id for completion in completions]

    def named(index: int | None) -> str | None:
        return None if index is None else ids[index]

    ranking = Ranking(
        prompt_id=PROMPT.id,
        strategy=STRATEGY_OF.get(selector, "round_robin"),
        completions=tuple(ids),
        champion=named(outcome.champion),
        worst=named(outcome.worst),
        last_loser=named(outcome.last_loser),
        order=None if outcome.order is None else tuple(ids[i] for i in outcome.order),
        scores=outcome.scores,
    )
    # Of a random partner the simulator takes the mean over all, which each are drawn with the same
    # chance.
    limit = len(ids) if selector == "best_vs_random" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prefine.make_pairs(
            [PROMPT], completions, [ranking], selector=selector, pairs_per_prompt=limit
        )


@pytest.mark.parametrize("selector", sorted(GAPS))
@given(drawn=found())
def test_a_gap_is_that_of_the_pairs_that_are_made(
    selector: str, drawn: tuple[Outcome, list[float]]
) -> None:
    outcome, quality = drawn
    if selector == "best_vs_mu_minus_2sigma":
        _without_near_ties(outcome)
    if selector == "best_vs_last_loser":
        assume(outcome.last_loser != outcome.champion)  # nobody loses to itself
    completions = answers(len(quality))
    place = {completion.id: index for index, completion in enumerate(completions)}
    gaps = [
        quality[place[pair.chosen.id]] - quality[place[pair.rejected.id]]
        for pair in pairs_of(selector, outcome, completions)
    ]
    gap = GAPS[selector](outcome, quality)
    assert (gap is None) == (not gaps)
    if gap is not None:
        assert gap == pytest.approx(sum(gaps) / len(gaps), abs=1e-9)


def _without_near_ties(outcome: Outcome) -> None:
    """Leave out scores at the same distance from the target on both sides of it, where rounding
    decides.
    """
    scores = outcome.scores or ()
    mean = sum(scores) / len(scores)
    target = mean - 2 * (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    distances = sorted(abs(score - target) for score in set(scores))
    assume(all(far - near > 1e-9 for near, far in pairwise(distances)))
