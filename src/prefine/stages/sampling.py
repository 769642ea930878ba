"""A shard of prompts → completions, through the journal; shared by the stages that sample."""

from collections.abc import Iterator

from prefine.calls.base import Call, Failure
from prefine.calls.engine import CallEngine
from prefine.config import Component, Decoding
from prefine.models.base import Sampler, SampleRequest, sample_key
from prefine.records import Completion, Prompt
from prefine.store import entries


def read_prompts(source: Component, *, where: str) -> Iterator[Prompt]:
    """The prompts of a source, checked row by row as they are read."""
    return entries.prompts(source.resolve("source", where=where)())


def sample_shard(
    engine: CallEngine,
    sampler: Sampler,
    prompts: list[Prompt],
    samples: int,
    decoding: Decoding,
    *,
    group: int,
) -> dict[str, list[Completion]]:
    """M completions for each prompt, by prompt id; failed ones are missing here and counted in the engine.

    `group` is how many samples of one prompt share a batch.
    """
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(samples)]
    calls = [Call(sample_key(sampler.fingerprint, request, decoding), request) for request in requests]
    answers = engine.ask(
        calls, Completion, lambda wanted: sampler.sample(prompts, samples, wanted, decoding, group=group)
    )
    drawn: dict[str, list[Completion]] = {prompt.id: [] for prompt in prompts}
    for call in calls:
        answer = answers[call.key]
        if not isinstance(answer, Failure):
            drawn[call.payload.prompt.id].append(answer)
    return drawn
