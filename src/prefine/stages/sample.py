"""Stage `sample`: prompts → M completions each; or the import of existing completions."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Asker
from prefine.config.sections import RunConfig
from prefine.data.import_report import ImportReport
from prefine.models.capabilities import check_model
from prefine.models.protocol import Samples
from prefine.records import Completion, Manifest, Prompt, content_hash
from prefine.run.folder import RunFolder
from prefine.run.rows import Groups, completion_rows
from prefine.run.tables import (
    PartsWritten,
    TableWriter,
    part_path,
    shard_key,
    table_hash,
    write_part,
)
from prefine.stages.inputs import prompts_to_answer, read_completions, renderable, short_enough
from prefine.stages.shards import (
    SHARD,
    ask_shards,
    sample_shard,
    sampler_of,
    spread,
    until_stopped,
)
from prefine.stages.stage_run import Progress, StageRun, chunks


def run(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Fill `completions/`.

    Raises:
        DataError: The prompts or completions cannot be used; found before anything is sampled.
        LimitError: More completions failed than `max_failed_fraction` allows.
    """
    if config.completions is not None:
        return _import(config, folder, progress)
    return _sample(config, folder, progress)


def _sample(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    assert config.prompts is not None and config.sample is not None, "checked by RunConfig"
    settings = config.sample
    sampler = sampler_of(config)
    check_model(sampler)

    def prompts(report: ImportReport) -> Iterator[Prompt]:
        read = prompts_to_answer(config, report)
        found = renderable(read, lambda prompt: [prompt], config.policy, report)
        return short_enough(
            found, lambda prompt: sampler.check_prompt(prompt, settings, where="sample"), report
        )

    # A first pass finds every bad row before a second of sampling is spent, and keeps no prompt in
    # memory.
    report, digest = ImportReport(), hashlib.sha256()
    total = 0
    for prompt in until_stopped(prompts(report), progress):
        # Metadata decides no completion, but it is stored with each, and judges may read it.
        digest.update(content_hash(prompt.id, prompt.metadata).encode())
        total += 1
    inputs = {"prompts": digest.hexdigest()[:16], "policy": sampler.fingerprint}
    stage = StageRun(folder, "sample", config, inputs)
    if stage.finished:
        return stage.finished
    stage.begin(settings.seed)
    engine = CallEngine(
        folder.journal(),
        stage="sample",
        max_cost=settings.max_cost,
        should_stop=lambda: progress.stopping,
        on_answers=lambda count: progress.advance(count, engine.status),
        on_heartbeat=lambda: stage.note(engine),
    )
    progress.start("sample", total * settings.completions_per_prompt, "completions")
    produced = with_repeats = reasoned = 0
    table = folder / "completions"

    def take(sampled: SampledShard) -> None:
        nonlocal produced, with_repeats, reasoned
        produced += sampled.produced
        with_repeats += sampled.with_repeats
        reasoned += sampled.reasoned
        engine.check_failures(engine.landed, settings.max_failed_fraction, where="sample")
        written.count += 1

    options = {"settings": stage.fingerprinted["sample"]}
    with PartsWritten(table) as written:
        notes = spread(
            SampleJob(config, folder.path, sampler=sampler, **options),
            chunks(prompts(ImportReport()), settings.shard_prompts),
            take,
            stage="sample",
            config=config,
            folder=folder,
            progress=progress,
            engine=engine,
            **options,
        )
    stage.failed.update(engine.failures)
    stage.set_aside(report)
    stage.notes += notes
    if reasoned:
        stage.notes.append(
            f"{reasoned} of {produced} completions have reasoning, which is kept and not judged"
        )
    if with_repeats:
        stage.notes.append(
            f"{with_repeats} of {total} prompts have completions that are identical; ranking "
            "merges them"
        )
    return stage.end(
        taken=report.read,
        produced=produced,
        outputs={"completions": table_hash(table)},
        engine=engine,
    )


class SampledShard(NamedTuple):
    """Counts of a shard: completions, those with reasoning, prompts with repeats."""

    produced: int
    reasoned: int
    with_repeats: int


class SampleJob:
    """Samples the completions of shards of prompts, and writes their parts.

    Args:
        config: The configuration.
        folder: The run folder.
        settings: Those of section `sample` that decide what is computed.
        sampler: The model, if this process has made it already.
    """

    def __init__(
        self, config: RunConfig, folder: Path, *, settings: Any, sampler: Samples | None = None
    ) -> None:
        assert config.sample is not None, "checked by the stage"
        self._config, self._settings = config.sample, settings
        self._sampler = sampler_of(config) if sampler is None else sampler
        self._table = folder / "completions"
        self.concurrency = self._sampler.concurrency

    @property
    def notes(self) -> Sequence[str]:
        """The model's."""
        return self._sampler.notes

    run = ask_shards

    def items(self, shard: list[Prompt]) -> list[Prompt]:
        """The prompts, which are the shard."""
        return shard

    async def work(self, asker: Asker, items: list[Prompt]) -> Groups:
        """Some prompts with their completions."""
        samples = self._config.completions_per_prompt
        return await sample_shard(asker, self._sampler, items, samples, self._config)

    def write(self, number: int, items: list[Prompt], results: Groups) -> SampledShard:
        """Write a part; return its counts."""
        ids = [prompt.id for prompt in items]
        key = shard_key("sample", self._settings, self._sampler.fingerprint, ids)
        path = part_path(self._table, number)
        write_part(path, "completions", completion_rows(results), key=key)
        found = [completions for _, completions in results]
        return SampledShard(
            produced=sum(map(len, found)),
            reasoned=sum(one.message.reasoning is not None for some in found for one in some),
            with_repeats=sum(len({one.text for one in some}) < len(some) for some in found),
        )


def _import(config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    assert config.completions is not None, "checked by run"
    source, policy = config.completions, config.policy

    def answered(report: ImportReport | None = None) -> Iterator[tuple[Prompt, list[Completion]]]:
        found = read_completions(source, report=report)
        return renderable(found, lambda group: [group[0]], policy, report)

    report, digest = ImportReport(), hashlib.sha256()
    total = produced = 0
    for prompt, completions in until_stopped(answered(report), progress):
        for record in (prompt, *completions):
            digest.update(record.model_dump_json().encode())
        total += 1
        produced += len(completions)
    stage = StageRun(folder, "sample", config, {"completions": digest.hexdigest()[:16]})
    if stage.finished:
        return stage.finished
    stage.begin()
    progress.start("sample", total, "prompts imported")

    shards = chunks(answered(), SHARD)
    with TableWriter(folder / "completions", "completions") as table:
        for number, groups in enumerate(until_stopped(shards, progress)):
            table.write(completion_rows(groups), key=shard_key("import", number))
            progress.advance(len(groups))
    stage.set_aside(report)
    # Counted in completions; a prompt that was set aside whole counts as one.
    return stage.end(
        taken=produced + stage.dropped.total(),
        produced=produced,
        outputs={"completions": table_hash(folder / "completions")},
    )
