"""Work in shards: the one loop that fills a table part by part, and how a shard is sampled."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Call, Failure
from prefine.config.sections import Decoding, RunConfig
from prefine.errors import Interrupted
from prefine.models.protocol import Sampler, SampleRequest, sample_key
from prefine.records import Completion, Prompt
from prefine.run.rows import Groups
from prefine.run.tables import part_path, remove_parts_from, write_part
from prefine.stages.stage_run import Progress

T = TypeVar("T")
SHARD = 256
"""The prompts of a shard, wherever the configuration does not say it."""


def write_table(
    folder: Path,
    kind: str,
    shards: Iterable[T],
    work: Callable[[T], tuple[str, list[dict[str, Any]]]],
    progress: Progress,
) -> None:
    """Write one part of a table for each shard, and remove the parts of an earlier, longer run.

    A part is written when its shard is whole. After an interruption all shards are worked on again;
    the answers that they ask for come from the journal, so the parts get the same bytes.

    Args:
        folder: Where the table is.
        kind: Its schema.
        shards: What each part is made from.
        work: Returns the key of the shard and the rows of its part.
        progress: Says whether to stop, between two shards.

    Raises:
        Interrupted: The user asked to stop.
    """
    count = 0
    for shard in shards:
        if progress.stopping:
            raise Interrupted("stopped; the same command goes on from here")
        key, rows = work(shard)
        write_part(part_path(folder, count), kind, rows, key=key)
        count += 1
    remove_parts_from(folder, count)


def sampler_of(config: RunConfig) -> Sampler:
    """The model that draws the completions to rank: `sample.model`, by default the policy."""
    component, where = config.policy, "policy"
    if config.sample is not None and config.sample.model is not None:
        component, where = config.sample.model, "sample.model"
    sampler: Sampler = component.resolve("backend", where=where)()
    return sampler


def sample_shard(
    engine: CallEngine,
    sampler: Sampler,
    prompts: list[Prompt],
    samples: int,
    decoding: Decoding,
    *,
    group: int,
) -> Groups:
    """Each prompt with up to `samples` completions; failed ones are missing and counted in the engine.

    `group` is how many samples of one prompt share a batch.
    """
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(samples)]
    calls = [
        Call(sample_key(sampler.fingerprint, request, decoding), request) for request in requests
    ]
    answers = engine.ask(
        calls,
        Completion,
        lambda wanted: sampler.sample(prompts, samples, wanted, decoding, group=group),
        concurrency=sampler.concurrency,
    )
    drawn: dict[str, list[Completion]] = {prompt.id: [] for prompt in prompts}
    for call in calls:
        answer = answers[call.key]
        if not isinstance(answer, Failure):
            drawn[call.payload.prompt.id].append(answer)
    return [(prompt, drawn[prompt.id]) for prompt in prompts]
