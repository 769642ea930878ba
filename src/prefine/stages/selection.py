"""A selector at work on many prompts: bound to its options, checked, and counted."""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from prefine.config.base import Component
from prefine.config.components import TABLES, lookup
from prefine.config.sections import ItemEntry, PairConfig, RunConfig
from prefine.errors import ConfigError, PrefineError
from prefine.pairing.filters import TOO_UNEQUAL, check_options
from prefine.pairing.protocol import Choice, SelectorFacts, selector_facts
from prefine.pairing.select import (
    Selected,
    check_selector,
    checked_choices,
    checked_labels,
    checked_list,
    select_labels,
    select_list,
    select_pairs,
)
from prefine.pairing.selectors.best_vs import best_vs_random
from prefine.pairing.view import unjudged
from prefine.ranking.protocol import facts_of
from prefine.records import (
    Judgment,
    LabelledCompletion,
    PreferenceList,
    PreferencePair,
    Ranking,
    content_hash,
)
from prefine.stages.joining import (
    Joined,
    JoinedByJudge,
    JoinedByStanding,
    RankedPrompt,
    check_joint,
    choices_of,
)
from prefine.stages.pair_options import PairCounts

WITHOUT_PARTNER = "no other prompt to pair with"


_OF_RANKINGS = ("min_gap", "min_p_chosen", "length_penalty")
"""Options of pairs that need scores or duels."""


def strategy_of(config: RunConfig) -> Component | None:
    """The strategy of the rankings that pairs are made of; None if there is none."""
    return None if config.rank is None or config.unranked else config.rank.strategy


