"""Pairs, lists and labelled answers as parts of their tables, held-out ones beside them."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prefine.config.sections import PairConfig
from prefine.records import PreferencePair, content_hash
from prefine.run.item_rows import TableRow, label_row, list_row, pair_row
from prefine.run.tables import part_path, shard_key, write_part

_ROW: Mapping[str, Callable[[Any], TableRow]] = MappingProxyType(
    {"pairs": pair_row, "lists": list_row, "labels": label_row}
)


def relabelled(pair: PreferencePair, settings: PairConfig) -> PreferencePair:
    """The pair; with `labels: shuffled`, a fair coin decides whether its sides are swapped."""
    if settings.labels == "judged" or int(content_hash("coin", settings.seed, pair.id), 16) % 2:
        return pair
    swapped: dict[str, Any] = {
        "chosen": pair.rejected,
        "rejected": pair.chosen,
        "p_chosen": None,
        "score_gap": None,
    }
    if pair.rejected_prompt is not None:
        swapped |= {"prompt": pair.rejected_prompt, "rejected_prompt": pair.prompt}
    return pair.model_copy(update=swapped)


def write_items(
    folder: Path,
    kind: str,
    number: int,
    items: Sequence[Any],
    held_out_ids: Collection[str],
    dropped: Counter[str],
    *,
    holds_out: bool,
) -> int:
    """Write a part of items, and one of a second table for those of held-out prompts.

    Returns: How many items there are to train on; those held out are counted in `dropped`.
    """
    key = shard_key("pair", [item.id for item in items])
    trained: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for item in items:
        (rest if item.prompt.id in held_out_ids else trained).append(_ROW[kind](item))
    write_part(part_path(folder / kind, number), kind, trained, key=key)
    if holds_out:
        write_part(part_path(folder / f"heldout_{kind}", number), kind, rest, key=key)
        dropped["held out"] += len(rest)
    return len(trained)
