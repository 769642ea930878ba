"""Stage `pair`: rankings → preference pairs; or, entered later, the import of pairs that exist."""

import inspect
from collections.abc import Callable, Iterable, Sequence

from prefine.config import PairConfig, RunConfig
from prefine.errors import ConfigError, DataError
from prefine.pairing.base import Choice
from prefine.pairing.select import check_selector, to_pair
from prefine.ranking.base import facts_of
from prefine.records import Completion, Manifest, PreferencePair, Prompt, Ranking, content_hash
from prefine.registry import TABLES, lookup
from prefine.stages.base import Progress, StageRun
from prefine.store import entries
from prefine.store.folder import RunFolder
from prefine.store.rows import grouped_completions, pair_row, ranking_of
from prefine.store.tables import parts, read_part, remove_parts_from, shard_key, table_hash, write_part

PAIRS, HELD_OUT = "pairs", "heldout_pairs"


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `pairs/` and, when prompts are held out, `heldout_pairs/`.

    Raises:
        ConfigError: The selector needs what the strategy does not guarantee.
        DataError: No pair came out.
    """
    return _select(config, folder, progress) if config.pairs is None else _import(config, folder, progress)


def bound_selector(config: RunConfig) -> Callable[[Ranking], list[Choice]]:
    """The configured selector, checked against the strategy.

    Raises:
        ConfigError: It needs what the strategy does not guarantee.
    """
    component = config.pair.selector
    function = component.lookup("selector", where="pair.selector")
    takes_seed = "seed" in inspect.signature(function).parameters
    bound = component.resolve("selector", where="pair.selector", given=("seed",))
    if config.rank is not None:
        strategy = config.rank.strategy
        check_selector(
            component.name,
            function,
            strategy.name,
            facts_of(strategy.lookup("strategy", where="rank.strategy")),
            {name: lookup("selector", name, where="pair.selector") for name in TABLES["selector"]},
        )
    return (lambda ranking: bound(ranking, seed=config.pair.seed)) if takes_seed else (lambda ranking: bound(ranking))


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
    select = bound_selector(config)
    stage = StageRun(folder, "pair", config, {"rankings": table_hash(folder / "rankings")})
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    sources = parts(folder / "rankings")
    rankings = {path.name: [ranking_of(row) for row in read_part(path)] for path in sources}
    # A prompt without a pair could be held out, but nothing measured on it.
    choices = {ranking.prompt_id: select(ranking) for part in rankings.values() for ranking in part}
    kept_out = held_out((prompt_id for prompt_id, found in choices.items() if found), settings)
    taken = sum(map(len, rankings.values()))
    progress.start("pair", taken, "rankings")
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
        produced += _write(folder, number, pairs, kept_out)
        progress.advance(len(rankings[path.name]))
    return _end(stage, folder, len(sources), taken=taken, produced=produced)


def _completions(folder: RunFolder, part: str) -> Sequence[tuple[Prompt, list[Completion]]]:
    return grouped_completions(read_part(folder / "completions" / part))


def _import(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    assert config.pairs is not None, "checked by run"
    settings = config.pair
    pairs = list(entries.pairs(config.pairs.resolve("source", where="pairs")()))
    content = content_hash([pair.model_dump_json() for pair in pairs])
    stage = StageRun(folder, "pair", config, {"pairs": content})
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    progress.start("pair", len(pairs), "pairs imported")
    kept_out = held_out((pair.prompt.id for pair in pairs), settings)
    produced = _write(folder, 0, [relabelled(pair, settings) for pair in pairs], kept_out)
    progress.advance(len(pairs))
    return _end(stage, folder, 1, taken=len(pairs), produced=produced)


def _write(folder: RunFolder, number: int, pairs: list[PreferencePair], kept_out: frozenset[str]) -> int:
    name = f"part-{number:05d}.parquet"
    key = shard_key("pair", [pair.id for pair in pairs])
    train = [pair_row(pair) for pair in pairs if pair.prompt.id not in kept_out]
    write_part(folder / PAIRS / name, "pairs", train, key=key)
    if kept_out:
        rest = [pair_row(pair) for pair in pairs if pair.prompt.id in kept_out]
        write_part(folder / HELD_OUT / name, "pairs", rest, key=key)
    return len(train)


def _end(stage: StageRun, folder: RunFolder, count: int, *, taken: int, produced: int) -> Manifest:
    outputs = {}
    for name in (PAIRS, HELD_OUT):
        remove_parts_from(folder / name, count)
        outputs[name] = table_hash(folder / name)
    if not produced:
        reasons = ", ".join(f"{number} × {reason}" for reason, number in stage.dropped.items()) or "there was none"
        raise DataError(f"{folder / PAIRS}: no pair came out of {taken} rankings ({reasons}); loosen the selector")
    return stage.end(taken=taken, produced=produced, outputs=outputs)
