"""The section `rounds`: train again and again on answers of the policy that the last round gave."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Strict,
    Tag,
    model_validator,
)

from prefine.config.base import Backend, Section
from prefine.config.marks import FREE, LATER, MayGrow

PLACEHOLDER = "{round}"
"""In the path of later prompts it stands for the number of the round."""


def round_name(number: int) -> str:
    """The name of a round's folder within that of all rounds."""
    return f"round-{number:02d}"


class PartConfig(Section):
    """One part of the prompts: those whose id hashes to `number`, of `of` parts in all."""

    number: PositiveInt
    of: PositiveInt

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if self.number > self.of:
            raise ValueError(f"number: there are {self.of} parts; give 1 to {self.of}")
        return self


class LaterPrompts(Section):
    """Files with the prompts of later rounds; `{round}` in `path` is the number of the round.

    The first round has those of section `prompts`; if that is a file, its other options, such as
    `columns`, are those of all.
    """

    path: str

    @model_validator(mode="after")
    def _differs_by_round(self) -> Self:
        if PLACEHOLDER not in self.path:
            raise ValueError(
                f"path: has no {PLACEHOLDER}, so all rounds would have one file; write such as "
                "prompts-{round}.jsonl, or prompts: same"
            )
        return self


def _word_or_section(value: Any) -> str:
    """Tell which of the two is meant, so that problems are those of this one alone."""
    return "(section)" if isinstance(value, Mapping | Section | list | tuple) else "(word)"


class Drawing(Section):
    """A policy that draws completions, and its share of them in any unit."""

    policy: Literal["current", "initial"]
    weight: PositiveFloat


class ReplayConfig(Section):
    """Items of earlier rounds among those of a round: `share` of all that it trains on.

    They are drawn at random: `by: age` with weights 1 / age in rounds, `by: use` with weights
    1 / (1 + rounds that have trained on it).
    """

    share: Annotated[float, Field(gt=0, lt=1)]
    by: Literal["age", "use"] = "age"

    @model_validator(mode="before")
    @classmethod
    def _share_alone(cls, values: Any) -> Any:
        return values if isinstance(values, Mapping | cls) else {"share": values}


class StopConfig(Section):
    """End before the last round: when `no_gain` rounds in a row bring no gain.

    A round brings one if its judged win rate over the round before is clear of 50 %, interval
    included.
    """

    no_gain: PositiveInt = 2


class RoundsConfig(Section):
    """Rounds: sample, rank, pair, train and evaluate `count` times, each from the policy before.

    `prompts: split` gives each round its own part of the prompts, chosen by a hash of their ids;
    there are `parts` of them, by default `count` as it was when the run began, and further rounds
    go through them again. With `same`, every round has all prompts.

    Completions are drawn from the policy that the round begins with (`sample_from: current`) or
    from that of the first round (`initial`), or of both: `[{policy: current, weight: 3}, {policy:
    initial, weight: 1}]`. Training compares with the initial policy
    (`reference: initial`) or with the one that the round begins with (`previous`).

    The optimizer begins anew (`reset`), or with the moments that it had at the end of the last
    round (`keep`); the learning rate's schedule always begins anew.

    With `replay: 0.25`, a quarter of what a round trains on are items of earlier rounds.

    With `keep_models: last`, model and checkpoints of a round are deleted when the next one has
    ended; `best` keeps those of the best round so far, too.

    A budget and the logged falls count from the policy that the round begins with (`budget_since:
    round`) or from that of the first round (`initial`).
    """

    count: Annotated[PositiveInt, MayGrow()]
    prompts: Annotated[
        Annotated[Literal["split", "same"], Tag("(word)")]
        | Annotated[LaterPrompts, Tag("(section)")],
        Discriminator(_word_or_section),
    ] = "split"
    parts: PositiveInt | None = None
    sample_from: Annotated[
        Annotated[Literal["current", "initial"], Tag("(word)")]
        | Annotated[
            Annotated[tuple[Drawing, ...], Strict(False), Field(min_length=2)], Tag("(section)")
        ],
        Discriminator(_word_or_section),
    ] = "current"
    reference: Literal["initial", "previous"] = "initial"
    optimizer: Literal["reset", "keep"] = "reset"
    budget_since: Annotated[Literal["round", "initial"], LATER] = "round"
    replay: ReplayConfig | None = None
    stop: Annotated[StopConfig | None, FREE] = None
    keep_models: Annotated[Literal["all", "best", "last"], FREE] = "all"

    @model_validator(mode="after")
    def _parts_are_of_a_split(self) -> Self:
        if self.parts is not None and self.prompts != "split":
            raise ValueError("parts: is for prompts: split; leave it out")
        return self

    @model_validator(mode="after")
    def _policies_differ(self) -> Self:
        if isinstance(self.sample_from, str):
            return self
        named = [one.policy for one in self.sample_from]
        if len(set(named)) < len(named):
            raise ValueError(
                f"sample_from: names {' and '.join(named)}; name each policy once, with its weight"
            )
        return self


class LineageConfig(Section):
    """The place of a run among rounds, which `prefine run` writes into the configuration of each.

    `parent_run` is the folder, seen from this run's, that holds all rounds, and `initial` the
    policy that the first round began with. `optimizer: keep` begins with the moments of the round
    before, `budget_since: initial` counts a budget and the logged falls from the initial policy.
    """

    round: PositiveInt
    parent_run: Annotated[str, Field(min_length=1)] = ".."
    initial: Backend
    optimizer: Literal["reset", "keep"] = "reset"
    budget_since: Annotated[Literal["round", "initial"], LATER] = "round"
