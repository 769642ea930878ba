"""The protocols of an executor and of the work on shards that a stage gives it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from prefine.config.sections import RunConfig

if TYPE_CHECKING:
    from prefine.calls.engine import CallEngine


class Workplace(NamedTuple):
    """The process that works on shards: its engine, if they ask, and its ties to the user."""

    engine: "CallEngine | None"
    advance: Callable[[int], None]
    stopping: Callable[[], bool]


class ShardJob(Protocol):
    """The work of a stage on its shards, in whichever process.

    Its class is called with the configuration, the run folder and the options of its `JobOrder`.
    It writes the parts of tables itself, by the number of the shard, and hands back what the stage
    counts. A shard and what is handed back are pickled.
    """

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the user, each once."""
        ...

    def run(
        self,
        shards: Iterable[tuple[int, Any]],
        take: Callable[[Any], None],
        place: Workplace,
    ) -> None:
        """Work on shards, and hand the result of each to `take`, in order.

        Args:
            shards: Numbered; read as there is room for them.
            take: Called with each result.
            place: Where it happens.
        """
        ...


@dataclass(frozen=True)
class JobOrder:
    """Makes the same job in another process."""

    kind: Callable[..., ShardJob]
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, config: RunConfig, folder: Path) -> ShardJob:
        """The job."""
        return self.kind(config, folder, **self.options)


@dataclass(frozen=True)
class StageWork:
    """The work of a stage that an executor does.

    Args:
        stage: Its name.
        config: The configuration.
        folder: The run folder.
        job: The job, as this process does it.
        order: The same for other processes.
        engine: Has the limits of calls, and is shown what others count; None for work that asks
            nobody.
        advance: Called with the number of items that are done.
        stopping: True once the user asked to stop.
    """

    stage: str
    config: RunConfig
    folder: Path
    job: ShardJob
    order: JobOrder
    engine: "CallEngine | None"
    advance: Callable[[int], None]
    stopping: Callable[[], bool]


class Executor(Protocol):
    """Works on the shards of a stage: a component of the table `executor`."""

    def check(self, config: RunConfig) -> None:
        """Raise ConfigError if it cannot work on this configuration, before anything is done.

        Args:
            config: The configuration.
        """
        ...

    def run(
        self, work: StageWork, shards: Iterable[Any], take: Callable[[Any], None]
    ) -> Sequence[str]:
        """Work on all shards and hand their results to `take`, in the order of the shards.

        Args:
            work: What to do with them.
            shards: Read one by one, as there is room for them.
            take: Called in this process with the result of each.

        Returns: Notes for the user.

        Raises:
            PrefineError: As the job does; what was answered is journaled.
            Interrupted: The user asked to stop.
        """
        ...

    def close(self) -> None:
        """End what it has started; it starts anew if it is used again."""
        ...


def executor_of(config: RunConfig) -> Executor:
    """The executor that a configuration names, made once.

    Raises:
        ConfigError: There is no such executor, or an option is wrong.
    """
    component = config.executor

    def make() -> Executor:
        made: Executor = component.resolve("executor", where="executor")()
        return made

    return component.once("executor made", make)
