"""What a selector proposed, checked before it is used: a selector may be a user's own."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from prefine.errors import ConfigError
from prefine.pairing.protocol import Choice
from prefine.records import Ranking


def checked_choices(proposed: Any, ranking: Ranking, *, where: str) -> Iterator[Choice]:
    """The choices of a selector that makes pairs.

    Args:
        proposed: What it returned.
        ranking: What it was given.
        where: Names the selector and the prompt in messages.

    Raises:
        ConfigError: One is no choice of two completions of the ranking.
    """
    known = set(ranking.completions)
    for choice in _items(proposed, where):
        if not isinstance(choice, Choice):
            raise ConfigError(
                f"{where} proposes {choice!r:.80}; give Choice(chosen, rejected), completion ids"
            )
        _check_known(choice[:2], known, where)
        if choice.chosen == choice.rejected:
            raise ConfigError(
                f"{where} proposes {choice.chosen} over itself; propose two completions"
            )
        if choice.rejected_prompt is not None:
            raise ConfigError(
                f"{where} proposes a rejected_prompt; declare the selector with makes='joint'"
            )
        yield choice


def checked_list(proposed: Any, ranking: Ranking, *, where: str) -> list[str]:
    """The ids of a selector that makes lists, best first.

    Args:
        proposed: What it returned.
        ranking: What it was given.
        where: Names the selector and the prompt in messages.

    Raises:
        ConfigError: One is unknown or repeated, or its score is above that of one before it.
    """
    ids = list(_items(proposed, where))
    _check_known(ids, set(ranking.completions), where)
    if len(set(ids)) < len(ids):
        raise ConfigError(f"{where} lists a completion twice: {ids!r:.200}")
    if ranking.scores is not None:
        score = dict(zip(ranking.completions, ranking.scores, strict=True))
        for above, below in pairwise(ids):
            if score[below] > score[above]:
                raise ConfigError(
                    f"{where}: its list is not best first: {above} (score {score[above]:g}) "
                    f"stands before {below} "
                    f"({score[below]:g})"
                )
    return ids


def _items(proposed: Any, where: str) -> Iterator[Any]:
    if isinstance(proposed, str) or not isinstance(proposed, Iterable):
        raise ConfigError(f"{where} returns {proposed!r:.80}; return a list")
    return iter(proposed)


def _check_known(ids: Iterable[Any], known: set[str], where: str) -> None:
    for id_ in ids:
        if not isinstance(id_, str) or id_ not in known:
            raise ConfigError(
                f"{where} names completion {id_!r:.80}, which is not among those that it was given "
                "(ranking.completions)"
            )
