"""Items of earlier rounds among those of a round."""

import math
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, NamedTuple

from prefine.config.rounds import ReplayConfig, round_name
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.records import LabelledCompletion, PreferenceList, PreferencePair, content_hash
from prefine.run.item_rows import label_of, list_of, pair_of
from prefine.run.tables import existing_parts, read_part, table_hash
from prefine.stages.bridged import items_table

Replayed = PreferencePair | PreferenceList | LabelledCompletion

_RECORD: dict[str, Callable[[dict[str, Any]], Replayed]] = {
    "pairs": pair_of,
    "lists": list_of,
    "labels": label_of,
}


class _Earlier(NamedTuple):
    """An item of earlier rounds: the first of them that trained on it, and how many did."""

    first: int
    uses: int


def check_replay(config: RunConfig) -> None:
    """Check before any work that there can be something to replay.

    Raises:
        ConfigError: The run is none of several rounds, or does not make its items itself.
    """
    if config.pair.replay is None or (config.lineage is not None and not config.items_entries):
        return
    raise ConfigError(
        "pair.replay: is for a run of several rounds, which samples its own answers; leave it out, "
        "or write rounds.replay in the configuration of all rounds"
    )


def earlier_tables(config: RunConfig, kind: str) -> dict[int, Path]:
    """The tables that the rounds before a round trained on, by their numbers.

    Empty without replay. Of pairs with a section `bridge` they are the bridged ones.
    """
    if config.pair.replay is None or config.lineage is None:
        return {}
    parent = (config.run_dir / config.lineage.parent_run).resolve()
    table = items_table(config, kind)
    return {
        number: parent / round_name(number) / table for number in range(1, config.lineage.round)
    }


def earlier_ids(config: RunConfig, kind: str) -> frozenset[str]:
    """The ids of all items that earlier rounds trained on; none without replay."""
    tables = earlier_tables(config, kind).values()
    return frozenset(item.id for table in tables for item in _items(table, kind))


def replay_inputs(config: RunConfig, kind: str) -> dict[str, str]:
    """The input of stage `pair` beside its own tables: hashes of earlier rounds' items."""
    return {
        f"replayed {path.parent.name}": table_hash(path)
        for path in earlier_tables(config, kind).values()
    }


def replayed(config: RunConfig, kind: str, *, own: int, without: Set[str]) -> Iterator[Replayed]:
    """Yield items of earlier rounds, in the order of the rounds, each once.

    Args:
        config: Of the round.
        kind: "pairs", "lists" or "labels".
        own: How many items the round itself has to train on.
        without: Prompts whose items are not drawn, as they are held out.
    """
    settings, tables = config.pair.replay, earlier_tables(config, kind)
    if settings is None or config.lineage is None:
        return
    seen: dict[str, _Earlier] = {}
    for number, table in tables.items():
        for item in _items(table, kind):
            if without.isdisjoint(_prompt_ids(item)):
                first, uses = seen.get(item.id, _Earlier(number, 0))
                seen[item.id] = _Earlier(first, uses + 1)
    wanted = round(settings.share / (1 - settings.share) * own)
    now, seed = config.lineage.round, config.pair.seed

    def place(id_: str) -> float:
        """Exponential with the weight as its rate: the smallest are a draw without repetition."""
        text = content_hash("replay", now, seed, id_)
        uniform = (int(text, 16) + 0.5) / 16 ** len(text)
        return -math.log(uniform) / weight(seen[id_], settings, now=now)

    chosen = set(sorted(seen, key=place)[:wanted])
    for table in tables.values():
        for item in _items(table, kind):
            if item.id in chosen:
                chosen.remove(item.id)
                yield item


def _prompt_ids(item: Replayed) -> set[str]:
    """The prompt of an item, or both where the two answers of a pair are to different ones."""
    other = getattr(item, "rejected_prompt", None)
    return {item.prompt.id} if other is None else {item.prompt.id, other.id}


def weight(item: _Earlier, settings: ReplayConfig, *, now: int) -> float:
    """The weight with which an item is drawn in round `now`."""
    return 1 / (now - item.first) if settings.by == "age" else 1 / (1 + item.uses)


def _items(table: Path, kind: str) -> Iterator[Replayed]:
    return (_RECORD[kind](row) for path in existing_parts(table) for row in read_part(path))