class BoundSelector:
    """The configured selector with its options, checked against the strategy of the rankings.

    Args:
        settings: The section `pair`.
        strategy: The strategy; None leaves it unchecked.

    Raises:
        ConfigError: The selector or an option needs what the strategy does not guarantee.
    """

    def __init__(self, settings: PairConfig, strategy: Component | None) -> None:
        component = settings.selector
        function = component.lookup("selector", where="pair.selector")
        self.facts: SelectorFacts = selector_facts(function)
        self.options = settings
        self.name, self._seed = component.name, settings.seed
        self._takes_seed = "seed" in inspect.signature(function).parameters
        self._function = component.resolve("selector", where="pair.selector", given=("seed",))
        self._shares = _with_options_of(self._function, self.facts.shares)
        self._as_judged = _with_options_of(self._function, self.facts.judged)
        if strategy is not None:
            table = {
                name: lookup("selector", name, where="pair.selector") for name in TABLES["selector"]
            }
            facts = facts_of(strategy.lookup("strategy", where="rank.strategy"))
            check_selector(component.name, function, strategy.name, facts, table)
            check_options(self.options, self.facts, strategy.name, facts)
        if self.facts.standing == "reference":
            for name in _OF_RANKINGS:
                if getattr(settings, name):
                    raise ConfigError(
                        f"pair.{name}: needs the scores or duels of a ranking, and pair.selector "
                        f"{self.name!r} reads none; leave pair.{name} out"
                    )
        if self.makes != "pairs" and settings.labels == "shuffled":
            one = {"lists": "a list", "labels": "a labelled answer"}[self.makes]
            raise ConfigError(
                f"pair.labels: shuffled swaps the sides of pairs, and {one} has none; leave it out"
            )

    @property
    def makes(self) -> ItemEntry:
        """The items that it makes; joint ones are pairs."""
        return "pairs" if self.facts.makes == "joint" else self.facts.makes

    @property
    def reads_judged(self) -> bool:
        """True if it takes what a judge said of answers to different prompts (`rank.across`)."""
        return self._as_judged is not None

    @property
    def limit(self) -> int | None:
        """The most pairs that are taken of a prompt; None for all."""
        if self.options.pairs_per_prompt is None:
            return self.facts.pairs_per_prompt
        return self.options.pairs_per_prompt

    def pairs(
        self,
        groups: Sequence[RankedPrompt],
        held_out_ids: Collection[str],
        counts: PairCounts,
        judgments: Sequence[Judgment] | None = None,
    ) -> list[PreferencePair]:
        """The pairs of some prompts.

        A joint selector joins only prompts of `groups` that are trained on. Held-out prompts, on
        which accuracy is measured, give as many pairs, all of them within the prompt.

        Args:
            groups: The prompts.
            held_out_ids: Those of them that are held out.
            counts: Of what is left out.
            judgments: What a judge said of answers to two of them, for a selector that reads it
                (`reads_judged`); None where nobody asked.
        """
        self._count_left_out(groups, counts)
        if self.facts.makes != "joint":
            return _taken([self._within(group, self.limit, counts) for group in groups], counts)
        # First every prompt by itself: the pairs found there fulfil all options. Then the selector
        # proposes joins of them, because only a rejected answer that was refused by no option may
        # meet the chosen answers of other prompts.
        within = {group.prompt.id: self._within(group, None) for group in groups}
        trained = {
            id_: found for id_, found in within.items() if id_ not in held_out_ids and found.pairs
        }
        if judgments is None:
            proposals = self._proposals(trained)
            beyond: Joined = JoinedByStanding(trained, self.options)
        else:
            beyond = JoinedByJudge(groups, trained, judgments, self.options, counts)
            proposals = self._judged_proposals(trained, beyond)
        joined = [
            self._join(found, proposals.get(id_, ()), beyond)
            if id_ in trained
            else Selected(found.pairs[: self.limit], found.dropped)
            for id_, found in within.items()
        ]
        pairs = _taken(joined, counts)
        if trained:
            counts.across = (counts.across or 0) + sum(
                pair.rejected_prompt is not None for pair in pairs
            )
        return pairs

    def lists(self, groups: Sequence[RankedPrompt], counts: PairCounts) -> list[PreferenceList]:
        """The lists of some prompts."""
        self._count_left_out(groups, counts)
        found = []
        for prompt, completions, ranking in groups:
            made = select_list(prompt, completions, ranking, self._propose(prompt.id), self.options)
            if isinstance(made, str):
                counts.dropped[made] += 1
                counts.prompts_without += 1
            else:
                found.append(made)
        return found

    def labels(
        self, groups: Sequence[RankedPrompt], counts: PairCounts
    ) -> list[LabelledCompletion]:
        """The labelled answers of some prompts."""
        self._count_left_out(groups, counts)
        found = []
        for prompt, completions, ranking in groups:
            made, dropped = select_labels(
                prompt, completions, ranking, self._propose(prompt.id), self.options
            )
            counts.dropped.update(dropped)
            counts.prompts_without += not made
            found += made
        return found

    def productive(self, groups: Sequence[RankedPrompt]) -> set[str]:
        """The ids of the prompts that give an item, so that they can be evaluated."""
        if self.makes == "labels":
            return {found.prompt.id for found in self.labels(groups, PairCounts())}
        if self.makes == "lists":
            return {found.prompt.id for found in self.lists(groups, PairCounts())}
        return {group.prompt.id for group in groups if self._within(group, 1).pairs}

    def _within(
        self, group: RankedPrompt, limit: int | None, counts: PairCounts | None = None
    ) -> Selected:
        propose = self._propose(group.prompt.id, counts)
        return select_pairs(*group, propose, self.options, limit=limit)

    def _propose(
        self, prompt_id: str, counts: PairCounts | None = None
    ) -> Callable[[Ranking], Any]:
        """The selector on one prompt; what it proposes is checked, and its shares are counted.

        A joint selector sees no ranking: what it may join is chosen within a prompt at random.
        """
        if self.facts.makes == "joint":
            random_seed = _seed_of("best_vs_random", self._seed, prompt_id)
            return lambda ranking: best_vs_random(ranking, seed=random_seed)
        where, seed = self._where(prompt_id), _seed_of(self.name, self._seed, prompt_id)
        checked: Callable[..., Any] = {
            "pairs": checked_choices,
            "lists": checked_list,
            "labels": checked_labels,
        }[self.makes]

        def propose(ranking: Ranking) -> Any:
            if counts is not None and self._shares is not None:
                with self._blame(where):
                    counts.add_shares(self._shares(ranking))
            return checked(self._call(where, seed, ranking), ranking, where=where)

        return propose

    def _proposals(self, within: Mapping[str, Selected]) -> Mapping[str, Iterable[Choice]]:
        """The proposals of a joint selector, given the choices within each prompt."""
        if not within:
            return {}
        where = f"pair.selector.name: {self.name!r}"
        proposals = self._call(where, _seed_of(self.name, self._seed), choices_of(within))
        if not isinstance(proposals, Mapping):
            raise ConfigError(
                f"{where} returns {proposals!r:.80}; return the choices of each prompt by its id"
            )
        return proposals

    def _judged_proposals(
        self, within: Mapping[str, Selected], judged: JoinedByJudge
    ) -> Mapping[str, Iterable[Choice]]:
        """Select pairs across prompts among those that a judge has decided."""
        assert self._as_judged is not None, "checked by the caller"
        found: Mapping[str, Iterable[Choice]] = self._as_judged(choices_of(within), judged.choices)
        return found

    def _join(self, within: Selected, proposals: Iterable[Choice], beyond: Joined) -> Selected:
        """The first allowed proposals, of those within the prompt and those across prompts."""
        first = within.pairs[0]
        by_rejected = {pair.rejected.id: pair for pair in within.pairs}
        where = self._where(first.prompt.id)
        taken: list[PreferencePair] = []
        dropped = Counter(within.dropped)
        for choice in self._guarded(where, proposals):
            check_joint(choice, first, by_rejected, beyond, where)
            if choice.rejected_prompt is None:
                taken.append(by_rejected[choice.rejected])
            else:
                joined = beyond.pair(first, choice)
                if joined is None:
                    dropped[TOO_UNEQUAL] += 1
                else:
                    taken.append(joined)
            if len(taken) == self.limit:
                break
        if not taken and not dropped:
            dropped[WITHOUT_PARTNER] += 1
        return Selected(taken, dropped)

    def _where(self, prompt_id: str) -> str:
        return f"pair.selector.name: {self.name!r} on prompt {prompt_id}"

    def _call(self, where: str, seed: int, given: Any) -> Any:
        with self._blame(where):
            found = self._function(given, seed=seed) if self._takes_seed else self._function(given)
        return self._guarded(where, found) if isinstance(found, Iterator) else found

    def _guarded(self, where: str, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a generator, whose body runs while it is read."""
        with self._blame(where):
            yield from items

    @contextmanager
    def _blame(self, where: str) -> Iterator[None]:
        """Turn any error of a user's own selector into ConfigError; an error of ours is a bug."""
        try:
            yield
        except Exception as error:
            if ":" in self.name and not isinstance(error, PrefineError):
                raise ConfigError(f"{where} raises {type(error).__name__}: {error}") from error
            raise

    def _count_left_out(self, groups: Iterable[RankedPrompt], counts: PairCounts) -> None:
        for _, completions, ranking in groups:
            counts.unjudged += len(unjudged(ranking))
            if self.options.drop_truncated:
                counts.count_truncated(
                    completions[id_] for id_ in ranking.completions if id_ in completions
                )


def _with_options_of(
    bound: Callable[..., Any], function: Callable[..., Any] | None
) -> Callable[..., Any] | None:
    """Bind a function of a selector's facts to those of the selector's options that it names."""
    if function is None:
        return None
    options: Mapping[str, Any] = getattr(bound, "keywords", {})
    named = inspect.signature(function).parameters
    return partial(function, **{name: options[name] for name in named if name in options})


def _seed_of(*parts: object) -> int:
    """A seed that depends on these parts alone, such as a selector's name, a seed and a prompt."""
    return int(content_hash(*parts), 16)


def _taken(found: Iterable[Selected], counts: PairCounts) -> list[PreferencePair]:
    pairs: list[PreferencePair] = []
    for selected in found:
        pairs += selected.pairs
        counts.dropped.update(selected.dropped)
        counts.prompts_without += not selected.pairs
    return pairs
