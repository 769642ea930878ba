"""Selectors at work on many prompts: bound to their options and to the strategy, and what came of them."""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefine.config import Component, PairConfig
from prefine.errors import ConfigError
from prefine.pairing.base import Choice, SelectorFacts, selector_facts
from prefine.pairing.best_vs_random import best_vs_random
from prefine.pairing.options import TRUNCATED, PairOptions, check_options, refusal
from prefine.pairing.select import Selected, across, check_selector, select_pairs
from prefine.pairing.select_lists import select_list
from prefine.ranking.base import facts_of
from prefine.records import Completion, PreferenceList, PreferencePair, Prompt, Ranking, content_hash
from prefine.registry import TABLES, lookup

ENOUGH = "enough pairs of the prompt"
WITHOUT_PARTNER = "no other prompt to pair with"


class Ranked(NamedTuple):
    """A prompt, its completions by id and their ranking."""

    prompt: Prompt
    completions: dict[str, Completion]
    ranking: Ranking


@dataclass
class Tally:
    """What was passed over while selecting, by reason, and what is worth a note."""

    dropped: Counter[str] = field(default_factory=Counter)
    prompts_without: int = 0
    truncated: int = 0

    def notes(self) -> list[str]:
        """Lines for the manifest."""
        notes = [f"{self.prompts_without} prompts give nothing to train on"] if self.prompts_without else []
        return notes + ([f"{self.truncated} completions left out: {TRUNCATED}"] if self.truncated else [])


