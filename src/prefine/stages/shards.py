"""Work in shards: going through them, and sampling one."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Call, Failure
from prefine.config.sections import Decoding, RunConfig
from prefine.errors import Interrupted
from prefine.models.capabilities import backend_of
from prefine.models.protocol import SampleRequest, Samples, sample_key
from prefine.records import Completion, Prompt
from prefine.run.rows import Groups
from prefine.stages.stage_run import Progress

T = TypeVar("T")
SHARD = 256
"""The prompts of a shard, wherever the configuration does not say it."""


def until_stopped(shards: Iterable[T], progress: Progress) -> Iterator[T]:
    """The shards, one after the other, until the user asks to stop.

    A stage writes a part when its shard is whole. After an interruption all shards are worked on
    again: the answers that they ask for come from the journal, so the parts get the same bytes.

    Raises:
        Interrupted: The user asked to stop.
    """
    for shard in shards:
        if progress.stopping:
            raise Interrupted("stopped; the same command goes on from here")
        yield shard


def sampler_of(config: RunConfig) -> Samples:
    """The model that draws the completions to rank: `sample.model`, by default the policy."""
    component, where = config.policy, "policy"
    if config.sample is not None and config.sample.model is not None:
        component, where = config.sample.model, "sample.model"
    return backend_of(component, Samples, where=where)


def sample_shard(
    engine: CallEngine,
    sampler: Samples,
    prompts: list[Prompt],
    samples: int,
    decoding: Decoding,
) -> Groups:
    """Each prompt with up to `samples` completions; the engine counts the failed ones."""
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(samples)]
    calls = [
        Call(sample_key(sampler.fingerprint, request, decoding), request) for request in requests
    ]
    answers = engine.ask(
        calls,
        Completion,
        lambda wanted: sampler.sample(calls, wanted, decoding),
        concurrency=sampler.concurrency,
    )
    drawn: dict[str, list[Completion]] = {prompt.id: [] for prompt in prompts}
    for call in calls:
        answer = answers[call.key]
        if not isinstance(answer, Failure):
            drawn[call.payload.prompt.id].append(answer)
    return [(prompt, drawn[prompt.id]) for prompt in prompts]
