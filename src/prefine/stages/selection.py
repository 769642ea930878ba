"""Selectors at work on many prompts: bound to their options and to the strategy, and what came of them."""

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefine.config.components import TABLES, lookup
from prefine.config.sections import Component, PairConfig
from prefine.errors import ConfigError, PrefineError
from prefine.pairing.filters import TOO_UNEQUAL, TRUNCATED, check_options
from prefine.pairing.protocol import Choice, SelectorFacts, selector_facts
from prefine.pairing.select import (
    Selected,
    across,
    check_selector,
    checked_choices,
    checked_list,
    select_list,
    select_pairs,
)
from prefine.pairing.selectors.best_vs import best_vs_random
from prefine.ranking.protocol import facts_of
from prefine.records import (
    Completion,
    PreferenceList,
    PreferencePair,
    Prompt,
    Ranking,
    content_hash,
)

WITHOUT_PARTNER = "no other prompt to pair with"


class RankedPrompt(NamedTuple):
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
    unknown_finish: int = 0
    # Of a selector that could join prompts: how many pairs do; None for the others.
    across: int | None = None

    def notes(self) -> list[str]:
        """Lines for the manifest."""
        notes = (
            [f"{self.prompts_without} prompts give nothing to train on"]
            if self.prompts_without
            else []
        )
        notes += [f"{self.truncated} completions left out: {TRUNCATED}"] if self.truncated else []
        if self.unknown_finish:
            notes.append(
                f"pair.drop_truncated: {self.unknown_finish} completions do not say whether they "
                f"were {TRUNCATED}, "
                "and stay"
            )
        if self.across == 0:
            notes.append(
                "no pair joins two prompts: raise pair.pairs_per_prompt, or let the selector take "
                "such pairs alone "
                "(joint: keep: across)"
            )
        return notes

    def look_at(self, completions: Iterable[Completion]) -> None:
        """Count the completions that were cut, and those of which it is not known."""
        for completion in completions:
            self.truncated += completion.finish_reason == "length"
            self.unknown_finish += completion.finish_reason == "unknown"


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
        self.options = settings
        self.name, self._seed = component.name, settings.seed
        self._takes_seed = "seed" in inspect.signature(function).parameters
        self._function = component.resolve("selector", where="pair.selector", given=("seed",))
        if strategy is not None:
            table = {
                name: lookup("selector", name, where="pair.selector") for name in TABLES["selector"]
            }
            facts = facts_of(strategy.lookup("strategy", where="rank.strategy"))
            check_selector(component.name, function, strategy.name, facts, table)
            check_options(self.options, self.facts, strategy.name, facts)
        if self.facts.makes == "lists" and settings.labels == "shuffled":
            raise ConfigError(
                "pair.labels: shuffled swaps the sides of pairs, and a list has none; leave it out"
            )

    @property
    def limit(self) -> int | None:
        """How many pairs are taken of a prompt at most."""
        return (
            self.facts.pairs_per_prompt
            if self.options.pairs_per_prompt is None
            else self.options.pairs_per_prompt
        )

    def pairs(
        self, groups: Sequence[RankedPrompt], kept_out: Collection[str], tally: Tally
    ) -> list[PreferencePair]:
        """The pairs of some prompts.

        Pairs across prompts join only prompts of `groups` that are trained on; those of `kept_out`,
        on which accuracy is measured, give as many pairs, all of them within the prompt.
        """
        self._look_at(groups, tally)
        if self.facts.makes != "joint":
            return _taken(
                [
                    self._within(group, self._choices(group.prompt.id), self.limit)
                    for group in groups
                ],
                tally,
            )
        # What is chosen within a prompt fulfils all options; who is left meets the others.
        within = {
            group.prompt.id: self._within(group, self._random(group), None) for group in groups
        }
        trained = {
            id_: found for id_, found in within.items() if id_ not in kept_out and found.pairs
        }
        proposals = self._proposals(trained)
        losers = {
            (id_, pair.rejected.id): pair for id_, found in trained.items() for pair in found.pairs
        }
        taken = [
            self._join(found, proposals.get(id_, ()), losers)
            if id_ in trained
            else Selected(found.pairs[: self.limit], found.dropped)
            for id_, found in within.items()
        ]
        pairs = _taken(taken, tally)
        if trained:
            tally.across = (tally.across or 0) + sum(
                pair.rejected_prompt is not None for pair in pairs
            )
        return pairs

    def fruitful(self, groups: Sequence[RankedPrompt]) -> set[str]:
        """The prompts that give something, on which something could be measured."""
        if self.facts.makes == "lists":
            return {found.prompt.id for found in self.lists(groups, Tally())}
        if self.facts.makes == "joint":
            found = [self._within(group, self._random(group), 1) for group in groups]
        else:
            found = [self._within(group, self._choices(group.prompt.id), 1) for group in groups]
        return {selected.pairs[0].prompt.id for selected in found if selected.pairs}

    def lists(self, groups: Sequence[RankedPrompt], tally: Tally) -> list[PreferenceList]:
        """The lists of some prompts."""
        self._look_at(groups, tally)
        found = []
        for prompt, completions, ranking in groups:
            made = select_list(prompt, completions, ranking, self._ids(prompt.id), self.options)
            if isinstance(made, str):
                tally.dropped[made] += 1
                tally.prompts_without += 1
            else:
                found.append(made)
        return found

    def _within(
        self, group: RankedPrompt, propose: Callable[[Ranking], Any], limit: int | None
    ) -> Selected:
        return select_pairs(*group, propose, self.options, limit=limit)

    def _join(
        self,
        own: Selected,
        proposals: Iterable[Choice],
        losers: Mapping[tuple[str, str], PreferencePair],
    ) -> Selected:
        """The first proposals that are wanted, of those within the prompt and those across prompts."""
        inside = {pair.rejected.id: pair for pair in own.pairs}
        where = self._where(own.pairs[0].prompt.id)
        taken: list[PreferencePair] = []
        dropped = Counter(own.dropped)
        for choice in self._guarded(where, proposals):
            self._check_joint(choice, own, inside, losers, where)
            if choice.rejected_prompt is None:
                taken.append(inside[choice.rejected])
            else:
                loser = losers[choice.rejected_prompt, choice.rejected]
                joined = across(own.pairs[0], loser, self.options)
                dropped.update([TOO_UNEQUAL] if joined is None else [])
                taken += [] if joined is None else [joined]
            if len(taken) == self.limit:
                break
        if not taken and not dropped:
            dropped[WITHOUT_PARTNER] += 1
        return Selected(taken, dropped)

    def _check_joint(
        self,
        choice: Any,
        own: Selected,
        inside: Mapping[str, PreferencePair],
        losers: Mapping[tuple[str, str], PreferencePair],
        where: str,
    ) -> None:
        if not isinstance(choice, Choice):
            raise ConfigError(
                f"{where} proposes {choice!r:.80}; give Choice(chosen, rejected, rejected_prompt)"
            )
        partner = choice.rejected_prompt
        known = (
            choice.rejected in inside if partner is None else (partner, choice.rejected) in losers
        )
        if (
            not known
            or choice.chosen != own.pairs[0].chosen.id
            or partner == own.pairs[0].prompt.id
        ):
            raise ConfigError(
                f"{where} proposes {choice}; the chosen one must be that of the prompt's own "
                "choices, the rejected one "
                "be rejected in those of the prompt or, with its rejected_prompt, of another one"
            )

    def _proposals(self, groups: dict[str, Selected]) -> Mapping[str, Iterable[Choice]]:
        """What a joint selector makes of the choices within each prompt."""
        if not groups:
            return {}
        where = f"pair.selector.name: {self.name!r}"
        found = self._call(where, seed_of(self.name, self._seed), _choices(groups))
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"{where} returns {found!r:.80}; return the choices of each prompt by its id"
            )
        return found

    def _choices(self, prompt_id: str) -> Callable[[Ranking], Iterator[Choice]]:
        where, seed = self._where(prompt_id), seed_of(self.name, self._seed, prompt_id)
        return lambda ranking: checked_choices(
            self._call(where, seed, ranking), ranking, where=where
        )

    def _ids(self, prompt_id: str) -> Callable[[Ranking], list[str]]:
        where, seed = self._where(prompt_id), seed_of(self.name, self._seed, prompt_id)
        return lambda ranking: checked_list(self._call(where, seed, ranking), ranking, where=where)

    def _random(self, group: RankedPrompt) -> Callable[[Ranking], Any]:
        seed = seed_of("best_vs_random", self._seed, group.prompt.id)
        return lambda ranking: best_vs_random(ranking, seed=seed)

    def _where(self, prompt_id: str) -> str:
        return f"pair.selector.name: {self.name!r} on prompt {prompt_id}"

    def _call(self, where: str, seed: int, given: Any) -> Any:
        """What the selector returns.

        Raises:
            ConfigError: It is a user's own and raises something.
        """
        try:
            found = self._function(given, seed=seed) if self._takes_seed else self._function(given)
        except Exception as error:
            self._blame(where, error)
            raise
        return self._guarded(where, found) if isinstance(found, Iterator) else found

    def _guarded(self, where: str, items: Iterable[Any]) -> Iterator[Any]:
        """The items of a generator, whose body runs while it is read."""
        try:
            yield from items
        except Exception as error:
            self._blame(where, error)
            raise

    def _blame(self, where: str, error: Exception) -> None:
        """A user's selector may raise anything; what ours raise is a bug of ours and stays as it is."""
        if ":" in self.name and not isinstance(error, PrefineError):
            raise ConfigError(f"{where} raises {type(error).__name__}: {error}") from error

    def _look_at(self, groups: Iterable[RankedPrompt], tally: Tally) -> None:
        if self.options.drop_truncated:
            for _, completions, ranking in groups:
                tally.look_at(completions[id_] for id_ in ranking.completions if id_ in completions)


def seed_of(*parts: object) -> int:
    """The seed of what is drawn for one prompt: of its name, the run's seed and the prompt alone."""
    return int(content_hash(*parts), 16)


def _choices(groups: dict[str, Selected]) -> dict[str, list[Choice]]:
    return {
        id_: [Choice(pair.chosen.id, pair.rejected.id) for pair in found.pairs]
        for id_, found in groups.items()
    }


def _taken(found: Iterable[Selected], tally: Tally) -> list[PreferencePair]:
    pairs: list[PreferencePair] = []
    for selected in found:
        pairs += selected.pairs
        tally.dropped.update(selected.dropped)
        tally.prompts_without += not selected.pairs
    return pairs
