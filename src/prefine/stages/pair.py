"""Stage `pair`: rankings → pairs, lists or labelled answers; or the import of such items."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from prefine.config.base import LabelSource
from prefine.config.checking import listed
from prefine.config.rounds import round_name
from prefine.config.sections import ITEM_ENTRIES, ItemEntry, PairConfig, RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import DataError
from prefine.records import LabelledCompletion, Manifest, PreferencePair, content_hash
from prefine.run.folder import RunFolder
from prefine.run.tables import (
    PartsWritten,
    column,
    existing_parts,
    parts,
    remove_parts_from,
    table_hash,
)
from prefine.run.view import JOINT_JUDGMENTS
from prefine.stages.inputs import (
    conversations_of,
    read_labels,
    read_lists,
    read_pairs,
    readable_by_loss,
    renderable,
    trained_on,
)
from prefine.stages.item_parts import relabelled, write_items
from prefine.stages.pair_options import (
    FEWEST_TO_HOLD_OUT,
    PairCounts,
    allowed,
    check_imported,
    held_out_inputs,
    held_out_of_run,
    label_notes,
)
from prefine.stages.stage_run import Progress, StageRun, chunks
from prefine.stages.subsets import left_out, source_of, takes_all, within

_TABLES = (*ITEM_ENTRIES, *(f"heldout_{kind}" for kind in ITEM_ENTRIES))
_IMPORT_SHARD = 4096


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `pairs/`, `lists/` or `labels/` and, if prompts are held out, `heldout_…/`.

    Raises:
        ConfigError: The selector or an option needs what the strategy does not guarantee.
        DataError: No item came out, or none of one kind.
    """
    return (_import if config.items_entries else _select)(config, folder, progress)


def held_out(prompt_ids: Iterable[str], config: RunConfig) -> frozenset[str]:
    """The held-out prompts: those with the smallest hash, so that adding prompts moves few.

    Of a round of several, those that earlier rounds have held out stay held out. Prompts that one
    of them has trained on are held out only if there are too few others.

    Raises:
        ConfigError: Not one prompt would be left to train on.
    """
    seed, earlier = config.pair.seed, _earlier_prompts(config)
    ids = sorted(set(prompt_ids), key=lambda id_: content_hash("held out", seed, id_))
    kept = [id_ for id_ in ids if id_ in earlier.held_out]
    others = [id_ for id_ in ids if id_ not in earlier.held_out]
    others.sort(key=lambda id_: id_ in earlier.trained_on)
    more = max(0, held_out_of_run(len(ids), config) - len(kept))
    return frozenset(kept + others[:more])


class _EarlierPrompts(NamedTuple):
    """Prompts of earlier rounds, by id: held out there, and trained on there."""

    held_out: frozenset[str] = frozenset()
    trained_on: frozenset[str] = frozenset()


def _earlier_prompts(config: RunConfig) -> _EarlierPrompts:
    """The prompts of the rounds before a round; none for a run that is no round, or the first."""
    lineage = config.lineage
    if lineage is None:
        return _EarlierPrompts()
    parent = (config.run_dir / lineage.parent_run).resolve()
    folders = [parent / round_name(number) for number in range(1, lineage.round)]
    return _EarlierPrompts(
        frozenset(id_ for folder in folders for id_ in _held_out_in(folder)),
        frozenset(id_ for folder in folders for id_ in trained_on(folder)),
    )


def _held_out_in(folder: Path) -> set[str]:
    return {
        id_
        for kind in ITEM_ENTRIES
        for path in existing_parts(folder / f"heldout_{kind}")
        for id_ in column(path, "prefine_prompt_id")
    }


