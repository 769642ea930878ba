"""A shard of prompts → completions, through the journal; shared by the stages that sample."""

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Call, Failure
from prefine.config.sections import Decoding, RunConfig
from prefine.models.protocol import Sampler, SampleRequest, sample_key
from prefine.records import Completion, Prompt


def sampler_of(config: RunConfig) -> Sampler:
    """What draws the completions to rank: `sample.model`, by default the policy."""
    own = config.sample.model if config.sample is not None else None
    component, where = (config.policy, "policy") if own is None else (own, "sample.model")
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
) -> dict[str, list[Completion]]:
    """M completions for each prompt, by prompt id; failed ones are missing here and counted in the engine.

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
    return drawn
