"""Stage `pair`: rankings → preference pairs or lists; or, entered later, the import of pairs that exist."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal

from prefine.config.sections import PairConfig, RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import ConfigError, DataError
from prefine.records import Manifest, PreferenceList, PreferencePair, content_hash
from prefine.run.folder import RunFolder
from prefine.run.rows import grouped_completions, list_row, pair_row, ranking_of
from prefine.run.tables import (
    column,
    part_path,
    parts,
    read_part,
    remove_parts_from,
    shard_key,
    table_hash,
    write_part,
)
from prefine.stages.imported_pairs import check_imported, readable_by_loss, wanted
from prefine.stages.inputs import read_pairs
from prefine.stages.selection import BoundSelector, RankedPrompt, Tally
from prefine.stages.stage_run import Progress, StageRun, chunks

# What is trained on, and beside it what is held out, by what a selector makes.
TABLES = {"pairs": ("pairs", "heldout_pairs"), "lists": ("lists", "heldout_lists")}
_IMPORT_SHARD = 4096


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `pairs/` (or `lists/`) and, when prompts are held out, `heldout_pairs/` (`heldout_lists/`).

    Raises:
        ConfigError: The selector or an option needs what the strategy does not guarantee.
        DataError: No pair came out.
    """
    return (
        _select(config, folder, progress)
        if config.pairs is None
        else _import(config, folder, progress)
    )


def held_out(prompt_ids: Iterable[str], settings: PairConfig) -> frozenset[str]:
    """The prompts that are kept out of training: those with the smallest hash, so that adding prompts moves few.

    Raises:
        ConfigError: Not one prompt would be left to train on.
    """
    ids = sorted(set(prompt_ids), key=lambda id_: content_hash("held out", settings.seed, id_))
    if ids and settings.held_out_prompts >= len(ids):
        raise ConfigError(
            f"pair.held_out_prompts: {settings.held_out_prompts} of {len(ids)} prompts leaves "
            "none to train on"
        )
    return frozenset(ids[: settings.held_out_prompts])


def relabelled(pair: PreferencePair, settings: PairConfig) -> PreferencePair:
    """The pair itself, or with `labels: shuffled` its sides swapped by a fair coin that knows nothing of the judge."""
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


