"""Stage `sample`: prompts → M completions each; or, entered later, the import of completions that exist."""

import hashlib
from collections.abc import Iterator
from typing import Any

from prefine.calls.engine import CallEngine
from prefine.config import Component, RunConfig
from prefine.errors import Interrupted
from prefine.models.base import Sampler
from prefine.records import Completion, Manifest, Prompt
from prefine.stages.base import Progress, StageRun, chunks
from prefine.stages.sampling import read_prompts, sample_shard
from prefine.store import entries
from prefine.store.folder import RunFolder
from prefine.store.rows import completion_row
from prefine.store.tables import part_path, remove_parts_from, shard_key, table_hash, write_part

_SAMPLES_PER_BATCH = 2
_IMPORT_SHARD = 256


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `completions/`.

    Raises:
        DataError: The prompts or completions cannot be used; found before anything is sampled.
        LimitError: More completions failed than `max_failed_fraction` allows.
    """
    if config.completions is not None:
        return _import(config.completions, config, folder, progress)
    return _sample(config, folder, progress)


def _sample(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    assert config.prompts is not None and config.sample is not None, "checked by RunConfig"
    settings = config.sample
    # A first pass finds every bad row before a second of sampling is spent, and keeps no prompt in memory.
    digest = hashlib.sha256()
    total = 0
    sampler: Sampler = config.policy.resolve("backend", where="policy")()
    for prompt in read_prompts(config.prompts, where="prompts"):
        sampler.check_prompt(prompt, settings, where="sample")
        digest.update(prompt.id.encode())
        total += 1
    stage = StageRun(folder, "sample", config, {"prompts": digest.hexdigest()[:16], "policy": sampler.fingerprint})
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    engine = CallEngine(folder.journal())
    progress.start("sample", total * settings.completions_per_prompt, "completions")
    planned = produced = parts = 0
    for shard in chunks(read_prompts(config.prompts, where="prompts"), settings.shard_prompts):
        if progress.stopping:
            raise Interrupted("stopped while sampling; the same command goes on from here")
        key = shard_key("sample", stage.sections["sample"], sampler.fingerprint, [prompt.id for prompt in shard])
        planned += len(shard) * settings.completions_per_prompt
        drawn = sample_shard(
            engine, sampler, shard, settings.completions_per_prompt, settings, group=_SAMPLES_PER_BATCH
        )
        produced += sum(map(len, drawn.values()))
        engine.check_failures(planned, settings.max_failed_fraction, where="sample")
        path = part_path(folder / "completions", parts)
        write_part(path, "completions", [completion_row(c, p) for p in shard for c in drawn[p.id]], key=key)
        parts += 1
        progress.advance(len(shard) * settings.completions_per_prompt)
    remove_parts_from(folder / "completions", parts)
    stage.failed.update(engine.failures)
    return stage.end(
        taken=total, produced=produced, outputs={"completions": table_hash(folder / "completions")}, engine=engine
    )


def _import(source: Component, config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    digest = hashlib.sha256()
    total = 0
    for prompt, completions in _read_completions(source):
        for record in (prompt, *completions):
            digest.update(record.model_dump_json().encode())
        total += 1
    stage = StageRun(folder, "sample", config, {"completions": digest.hexdigest()[:16]})
    if stage.finished:
        return stage.finished
    stage.begin()
    progress.start("sample", total, "prompts imported")
    produced = parts = 0
    for shard in chunks(_read_completions(source), _IMPORT_SHARD):
        rows: list[dict[str, Any]] = [completion_row(c, prompt) for prompt, completions in shard for c in completions]
        write_part(part_path(folder / "completions", parts), "completions", rows, key=shard_key("import", parts))
        produced += len(rows)
        parts += 1
        progress.advance(len(shard))
    remove_parts_from(folder / "completions", parts)
    return stage.end(taken=total, produced=produced, outputs={"completions": table_hash(folder / "completions")})


def _read_completions(source: Component) -> Iterator[tuple[Prompt, list[Completion]]]:
    return entries.completions(source.resolve("source", where="completions")())
