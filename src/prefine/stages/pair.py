"""Stage `pair`: rankings → preference pairs; or, entered later, the import of pairs that exist."""

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prefine.config import Component, PairConfig, RunConfig
from prefine.errors import ConfigError, DataError
from prefine.pairing.base import Choice
from prefine.pairing.select import check_selector, to_pair
from prefine.ranking.base import facts_of
from prefine.records import Completion, Manifest, PreferencePair, Prompt, Ranking, content_hash
from prefine.registry import TABLES, lookup
from prefine.stages.base import Progress, StageRun, chunks
from prefine.stages.inputs import read_pairs
from prefine.store.folder import RunFolder
from prefine.store.rows import grouped_completions, pair_row, ranking_of
from prefine.store.screen import Screen
from prefine.store.tables import part_path, parts, read_part, remove_parts_from, shard_key, table_hash, write_part

PAIRS, HELD_OUT = "pairs", "heldout_pairs"
_IMPORT_SHARD = 4096


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `pairs/` and, when prompts are held out, `heldout_pairs/`.

    Raises:
        ConfigError: The selector needs what the strategy does not guarantee.
        DataError: No pair came out.
    """
    return _select(config, folder, progress) if config.pairs is None else _import(config, folder, progress)


def bound_selector(selector: Component, strategy: Component | None, *, seed: int) -> Callable[[Ranking], list[Choice]]:
    """The configured selector, checked against the strategy that made the rankings.

    Raises:
        ConfigError: It needs what the strategy does not guarantee.
    """
    function = selector.lookup("selector", where="pair.selector")
    takes_seed = "seed" in inspect.signature(function).parameters
    bound = selector.resolve("selector", where="pair.selector", given=("seed",))
    if strategy is not None:
        check_selector(
            selector.name,
            function,
            strategy.name,
            facts_of(strategy.lookup("strategy", where="rank.strategy")),
            {name: lookup("selector", name, where="pair.selector") for name in TABLES["selector"]},
        )
    return (lambda ranking: bound(ranking, seed=seed)) if takes_seed else (lambda ranking: bound(ranking))


def held_out(prompt_ids: Iterable[str], settings: PairConfig) -> frozenset[str]:
    """The prompts that are kept out of training: those with the smallest hash, so that adding prompts moves few.

    Raises:
        ConfigError: Not one prompt would be left to train on.
    """
    ids = sorted(set(prompt_ids), key=lambda id_: content_hash("held out", settings.seed, id_))
    if ids and settings.held_out_prompts >= len(ids):
        raise ConfigError(
            f"pair.held_out_prompts: {settings.held_out_prompts} of {len(ids)} prompts leaves none to train on"
        )
    return frozenset(ids[: settings.held_out_prompts])


def relabelled(pair: PreferencePair, settings: PairConfig) -> PreferencePair:
    """The pair itself, or with `labels: shuffled` its sides swapped by a fair coin that knows nothing of the judge."""
    if settings.labels == "judged" or int(content_hash("coin", settings.seed, pair.id), 16) % 2:
        return pair
    return pair.model_copy(
        update={"chosen": pair.rejected, "rejected": pair.chosen, "p_chosen": None, "score_gap": None}
    )


def _select(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    settings = config.pair
    strategy = None if config.rank is None else config.rank.strategy
    select = bound_selector(settings.selector, strategy, seed=settings.seed)
    stage = StageRun(folder, "pair", config, {"rankings": table_hash(folder / "rankings")})
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    sources = parts(folder / "rankings")
    rankings = {path.name: [ranking_of(row) for row in read_part(path)] for path in sources}
    # A prompt without a pair could be held out, but nothing measured on it.
    choices = {ranking.prompt_id: select(ranking) for part in rankings.values() for ranking in part}
    kept_out = held_out((prompt_id for prompt_id, found in choices.items() if found), settings)
    # Counted in pairs; a ranking that gives none counts as one that was dropped.
    taken = sum(max(1, len(found)) for found in choices.values())
    progress.start("pair", len(choices), "rankings")
    produced = 0
    for number, path in enumerate(sources):
        groups = {prompt.id: (prompt, answers) for prompt, answers in _completions(folder, path.name)}
        pairs: list[PreferencePair] = []
        for ranking in rankings[path.name]:
            chosen = choices[ranking.prompt_id]
            if not chosen:
                stage.dropped["no pair selected"] += 1
            prompt, answers = groups[ranking.prompt_id]
            by_id = {answer.id: answer for answer in answers}
            pairs += [relabelled(to_pair(prompt, by_id, ranking, choice), settings) for choice in chosen]
        produced += _write(folder, number, pairs, kept_out, stage.dropped)
        progress.advance(len(rankings[path.name]))
    return _end(stage, folder, len(sources), taken=taken, produced=produced)


def _completions(folder: RunFolder, part: str) -> Sequence[tuple[Prompt, list[Completion]]]:
    return grouped_completions(read_part(folder / "completions" / part))


def _import(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    assert config.pairs is not None, "checked by run"
    settings = config.pair
    # A first pass checks every row and knows all prompts; no pair stays in memory.
    screen = Screen()
    digest = hashlib.sha256()
    prompt_ids: set[str] = set()
    for pair in read_pairs(config.pairs, screen=screen):
        digest.update(pair.model_dump_json().encode())
        prompt_ids.add(pair.prompt.id)
    stage = StageRun(folder, "pair", config, {"pairs": digest.hexdigest()[:16]})
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    progress.start("pair", screen.kept, "pairs imported")
    kept_out = held_out(prompt_ids, settings)
    produced = count = 0
    for shard in chunks(read_pairs(config.pairs), _IMPORT_SHARD):
        produced += _write(folder, count, [relabelled(pair, settings) for pair in shard], kept_out, stage.dropped)
        count += 1
        progress.advance(len(shard))
    stage.set_aside(screen)
    return _end(stage, folder, count, taken=screen.read, produced=produced)


def write_pairs(folder: RunFolder, pairs: Iterable[PreferencePair]) -> int:
    """Fill `pairs/` with pairs from memory; returns how many there are."""
    written = count = 0
    for shard in chunks(pairs, _IMPORT_SHARD):
        written += _write(folder, count, shard, frozenset(), Counter())
        count += 1
    remove_parts_from(folder / PAIRS, count)
    return written


def _write(
    folder: RunFolder, number: int, pairs: list[PreferencePair], kept_out: frozenset[str], dropped: Counter[str]
) -> int:
    """Write a shard; returns how many pairs are there to train on, and counts the others."""
    key = shard_key("pair", [pair.id for pair in pairs])
    train = [pair_row(pair) for pair in pairs if pair.prompt.id not in kept_out]
    write_part(part_path(folder / PAIRS, number), "pairs", train, key=key)
    if kept_out:
        rest = [pair_row(pair) for pair in pairs if pair.prompt.id in kept_out]
        write_part(part_path(folder / HELD_OUT, number), "pairs", rest, key=key)
        dropped["held out"] += len(rest)
    return len(train)


def _end(stage: StageRun, folder: RunFolder, count: int, *, taken: int, produced: int) -> Manifest:
    outputs = {}
    for name in (PAIRS, HELD_OUT):
        remove_parts_from(folder / name, count)
        outputs[name] = table_hash(folder / name)
    if not produced:
        reasons = ", ".join(f"{number} × {reason}" for reason, number in stage.dropped.items()) or "there was none"
        raise DataError(f"{folder / PAIRS}: no pair came out of {taken} rows ({reasons}); loosen the selector")
    assert taken == produced + stage.dropped.total(), "every pair is written or counted"
    return stage.end(taken=taken, produced=produced, outputs=outputs)