def _select(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    # An import of pairs loads no selector.
    from prefine.stages.pair_job import (
        PairedPart,
        PairJob,
        PartToPair,
        ProductiveJob,
        reads_judged,
        selector_of,
        table_of,
    )
    from prefine.stages.replay import check_replay, replay_inputs, replayed
    from prefine.stages.shards import spread

    settings = config.pair
    check_replay(config)
    selector = selector_of(config)
    kind = selector.makes
    judged, made_of = reads_judged(config, selector), table_of(config)
    read = (made_of, JOINT_JUDGMENTS) if judged else (made_of,)
    stage = StageRun(
        folder,
        "pair",
        config,
        {name: table_hash(folder / name) for name in read}
        | held_out_inputs(config)
        | replay_inputs(config, kind),
    )
    if stage.finished:
        return stage.finished
    _begin(stage, settings.seed)
    sources = parts(folder / made_of)
    total = sum(len(set(column(path, "prompt_id"))) for path in sources)
    progress.start("pair", total, "prompts" if config.unranked else "rankings")
    counts = PairCounts(stage.dropped)
    held_out_ids: frozenset[str] = frozenset()
    excluded: dict[str, str] = {}
    of_parts: list[dict[str, str]] = [{} for _ in sources]
    if settings.held_out_prompts != 0 or not takes_all(settings):
        # A prompt without a pair could be held out, but nothing measured on it; so this is known
        # before any is written.
        of_parts = []
        spread(
            ProductiveJob(config, folder.path),
            [path.name for path in sources],
            of_parts.append,
            stage="pair",
            config=config,
            folder=folder,
            progress=progress,
        )
        productive = {id_: source for found in of_parts for id_, source in found.items()}
        held_out_ids = held_out(productive, config)
        excluded = left_out(productive, held_out_ids, settings)
    _note_none_held_out(stage, held_out_ids, settings)
    if seen := len(held_out_ids & _earlier_prompts(config).trained_on):
        stage.notes.append(
            f"{seen} of {len(held_out_ids)} held-out prompts were trained on in earlier rounds, as "
            "too few others give something to measure on"
        )
    own = again = 0

    def take(paired: PairedPart) -> None:
        nonlocal own
        own += paired.trained
        counts.merge(paired.counts)
        progress.advance(paired.prompts)
        written.count += 1

    def parts_to_pair() -> Iterator[PartToPair]:
        for path, ids in zip(sources, of_parts, strict=True):
            yield PartToPair(
                path.name,
                held_out_ids.intersection(ids),
                {id_: excluded[id_] for id_ in ids if id_ in excluded},
            )

    tables = [folder / kind, folder / f"heldout_{kind}"]
    with PartsWritten(*tables) as written:
        options: dict[str, Any] = {"holds_out": bool(held_out_ids)}
        spread(
            PairJob(config, folder.path, **options),
            parts_to_pair(),
            take,
            stage="pair",
            config=config,
            folder=folder,
            progress=progress,
            **options,
        )
        earlier = replayed(config, kind, own=own, without=held_out_ids)
        for chunk in chunks(earlier, _IMPORT_SHARD):
            again += len(chunk)
            counts.labels.update(
                one.desirable for one in chunk if isinstance(one, LabelledCompletion)
            )
            _write_chunk(folder, kind, written, chunk, held_out_ids, stage.dropped)
    produced = own + again
    if settings.replay is not None:
        stage.notes.append(f"{again} of {produced} {kind} are of earlier rounds")
    stage.notes += [*counts.notes(), *label_notes(counts.labels, config)]
    # Counted in items that were looked at; a ranking that gives none to look at counts as
    # one.
    return _end(stage, taken=produced + stage.dropped.total(), produced=produced)


def _import(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Import pairs, lists or labelled answers, or several of these."""
    settings, entries = config.pair, config.items_entries
    notes, counts = check_imported(settings, list(entries)), PairCounts()

    def read(kind: ItemEntry, report: ImportReport | None, dropped: Counter[str]) -> Iterator[Any]:
        source = entries[kind]
        if kind != "pairs":
            found: Iterator[Any] = (
                read_labels(source, report=report)
                if isinstance(source, LabelSource)
                else read_lists(source, report=report)
            )
            return renderable(found, conversations_of, config.policy, report)
        pairs = readable_by_loss(read_pairs(source, report=report), config.train, report)
        taken = renderable(pairs, conversations_of, config.policy, report)
        return allowed(taken, settings, dropped)

    # A first pass checks every row and knows all prompts; no item stays in memory.
    reports: dict[ItemEntry, ImportReport] = {kind: ImportReport() for kind in entries}
    hashes: dict[str, str] = {}
    sources: dict[str, str] = {}
    for kind, report in reports.items():
        digest = hashlib.sha256()
        for item in read(kind, report, Counter()):
            digest.update(item.model_dump_json().encode())
            sources[item.prompt.id] = source_of(item.prompt)
            if isinstance(item, LabelledCompletion):
                counts.labels[item.desirable] += 1
            if kind == "pairs" and settings.drop_truncated:
                counts.count_truncated((item.chosen, item.rejected))
        hashes[kind] = digest.hexdigest()[:16]
    stage = StageRun(folder, "pair", config, hashes | held_out_inputs(config))
    if stage.finished:
        return stage.finished
    _begin(stage, settings.seed)
    kept = sum(report.kept for report in reports.values())
    progress.start("pair", kept, f"{listed(entries)} imported")

    def shards(kind: ItemEntry) -> Iterator[list[Any]]:
        found = within(read(kind, None, stage.dropped), excluded, stage.dropped)
        for shard in chunks(found, _IMPORT_SHARD):
            yield [relabelled(one, settings) for one in shard] if kind == "pairs" else shard
            progress.advance(len(shard))

    # The prompts of all kinds together: what is held out in one must not be trained on in another.
    held_out_ids = held_out(sources, config)
    excluded = left_out(sources, held_out_ids, settings)
    if "pairs" in entries:
        _note_none_held_out(stage, held_out_ids, settings)
    produced = {
        kind: _write_tables(folder, kind, shards(kind), held_out_ids, stage.dropped)
        for kind in entries
    }
    for report in reports.values():
        stage.set_aside(report)
    stage.notes += [*notes, *counts.notes(), *label_notes(counts.labels, config)]
    taken = sum(produced.values()) + stage.dropped.total()
    for kind, number in produced.items():
        if not number:
            return _end(stage, taken=taken, produced=0, kind=kind)
    return _end(stage, taken=taken, produced=sum(produced.values()))


def write_pairs(
    folder: RunFolder, pairs: Iterable[PreferencePair], held_out: Iterable[PreferencePair] = ()
) -> None:
    """Fill `pairs/` with pairs from memory, and `heldout_pairs/` with others.

    Raises:
        DataError: A prompt is to be trained on and held out.
    """
    others = list(held_out)
    held_out_ids = frozenset(pair.prompt.id for pair in others)

    def to_train_on() -> Iterator[PreferencePair]:
        for pair in pairs:
            if pair.prompt.id in held_out_ids:
                raise DataError(
                    f"pair {pair.id}: its prompt is held out, too; take it out of one of the two"
                )
            yield pair

    shards = chunks(chain(to_train_on(), others), _IMPORT_SHARD)
    _write_tables(folder, "pairs", shards, held_out_ids, Counter())


def _begin(stage: StageRun, seed: int) -> None:
    """Begin, and remove the tables of other settings, so that no table has parts of both."""
    stage.begin(seed)
    for table in (stage.folder / name for name in _TABLES):
        remove_parts_from(table, 0)
        if table.is_dir() and not any(table.iterdir()):
            table.rmdir()


def _write_tables(
    folder: RunFolder,
    kind: str,
    shards: Iterable[Sequence[Any]],
    held_out_ids: frozenset[str],
    dropped: Counter[str],
) -> int:
    """Write one part for each shard, and one of a second table for its held-out prompts.

    Returns: How many items there are to train on; those held out are counted in `dropped`.
    """
    produced = 0
    with PartsWritten(folder / kind, folder / f"heldout_{kind}") as written:
        for items in shards:
            produced += _write_chunk(folder, kind, written, items, held_out_ids, dropped)
    return produced


def _write_chunk(
    folder: RunFolder,
    kind: str,
    written: PartsWritten,
    items: Sequence[Any],
    held_out_ids: frozenset[str],
    dropped: Counter[str],
) -> int:
    """Write the next part; return how many of its items are trained on."""
    number, written.count = written.count, written.count + 1
    holds_out = bool(held_out_ids)
    return write_items(folder.path, kind, number, items, held_out_ids, dropped, holds_out=holds_out)


def _note_none_held_out(
    stage: StageRun, held_out_ids: frozenset[str], settings: PairConfig
) -> None:
    if settings.held_out_prompts == "auto" and not held_out_ids:
        stage.notes.append(
            f"no prompt was held out, as there are fewer than {FEWEST_TO_HOLD_OUT}: what training "
            "does to answers is measured on its own pairs only (pair.held_out_prompts)"
        )


def _end(stage: StageRun, *, taken: int, produced: int, kind: ItemEntry | None = None) -> Manifest:
    folder = stage.folder
    outputs = {name: table_hash(folder / name) for name in _TABLES if (folder / name).exists()}
    if not produced:
        reasons = ", ".join(f"{number} × {reason}" for reason, number in stage.dropped.items())
        found = next((name for name in ITEM_ENTRIES if name in outputs), "pairs")
        what = (kind or found).removesuffix("s")
        raise DataError(
            f"{folder.path}: no {what} came out of {taken} that were looked at "
            f"({reasons or 'there was none'}); loosen the section pair"
        )
    return stage.end(taken=taken, produced=produced, outputs=outputs)
