"""Parts of rankings → parts of pairs, lists or labels: what an executor does for stage `pair`."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from prefine.config.sections import RunConfig
from prefine.errors import Interrupted
from prefine.executors.protocol import Workplace
from prefine.run.rows import (
    grouped_completions,
    ranking_of,
)
from prefine.run.tables import read_part
from prefine.stages.item_parts import relabelled, write_items
from prefine.stages.pair_options import PairCounts
from prefine.stages.selection import BoundSelector, RankedPrompt
from prefine.stages.subsets import source_of, within


class PartToPair(NamedTuple):
    """A part of the rankings by its name, and what is known of the prompts in it.

    `excluded` has the reason why a prompt is not trained on.
    """

    part: str
    held_out: Set[str]
    excluded: Mapping[str, str]


class PairedPart(NamedTuple):
    """Counts of a part: its rankings, the items to train on, and what was left out."""

    rankings: int
    trained: int
    counts: PairCounts


class PairJob:
    """Makes the items of parts of the rankings, and writes their parts.

    Args:
        config: The configuration.
        folder: The run folder.
        holds_out: True if some prompts of the run are held out.
    """

    notes = ()

    def __init__(self, config: RunConfig, folder: Path, *, holds_out: bool) -> None:
        self._folder, self._holds_out = folder, holds_out
        self._settings = config.pair
        self._selector = selector_of(config)

    def run(
        self,
        shards: Iterable[tuple[int, Any]],
        take: Callable[[Any], None],
        place: Workplace,
    ) -> None:
        """Pair the prompts of parts, each of which is a `PartToPair`."""
        for number, shard in shards:
            _stop_if_asked(place)
            take(self._pair(number, shard))

    def _pair(self, number: int, shard: PartToPair) -> PairedPart:
        counts = PairCounts()
        selector, kind = self._selector, self._selector.makes
        rankings = ranked_prompts(self._folder, shard.part)
        groups = list(within(rankings, shard.excluded, counts.dropped))
        items: Sequence[Any]
        if kind == "lists":
            items = selector.lists(groups, counts)
        elif kind == "labels":
            items = selector.labels(groups, counts)
        else:
            pairs = selector.pairs(groups, shard.held_out, counts)
            items = [relabelled(pair, self._settings) for pair in pairs]
        trained = write_items(
            self._folder,
            kind,
            number,
            items,
            shard.held_out,
            counts.dropped,
            holds_out=self._holds_out,
        )
        return PairedPart(len(rankings), trained, counts)


class ProductiveJob:
    """Finds the prompts of parts of the rankings that give an item.

    Args:
        config: The configuration.
        folder: The run folder.
    """

    notes = ()

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._folder = folder
        self._selector = selector_of(config)

    def run(
        self,
        shards: Iterable[tuple[int, Any]],
        take: Callable[[Any], None],
        place: Workplace,
    ) -> None:
        """Give the sources of a part's productive prompts, by their ids."""
        for _, part in shards:
            _stop_if_asked(place)
            groups = ranked_prompts(self._folder, part)
            ids = self._selector.productive(groups)
            found = {one.prompt.id: source_of(one.prompt) for one in groups if one.prompt.id in ids}
            take(found)


def selector_of(config: RunConfig) -> BoundSelector:
    """The configured selector, checked against the strategy.

    Raises:
        ConfigError: It or an option needs what the strategy does not guarantee.
    """
    return BoundSelector(config.pair, None if config.rank is None else config.rank.strategy)


def ranked_prompts(folder: Path, part: str) -> list[RankedPrompt]:
    """The rankings of a part with their completions, joined by the prompt's id."""
    groups = {
        prompt.id: (prompt, {one.id: one for one in found})
        for prompt, found in grouped_completions(read_part(folder / "completions" / part))
    }
    rankings = map(ranking_of, read_part(folder / "rankings" / part))
    return [RankedPrompt(*groups[ranking.prompt_id], ranking) for ranking in rankings]


def _stop_if_asked(place: Workplace) -> None:
    if place.stopping():
        raise Interrupted("stopped; the same command goes on from here")
