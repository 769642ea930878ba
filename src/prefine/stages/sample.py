"""Stage `sample`: prompts → M completions each; or, entered later, the import of completions that exist."""

import hashlib
from collections.abc import Iterator
from typing import Any

from prefine.calls.engine import CallEngine
from prefine.config.sections import Component, RunConfig
from prefine.data.import_report import ImportReport
from prefine.errors import Interrupted
from prefine.records import Manifest, Prompt, content_hash
from prefine.run.folder import RunFolder
from prefine.run.rows import completion_row
from prefine.run.tables import part_path, remove_parts_from, shard_key, table_hash, write_part
from prefine.stages.inputs import read_completions, read_prompts, short_enough
from prefine.stages.sampling import sample_shard, sampler_of
from prefine.stages.stage_run import Progress, StageRun, check_model, chunks

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
    settings, source = config.sample, config.prompts
    # A first pass finds every bad row before a second of sampling is spent, and keeps no prompt in
    # memory.
    digest = hashlib.sha256()
    total = 0
    sampler = sampler_of(config)
    check_model(sampler)

    def prompts(screen: ImportReport) -> Iterator[Prompt]:
        found = read_prompts(source, where="prompts", screen=screen)
        return short_enough(
            found, lambda prompt: sampler.check_prompt(prompt, settings, where="sample"), screen
        )

    screen = ImportReport()
    for prompt in prompts(screen):
        # Metadata decides no completion, but it is stored beside each, and judges may read it.
        digest.update(content_hash(prompt.id, prompt.metadata).encode())
        total += 1
    stage = StageRun(
        folder,
        "sample",
        config,
        {"prompts": digest.hexdigest()[:16], "policy": sampler.fingerprint},
    )
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    engine = CallEngine(
        folder.journal(),
        max_cost=settings.max_cost,
        should_stop=lambda: progress.stopping,
        on_answers=progress.advance,
    )
    progress.start("sample", total * settings.completions_per_prompt, "completions")
    planned = produced = parts = alike = 0
    for shard in chunks(prompts(ImportReport()), settings.shard_prompts):
        if progress.stopping:
            raise Interrupted("stopped while sampling; the same command goes on from here")
        key = shard_key(
            "sample", stage.deciding["sample"], sampler.fingerprint, [prompt.id for prompt in shard]
        )
        planned += len(shard) * settings.completions_per_prompt
        drawn = sample_shard(
            engine,
            sampler,
            shard,
            settings.completions_per_prompt,
            settings,
            group=_SAMPLES_PER_BATCH,
        )
        produced += sum(map(len, drawn.values()))
        alike += sum(
            len({completion.text for completion in found}) < len(found) for found in drawn.values()
        )
        engine.check_failures(planned, settings.max_failed_fraction, where="sample")
        path = part_path(folder / "completions", parts)
        write_part(
            path, "completions", [completion_row(c, p) for p in shard for c in drawn[p.id]], key=key
        )
        parts += 1
    remove_parts_from(folder / "completions", parts)
    stage.failed.update(engine.failures)
    stage.set_aside(screen)
    stage.notes += sampler.notes
    if alike:
        stage.notes.append(
            f"{alike} of {total} prompts have completions that are identical; ranking merges them"
        )
    return stage.end(
        taken=screen.read,
        produced=produced,
        outputs={"completions": table_hash(folder / "completions")},
        engine=engine,
    )


def _import(
    source: Component, config: RunConfig, folder: RunFolder, progress: Progress
) -> Manifest:
    digest = hashlib.sha256()
    total = 0
    screen = ImportReport()
    for prompt, completions in read_completions(source, screen=screen):
        for record in (prompt, *completions):
            digest.update(record.model_dump_json().encode())
        total += 1
    stage = StageRun(folder, "sample", config, {"completions": digest.hexdigest()[:16]})
    if stage.finished:
        return stage.finished
    stage.begin()
    progress.start("sample", total, "prompts imported")
    produced = parts = 0
    for shard in chunks(read_completions(source), _IMPORT_SHARD):
        rows: list[dict[str, Any]] = [
            completion_row(c, prompt) for prompt, completions in shard for c in completions
        ]
        write_part(
            part_path(folder / "completions", parts),
            "completions",
            rows,
            key=shard_key("import", parts),
        )
        produced += len(rows)
        parts += 1
        progress.advance(len(shard))
    remove_parts_from(folder / "completions", parts)
    stage.set_aside(screen)
    # Counted in completions; a prompt that was set aside whole counts as one.
    taken = produced + stage.dropped.total()
    return stage.end(
        taken=taken, produced=produced, outputs={"completions": table_hash(folder / "completions")}
    )
