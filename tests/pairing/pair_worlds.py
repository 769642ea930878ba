"""Prompts with completions and a ranking of everything that can be known, for tests of
selecting.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from prefine.records import Completion, DuelRecord, Message, Prompt, Ranking

PROMPT = Prompt.from_text("Say something.")


def completion(
    id_: str, text: str, *, finish: Any = "stop", tokens: int | None = None, prompt: Prompt = PROMPT
):
    return Completion(
        id=id_,
        prompt_id=prompt.id,
        sample_index=0,
        message=Message(role="assistant", content=text),
        finish_reason=finish,
        token_ids=None if tokens is None else tuple(range(tokens)),
    )


def ranked(scores: Sequence[float], /, *, prompt: Prompt = PROMPT, **fields: Any) -> Ranking:
    """Everything is known, of scores; the completions are called a, b, c, …, and neighbours in
    the order met.
    """
    ids = tuple(chr(ord("a") + n) for n in range(len(scores)))
    order = tuple(sorted(ids, key=lambda id_: (-scores[ids.index(id_)], id_)))
    known = {
        "champion": order[0],
        "worst": order[-1],
        "last_loser": order[1],
        "order": order,
        "scores": tuple(scores),
        "standard_errors": tuple(0.1 for _ in scores),
        "score_unit": "log_odds",
        "duels": tuple(DuelRecord(first=a, second=b, p_first=0.75) for a, b in pairwise(order)),
    }
    return Ranking(
        **{"prompt_id": prompt.id, "strategy": "s", "completions": ids, **known, **fields}
    )