class BoundSelector:
    """The configured selector with its options, checked against the strategy that made the rankings.

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
        self.options = options_of(settings)
        self._name, self._seed = component.name, settings.seed
        self._takes_seed = "seed" in inspect.signature(function).parameters
        self._function = component.resolve("selector", where="pair.selector", given=("seed",))
        if strategy is not None:
            table = {name: lookup("selector", name, where="pair.selector") for name in TABLES["selector"]}
            facts = facts_of(strategy.lookup("strategy", where="rank.strategy"))
            check_selector(component.name, function, strategy.name, facts, table)
            check_options(self.options, self.facts, strategy.name, facts)
        if self.facts.makes == "lists" and settings.labels == "shuffled":
            raise ConfigError("pair.labels: shuffled swaps the sides of pairs, and a list has none; leave it out")

    @property
    def limit(self) -> int | None:
        """How many pairs are taken of a prompt at most."""
        return self.facts.pairs_per_prompt if self.options.pairs_per_prompt is None else self.options.pairs_per_prompt

    def pairs(self, groups: Sequence[Ranked], kept_out: Collection[str], tally: Tally) -> list[PreferencePair]:
        """The pairs of some prompts.

        Pairs across prompts join only prompts of `groups` that are trained on; those of `kept_out`, on which accuracy
        is measured, keep what is chosen within them.
        """
        tally.truncated += self._truncated(groups)
        if self.facts.makes != "joint":
            propose = ((group, self._bound(self._name, group.prompt.id)) for group in groups)
            return _taken([self._within(group, selector, self.limit) for group, selector in propose], tally)
        # What is chosen within a prompt fulfils all options; who is left meets the others.
        within = {group.prompt.id: self._within(group, self._random(group), None) for group in groups}
        trained = {id_: found for id_, found in within.items() if id_ not in kept_out and found.pairs}
        proposals = self._call(seed_of(self._name, self._seed), _choices(trained)) if trained else {}
        taken = []
        for id_, found in within.items():
            if id_ in proposals:
                taken.append(self._join(found, proposals[id_], trained))
            else:
                taken.append(Selected(found.pairs[:1], found.dropped))
        return _taken(taken, tally)

    def fruitful(self, groups: Sequence[Ranked]) -> set[str]:
        """The prompts that give something, on which something could be measured."""
        if self.facts.makes == "lists":
            return {found.prompt.id for found in self.lists(groups, Tally())}
        if self.facts.makes == "joint":
            found = [self._within(group, self._random(group), 1) for group in groups]
        else:
            found = [self._within(group, self._bound(self._name, group.prompt.id), 1) for group in groups]
        return {selected.pairs[0].prompt.id for selected in found if selected.pairs}

    def lists(self, groups: Sequence[Ranked], tally: Tally) -> list[PreferenceList]:
        """The lists of some prompts."""
        tally.truncated += self._truncated(groups)
        found = []
        for prompt, completions, ranking in groups:
            made = select_list(prompt, completions, ranking, self._bound(self._name, prompt.id), self.options)
            if isinstance(made, str):
                tally.dropped[made] += 1
                tally.prompts_without += 1
            else:
                found.append(made)
        return found

    def _within(self, group: Ranked, propose: Callable[[Ranking], Any], limit: int | None) -> Selected:
        return select_pairs(*group, propose, self.options, limit=limit)

    def _join(self, own: Selected, proposals: Iterable[Choice], groups: dict[str, Selected]) -> Selected:
        """The first proposals that are wanted, of those within the prompt and those across prompts."""
        inside = {pair.rejected.id: pair for pair in own.pairs}
        losers = {(id_, pair.rejected.id): pair for id_, found in groups.items() for pair in found.pairs}
        taken: list[PreferencePair] = []
        dropped = Counter(own.dropped)
        for choice in proposals:
            if choice.rejected_prompt is None:
                taken.append(inside[choice.rejected])
            else:
                joined, why = across(own.pairs[0], losers[choice.rejected_prompt, choice.rejected], self.options)
                dropped.update([why] if why else [])
                taken += [joined] if joined is not None else []
            if len(taken) == self.limit:
                break
        if not taken and not dropped:
            dropped[WITHOUT_PARTNER] += 1
        return Selected(taken, dropped)

    def _bound(self, name: str, prompt_id: str) -> Callable[[Ranking], Any]:
        seed = seed_of(name, self._seed, prompt_id)
        return lambda ranking: self._call(seed, ranking)

    def _random(self, group: Ranked) -> Callable[[Ranking], Any]:
        seed = seed_of("best_vs_random", self._seed, group.prompt.id)
        return lambda ranking: best_vs_random(ranking, seed=seed)

    def _call(self, seed: int, given: Any) -> Any:
        return self._function(given, seed=seed) if self._takes_seed else self._function(given)

    def _truncated(self, groups: Sequence[Ranked]) -> int:
        if not self.options.drop_truncated:
            return 0
        return sum(
            group.completions[id_].finish_reason == "length"
            for group in groups
            for id_ in group.ranking.completions
            if id_ in group.completions
        )


def check_imported(settings: PairConfig) -> None:
    """Nothing, if every option that is set can be applied to pairs that exist already.

    Raises:
        ConfigError: One needs the scores of a ranking.
    """
    if settings.length_penalty:
        raise ConfigError(
            "pair.length_penalty: corrects the scores of rankings, and this configuration starts with pairs; "
            "use pair.max_length_ratio"
        )


def wanted(pairs: Iterable[PreferencePair], options: PairOptions, dropped: Counter[str]) -> Iterator[PreferencePair]:
    """Of pairs that exist, those that fulfil the options; the others are counted by reason."""
    taken: Counter[str] = Counter()
    for pair in pairs:
        why = refusal(pair, options)
        if why is None and options.pairs_per_prompt is not None and taken[pair.prompt.id] >= options.pairs_per_prompt:
            why = ENOUGH
        if why is not None:
            dropped[why] += 1
            continue
        taken[pair.prompt.id] += 1
        yield pair


def options_of(settings: PairConfig) -> PairOptions:
    """The options that all selectors share."""
    return PairOptions(
        min_gap=settings.min_gap,
        min_p_chosen=settings.min_p_chosen,
        max_length_ratio=settings.max_length_ratio,
        length_penalty=settings.length_penalty,
        drop_truncated=settings.drop_truncated,
        pairs_per_prompt=settings.pairs_per_prompt,
    )


def seed_of(*parts: object) -> int:
    """The seed of what is drawn for one prompt: of its name, the run's seed and the prompt alone."""
    return int(content_hash(*parts), 16)


def _choices(groups: dict[str, Selected]) -> dict[str, list[Choice]]:
    return {id_: [Choice(pair.chosen.id, pair.rejected.id) for pair in found.pairs] for id_, found in groups.items()}


def _taken(found: Iterable[Selected], tally: Tally) -> list[PreferencePair]:
    pairs: list[PreferencePair] = []
    for selected in found:
        pairs += selected.pairs
        tally.dropped.update(selected.dropped)
        tally.prompts_without += not selected.pairs
    return pairs
