"""Pairs across prompts that a joint selector may propose: by standing, or as a judge decided."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from prefine.config.sections import PairConfig
from prefine.data.reference_answers import reference_of
from prefine.errors import ConfigError
from prefine.pairing.filters import refusal
from prefine.pairing.judged_across import decided
from prefine.pairing.protocol import Choice
from prefine.pairing.select import Selected, across
from prefine.pairing.view import find
from prefine.records import Completion, Judgment, PreferencePair, Prompt, Ranking
from prefine.stages.pair_options import PairCounts

NOT_TRAINED_ON = "across prompts: one of the two is not trained on"


class RankedPrompt(NamedTuple):
    """A prompt, its completions by id and their ranking."""

    prompt: Prompt
    completions: dict[str, Completion]
    ranking: Ranking


def by_reference(prompt: Prompt, completions: Sequence[Completion]) -> RankedPrompt:
    """A prompt whose reference answer stands above its samples, of which nothing is known.

    Raises:
        DataError: It has no reference answer.
    """
    reference = reference_of(prompt)
    answers = {one.id: one for one in (reference, *completions)}
    ranking = Ranking(
        prompt_id=prompt.id,
        strategy="reference",
        completions=tuple(answers),
        champion=reference.id,
    )
    return RankedPrompt(prompt, answers, ranking)


class Joined(Protocol):
    """The pairs across prompts that may be proposed."""

    def allows(self, first: PreferencePair, choice: Choice) -> bool:
        """Return True if a pair across prompts may be proposed for the prompt of `first`."""
        ...

    def pair(self, first: PreferencePair, choice: Choice) -> PreferencePair | None:
        """Return an allowed pair; None if its lengths are too unequal."""
        ...


class JoinedByStanding:
    """By standing: a prompt's champion over an answer that is rejected in another prompt."""

    def __init__(self, trained: Mapping[str, Selected], options: PairConfig) -> None:
        self._options = options
        self._losers = {
            (id_, pair.rejected.id): pair for id_, found in trained.items() for pair in found.pairs
        }

    def allows(self, first: PreferencePair, choice: Choice) -> bool:
        """Return True for a loser of another prompt below this prompt's champion."""
        known = (choice.rejected_prompt, choice.rejected) in self._losers
        other = choice.rejected_prompt != first.prompt.id
        return known and other and choice.chosen == first.chosen.id

    def pair(self, first: PreferencePair, choice: Choice) -> PreferencePair | None:
        """Return the pair, without evidence; None if its lengths are too unequal."""
        assert choice.rejected_prompt is not None, "allowed"
        other = self._losers[choice.rejected_prompt, choice.rejected]
        return across(first, other, self._options)


class JoinedByJudge:
    """By a judge: the pairs across prompts that are trained on and that no option refuses."""

    def __init__(
        self,
        groups: Sequence[RankedPrompt],
        trained: Mapping[str, Selected],
        judgments: Sequence[Judgment],
        options: PairConfig,
        counts: PairCounts,
    ) -> None:
        by_id = {group.prompt.id: group for group in groups if group.prompt.id in trained}
        self.choices: dict[str, list[Choice]] = {}
        self._pairs: dict[tuple[str, Choice], PreferencePair] = {}
        for one in decided(judgments, counts.dropped):
            winner, loser = by_id.get(one.prompt), by_id.get(one.rejected_prompt)
            if winner is None or loser is None:
                counts.dropped[NOT_TRAINED_ON] += 1
                continue
            pair = PreferencePair(
                prompt=winner.prompt,
                chosen=find(one.prompt, winner.completions, one.chosen),
                rejected=find(one.rejected_prompt, loser.completions, one.rejected),
                rejected_prompt=loser.prompt,
                p_chosen=one.p_chosen,
            )
            if (reason := refusal(pair, options)) is not None:
                counts.dropped[reason] += 1
                continue
            choice = Choice(one.chosen, one.rejected, one.rejected_prompt)
            self.choices.setdefault(one.prompt, []).append(choice)
            self._pairs[one.prompt, choice] = pair

    def allows(self, first: PreferencePair, choice: Choice) -> bool:
        """Return True for what the judge decided."""
        return (first.prompt.id, choice) in self._pairs

    def pair(self, first: PreferencePair, choice: Choice) -> PreferencePair | None:
        """Return the pair with the judge's probability."""
        return self._pairs[first.prompt.id, choice]


def choices_of(within: Mapping[str, Selected]) -> dict[str, list[Choice]]:
    """The choices within each prompt, as a joint selector is given them."""
    return {
        id_: [Choice(pair.chosen.id, pair.rejected.id) for pair in found.pairs]
        for id_, found in within.items()
    }


def check_joint(
    choice: Any,
    first: PreferencePair,
    by_rejected: Mapping[str, PreferencePair],
    beyond: Joined,
    where: str,
) -> None:
    """Raise ConfigError if a joint selector proposes what it was not given."""
    if not isinstance(choice, Choice):
        raise ConfigError(
            f"{where} proposes {choice!r:.80}; give Choice(chosen, rejected, rejected_prompt)"
        )
    if choice.rejected_prompt is None:
        known = choice.rejected in by_rejected and choice.chosen == first.chosen.id
    else:
        known = beyond.allows(first, choice)
    if not known:
        raise ConfigError(
            f"{where} proposes {choice}; the chosen one must be that of the prompt's own choices, "
            "the rejected one be rejected in those of the prompt or, with its rejected_prompt, of "
            "another one"
        )
