"""Work in shards: many prompts at a time, parts in order; and sampling the prompts of one."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Asker, Call, Failure
from prefine.calls.window import in_order
from prefine.config.sections import Decoding, RunConfig
from prefine.errors import Interrupted
from prefine.executors.protocol import JobOrder, ShardJob, StageWork, Workplace, executor_of
from prefine.models.capabilities import backend_of
from prefine.models.protocol import SampleRequest, Samples, sample_key
from prefine.reasoning import without_reasoning
from prefine.records import Completion, Prompt
from prefine.run.folder import RunFolder
from prefine.run.rows import Groups
from prefine.stages.stage_run import Progress

T = TypeVar("T")
R = TypeVar("R")
SHARD = 256
"""The prompts of a shard, wherever the configuration does not say it."""
_OPEN = 2
"""Prompts at work for each call in flight: when one is answered, another one is ready to ask."""
_MOST_OPEN = 10_000
"""Prompts at work where calls go together in batch files, which hold their memory."""


def until_stopped(items: Iterable[T], progress: Progress) -> Iterator[T]:
    """The items, until the user asks to stop: for work that asks nobody.

    Raises:
        Interrupted: The user asked to stop.
    """
    for item in items:
        if progress.stopping:
            raise Interrupted("stopped; the same command goes on from here")
        yield item


class _Piece(NamedTuple, Generic[T]):
    """Items of a shard that are worked on together, and whether they are its last ones."""

    items: list[T]
    last: bool


async def in_parts(
    shards: Iterable[list[T]],
    work: Callable[[list[T]], Awaitable[list[R]]],
    write: Callable[[list[T], list[R]], None],
    *,
    concurrency: int,
) -> None:
    """Work on the items of shards, and write each shard, in order, when it is whole.

    With a concurrency of 1, a shard is worked on as a whole. Above it, each of its items goes on by
    itself beside those of the next shards, so that no slot waits for the slowest call of a shard.

    After an interruption all shards are worked on again: the answers that they ask for come from
    the journal, so the parts get the same bytes.

    Args:
        shards: Read one by one, as there is room for their items.
        work: Results for some items of one shard.
        write: Called with all items and all results of a shard, in their order.
        concurrency: How many items ask at a time, one call each.
    """

    def pieces() -> Iterator[_Piece[T]]:
        for shard in shards:
            size = len(shard) if concurrency == 1 else 1
            ends = range(size, len(shard), max(1, size))
            yield from (_Piece(shard[end - size : end], last=False) for end in ends)
            yield _Piece(shard[-size:] if size else shard, last=True)

    items: list[T] = []
    results: list[R] = []

    def take(piece: _Piece[T], found: list[R]) -> None:
        items.extend(piece.items)
        results.extend(found)
        if piece.last:
            write(list(items), list(results))
            items.clear()
            results.clear()

    at_work = 1 if concurrency == 1 else min(_OPEN * concurrency, _MOST_OPEN)
    await in_order(pieces(), lambda piece: work(piece.items), take, at_work=at_work)


class AskingJob(Protocol[T, R]):
    """A `ShardJob` of a stage that asks, in the steps that `ask_shards` takes."""

    @property
    def concurrency(self) -> int:
        """Items that ask at a time, one call each; 1: those of a shard together."""
        ...

    def items(self, shard: Any) -> list[T]:
        """The items of a shard.

        Args:
            shard: As the stage has numbered it.
        """
        ...

    async def work(self, asker: Asker, items: list[T]) -> list[R]:
        """Results for some items of one shard.

        Args:
            asker: The engine.
            items: The items.
        """
        ...

    def write(self, number: int, items: list[T], results: list[R]) -> Any:
        """Write the parts of a shard that is whole; return what the stage counts.

        Args:
            number: Of the shard and of its parts.
            items: All of its items.
            results: Their results.
        """
        ...


def ask_shards(
    job: AskingJob[T, R],
    shards: Iterable[tuple[int, Any]],
    take: Callable[[Any], None],
    place: Workplace,
) -> None:
    """Run an asking job; as an attribute of its class it is `ShardJob.run`."""
    engine = place.engine
    assert engine is not None, "a job that asks has an engine"
    numbers: deque[int] = deque()

    def read() -> Iterator[list[T]]:
        for number, shard in shards:
            numbers.append(number)
            yield job.items(shard)

    async def work(items: list[T]) -> list[R]:
        found = await job.work(engine.scope(), items)
        place.advance(len(items))
        return found

    def write(items: list[T], results: list[R]) -> None:
        take(job.write(numbers.popleft(), items, results))

    engine.run(in_parts(read(), work, write, concurrency=job.concurrency))


def spread(
    job: ShardJob,
    shards: Iterable[Any],
    take: Callable[[Any], None],
    *,
    stage: str,
    config: RunConfig,
    folder: RunFolder,
    progress: Progress,
    engine: CallEngine | None = None,
    advance: Callable[[int], None] = lambda count: None,
    **options: Any,
) -> Sequence[str]:
    """Let the configured executor work on the shards of a stage; return notes for the user.

    Args:
        job: The job as this process does it.
        shards: Read one by one.
        take: Called with the result of each shard, in order.
        stage: The name of the stage.
        config: The configuration.
        folder: The run folder.
        progress: Says whether to stop.
        engine: Asks, or is shown what others have asked.
        advance: Called with the number of items that are done.
        options: With which another process makes the same job.
    """
    work = StageWork(
        stage=stage,
        config=config,
        folder=folder.path,
        job=job,
        order=JobOrder(type(job), options),
        engine=engine,
        advance=advance,
        stopping=lambda: progress.stopping,
    )
    return executor_of(config).run(work, shards, take)


def sampler_of(config: RunConfig) -> Samples:
    """The model that draws the completions to rank: `sample.model`, by default the policy."""
    component, where = config.policy, "policy"
    if config.sample is not None and config.sample.model is not None:
        component, where = config.sample.model, "sample.model"
    return backend_of(component, Samples, where=where)


async def sample_shard(
    asker: Asker,
    sampler: Samples,
    prompts: Sequence[Prompt],
    samples: int,
    decoding: Decoding,
) -> Groups:
    """Each prompt with up to `samples` completions; the engine counts the failed ones."""
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(samples)]
    calls = [
        Call(sample_key(sampler.fingerprint, request, decoding), request) for request in requests
    ]
    answers = await asker.ask(
        calls,
        Completion,
        lambda wanted: sampler.sample(calls, wanted, decoding),
        backend=sampler,
    )
    drawn: dict[str, list[Completion]] = {prompt.id: [] for prompt in prompts}
    for call in calls:
        answer = answers[call.key]
        if not isinstance(answer, Failure):
            kept = answer if decoding.reasoning == "keep" else without_reasoning(answer)
            drawn[call.payload.prompt.id].append(kept)
    return [(prompt, drawn[prompt.id]) for prompt in prompts]