def _select(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    settings = config.pair
    selector = BoundSelector(settings, None if config.rank is None else config.rank.strategy)
    stage = StageRun(folder, "pair", config, {"rankings": table_hash(folder / "rankings")})
    if stage.finished:
        return stage.finished
    _begin(stage, settings.seed)
    sources = parts(folder / "rankings")
    progress.start("pair", sum(len(column(path, "prompt_id")) for path in sources), "rankings")
    kept_out: frozenset[str] = frozenset()
    if settings.held_out_prompts:
        # A prompt without a pair could be held out, but nothing measured on it; so this is known
        # before any is written.
        fruitful = (
            id_ for path in sources for id_ in selector.fruitful(_ranked(folder, path.name))
        )
        kept_out = held_out(fruitful, settings)
    tally, produced = Tally(stage.dropped), 0
    for number, path in enumerate(sources):
        groups = _ranked(folder, path.name)
        if selector.facts.makes == "lists":
            produced += _write(
                folder, number, selector.lists(groups, tally), kept_out, stage.dropped, kind="lists"
            )
        else:
            pairs = [relabelled(pair, settings) for pair in selector.pairs(groups, kept_out, tally)]
            produced += _write(folder, number, pairs, kept_out, stage.dropped)
        progress.advance(len(groups))
    stage.notes += tally.notes()
    # Counted in pairs or lists that were looked at; a ranking that gives none to look at counts as
    # one.
    return _end(stage, folder, taken=produced + stage.dropped.total(), produced=produced)


def _ranked(folder: RunFolder, part: str) -> list[RankedPrompt]:
    """The rankings of a part with their completions; joined by the prompt's id."""
    groups = {
        prompt.id: (prompt, found)
        for prompt, found in grouped_completions(_rows(folder, "completions", part))
    }
    ranked = []
    for ranking in map(ranking_of, _rows(folder, "rankings", part)):
        prompt, found = groups[ranking.prompt_id]
        ranked.append(
            RankedPrompt(prompt, {completion.id: completion for completion in found}, ranking)
        )
    return ranked


def _rows(folder: RunFolder, table: str, part: str) -> Sequence[dict[str, Any]]:
    return read_part(folder / table / part)


def _import(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    assert config.pairs is not None, "checked by run"
    source, settings = config.pairs, config.pair
    notes, tally = check_imported(settings), Tally()

    def read(screen: ImportReport | None, dropped: Counter[str]) -> Iterator[PreferencePair]:
        return wanted(
            readable_by_loss(read_pairs(source, screen=screen), config.train, screen),
            settings,
            dropped,
        )

    # A first pass checks every row and knows all prompts; no pair stays in memory.
    screen = ImportReport()
    digest = hashlib.sha256()
    prompt_ids: set[str] = set()
    for pair in read(screen, Counter()):
        digest.update(pair.model_dump_json().encode())
        prompt_ids.add(pair.prompt.id)
        if settings.drop_truncated:
            tally.look_at((pair.chosen, pair.rejected))
    stage = StageRun(folder, "pair", config, {"pairs": digest.hexdigest()[:16]})
    if stage.finished:
        return stage.finished
    _begin(stage, settings.seed)
    progress.start("pair", screen.kept, "pairs imported")
    kept_out = held_out(prompt_ids, settings)
    produced = 0
    for number, shard in enumerate(chunks(read(None, stage.dropped), _IMPORT_SHARD)):
        produced += _write(
            folder, number, [relabelled(pair, settings) for pair in shard], kept_out, stage.dropped
        )
        progress.advance(len(shard))
    stage.set_aside(screen)
    stage.notes += [*notes, *tally.notes()]
    assert screen.read == produced + stage.dropped.total(), "every pair is written or counted"
    return _end(stage, folder, taken=screen.read, produced=produced)


def write_pairs(
    folder: RunFolder, pairs: Iterable[PreferencePair], held_out: Iterable[PreferencePair] = ()
) -> int:
    """Fill `pairs/` with pairs from memory, `heldout_pairs/` with others; returns how many there are to train on.

    Raises:
        DataError: A prompt is to be trained on and held out.
    """
    apart = list(held_out)
    kept_out = frozenset(pair.prompt.id for pair in apart)

    def trained_on() -> Iterator[PreferencePair]:
        for pair in pairs:
            if pair.prompt.id in kept_out:
                raise DataError(
                    f"pair {pair.id}: its prompt is held out, too; take it out of one of the two"
                )
            yield pair

    written = count = 0
    for shard in chunks(chain(trained_on(), apart), _IMPORT_SHARD):
        written += _write(folder, count, shard, kept_out, Counter())
        count += 1
    for name in TABLES["pairs"]:
        remove_parts_from(folder / name, count if kept_out or name == "pairs" else 0)
    return written


def _begin(stage: StageRun, seed: int) -> None:
    """Begin, and take away what other settings have left: half of theirs and half of ours would be no table."""
    stage.begin(seed)
    for table in (stage.folder / name for names in TABLES.values() for name in names):
        remove_parts_from(table, 0)
        if table.is_dir() and not any(table.iterdir()):
            table.rmdir()


def _write(
    folder: RunFolder,
    number: int,
    items: Sequence[PreferencePair] | Sequence[PreferenceList],
    kept_out: frozenset[str],
    dropped: Counter[str],
    *,
    kind: Literal["pairs", "lists"] = "pairs",
) -> int:
    """Write a shard; returns how many pairs or lists are there to train on, and counts the others."""
    key = shard_key("pair", [item.id for item in items])
    table, beside = TABLES[kind]
    train = [_row(item) for item in items if item.prompt.id not in kept_out]
    write_part(part_path(folder / table, number), kind, train, key=key)
    if kept_out:
        rest = [_row(item) for item in items if item.prompt.id in kept_out]
        write_part(part_path(folder / beside, number), kind, rest, key=key)
        dropped["held out"] += len(rest)
    return len(train)


def _row(item: PreferencePair | PreferenceList) -> dict[str, Any]:
    return list_row(item) if isinstance(item, PreferenceList) else pair_row(item)


def _end(stage: StageRun, folder: RunFolder, *, taken: int, produced: int) -> Manifest:
    outputs = {
        name: table_hash(folder / name)
        for names in TABLES.values()
        for name in names
        if (folder / name).exists()
    }
    if not produced:
        reasons = (
            ", ".join(f"{number} × {reason}" for reason, number in stage.dropped.items())
            or "there was none"
        )
        what = "list" if "lists" in outputs else "pair"
        raise DataError(
            f"{folder.path}: no {what} came out of {taken} that were looked at ({reasons}); "
            "loosen the section pair"
        )
    return stage.end(taken=taken, produced=produced, outputs=outputs)
