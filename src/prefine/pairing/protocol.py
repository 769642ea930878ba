"""Selectors: pure functions from a ranking to choices of completion ids, most wanted first.

A selector proposes, and `select.py` takes: the options that all selectors share (gaps, lengths,
truncation, how many) are applied to the ranking before the selector sees it and to its proposals
afterwards, and the first that are left are the pairs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from prefine.errors import ConfigError
from prefine.ranking.protocol import Guarantee
from prefine.records import Ranking

Makes = Literal["pairs", "joint", "lists", "labels"]
Standing = Literal["ranking", "reference"]
Selector = Callable[..., Any]
F = TypeVar("F", bound=Selector)


class Choice(NamedTuple):
    """One selected pair, by completion id; `rejected_prompt` is set where it is another prompt."""

    chosen: str
    rejected: str
    rejected_prompt: str | None = None


@dataclass(frozen=True)
class SelectorFacts:
    """The declared properties of a selector, known before it runs.

    It needs all of `needs` and, unless that is empty, one of `needs_one_of`. `pairs_per_prompt` is
    how many of its proposals are taken unless the configuration says so; None takes all.
    `shares` gives shares of a prompt's completions that are worth a note, by name. `judged` takes
    the place of a joint selector where a judge has compared answers to different prompts.
    A selector with `standing` "reference" reads no ranking of a judge, but one whose champion is
    the prompt's reference answer and which says nothing of the others.
    """

    needs: frozenset[Guarantee]
    needs_one_of: frozenset[Guarantee] = frozenset()
    pairs_per_prompt: int | None = None
    makes: Makes = "pairs"
    shares: Callable[..., Mapping[str, float]] | None = None
    judged: Callable[..., Any] | None = None
    standing: Standing = "ranking"

    def fits(self, guarantees: frozenset[Guarantee]) -> bool:
        """Return True if a strategy that guarantees these is enough for who reads its rankings."""
        return (
            self.standing == "ranking"
            and self.needs <= guarantees
            and (not self.needs_one_of or bool(self.needs_one_of & guarantees))
        )

    def missing(self, guarantees: frozenset[Guarantee]) -> str:
        """The guarantees that a strategy with these lacks, in words."""
        lacks = ", ".join(sorted(self.needs - guarantees))
        return lacks or " or ".join(sorted(self.needs_one_of))


def scores_of(ranking: Ranking) -> dict[str, float] | None:
    """The scores of a ranking by completion id, in the order of its completions."""
    if ranking.scores is None:
        return None
    return dict(zip(ranking.completions, ranking.scores, strict=True))


def selector(
    *,
    needs: set[Guarantee],
    needs_one_of: set[Guarantee] = frozenset(),  # type: ignore[assignment]
    pairs_per_prompt: int | None = None,
    makes: Makes = "pairs",
    shares: Callable[..., Mapping[str, float]] | None = None,
    judged: Callable[..., Any] | None = None,
    standing: Standing = "ranking",
) -> Callable[[F], F]:
    """Attach a selector's facts to its function, where it is written.

    The function depends on what it makes; a keyword argument `seed` is given to it, a number that
    depends on the run's seed, the selector's name and the prompt, and on nothing else:

    - "pairs": `(Ranking, *, …) -> Iterable[Choice]`, the completions of the ranking being in the
      order of their ids.
    - "joint": `(choices by prompt id, *, …) -> choices by prompt id`; it is given what was chosen
      within each prompt.
    - "lists": `(Ranking, *, …) -> list of completion ids`, best first.
    - "labels": `(Ranking, *, …) -> mapping from completion ids to True (good) or False`.

    `shares` is a function `(Ranking, *, …)` that takes those of the selector's options that it
    names, and returns shares of the prompt's completions by name, none where there are none; the
    stage's notes have their means over prompts. `judged` is for "joint": a function `(choices by
    prompt id, judged choices by the prompt id of the chosen one, *, …) -> choices by prompt id`,
    with those of the selector's options that it names, for runs with `rank.across`.

    Raises:
        ValueError: There is no such guarantee, nothing of the kind can be made, or no pair would be
            taken.
    """
    known, kinds = set(get_args(Guarantee)), get_args(Makes)
    if unknown := (set(needs) | set(needs_one_of)) - known:
        raise ValueError(
            f"selector: no strategy guarantees {sorted(unknown)}; choose of "
            f"{', '.join(sorted(known))}"
        )
    if makes not in kinds:
        raise ValueError(f"selector: makes={makes!r}; choose one of {', '.join(kinds)}")
    if pairs_per_prompt is not None and pairs_per_prompt < 1:
        raise ValueError(
            f"selector: pairs_per_prompt={pairs_per_prompt}; give 1 or more, or None for all"
        )

    def attach(function: F) -> F:
        function.facts = SelectorFacts(  # type: ignore[attr-defined]
            frozenset(needs),
            frozenset(needs_one_of),
            pairs_per_prompt,
            makes,
            shares,
            judged,
            standing,
        )
        return function

    return attach


def selector_facts(function: Selector) -> SelectorFacts:
    """Return the facts attached by `selector`.

    Raises:
        ConfigError: The function was not declared as a selector.
    """
    facts = getattr(function, "facts", None)
    if not isinstance(facts, SelectorFacts):
        raise ConfigError(
            f"pair.selector.name: {function} does not say what it needs; decorate it with "
            "prefine.pairing.protocol.selector"
        )
    return facts
