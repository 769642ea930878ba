"""Parts of rankings → parts of pairs, lists or labels: what an executor does for stage `pair`.

Of a run without rankings it is parts of completions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from prefine.config.sections import RunConfig
from prefine.errors import Interrupted
from prefine.executors.protocol import Workplace
from prefine.run.rows import grouped_completions, joint_judgment_of, ranking_of
from prefine.run.tables import read_part
from prefine.run.view import JOINT_JUDGMENTS
from prefine.stages.item_parts import relabelled, write_items
from prefine.stages.joining import RankedPrompt, by_reference
from prefine.stages.pair_options import PairCounts
from prefine.stages.selection import BoundSelector, strategy_of
from prefine.stages.subsets import source_of, within


class PartToPair(NamedTuple):
    """A part by its name, and what is known of the prompts in it.

    `excluded` has the reason why a prompt is not trained on.
    """

    part: str
    held_out: Set[str]
    excluded: Mapping[str, str]


class PairedPart(NamedTuple):
    """Counts of a part: its ranked prompts, the items to train on, and what was left out."""

    prompts: int
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
        self._settings, self._unranked = config.pair, config.unranked
        self._selector = selector_of(config)
        self._judged = reads_judged(config, self._selector)

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
        ranked = ranked_prompts(self._folder, shard.part, unranked=self._unranked)
        groups = list(within(ranked, shard.excluded, counts.dropped))
        items: Sequence[Any]
        if kind == "lists":
            items = selector.lists(groups, counts)
        elif kind == "labels":
            items = selector.labels(groups, counts)
            counts.labels.update(
                one.desirable for one in items if one.prompt.id not in shard.held_out
            )
        else:
            said = None
            if self._judged:
                rows = read_part(self._folder / JOINT_JUDGMENTS / shard.part)
                said = list(map(joint_judgment_of, rows))
            pairs = selector.pairs(groups, shard.held_out, counts, said)
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
        return PairedPart(len(ranked), trained, counts)


class ProductiveJob:
    """Finds the prompts of parts of the rankings that give an item.

    Args:
        config: The configuration.
        folder: The run folder.
    """

    notes = ()

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._folder, self._unranked = folder, config.unranked
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
            groups = ranked_prompts(self._folder, part, unranked=self._unranked)
            ids = self._selector.productive(groups)
            found = {one.prompt.id: source_of(one.prompt) for one in groups if one.prompt.id in ids}
            take(found)


def selector_of(config: RunConfig) -> BoundSelector:
    """The configured selector, checked against the strategy.

    Raises:
        ConfigError: It or an option needs what the strategy does not guarantee.
    """
    return BoundSelector(config.pair, strategy_of(config))


def table_of(config: RunConfig) -> str:
    """The table whose parts are paired: of a run without rankings the answers decide."""
    return "completions" if config.unranked else "rankings"


def reads_judged(config: RunConfig, selector: BoundSelector) -> bool:
    """Return True if the selector is given what a judge said of answers to different prompts."""
    return config.rank is not None and config.rank.across is not None and selector.reads_judged


def ranked_prompts(folder: Path, part: str, *, unranked: bool) -> list[RankedPrompt]:
    """The rankings of a part with their completions, joined by the prompt's id.

    Raises:
        DataError: The run has no rankings, and a prompt no reference answer.
    """
    found = grouped_completions(read_part(folder / "completions" / part))
    if unranked:
        return [by_reference(prompt, completions) for prompt, completions in found]
    groups = {prompt.id: (prompt, {one.id: one for one in answers}) for prompt, answers in found}
    rankings = map(ranking_of, read_part(folder / "rankings" / part))
    return [RankedPrompt(*groups[ranking.prompt_id], ranking) for ranking in rankings]


def _stop_if_asked(place: Workplace) -> None:
    if place.stopping():
        raise Interrupted("stopped; the same command goes on from here")
