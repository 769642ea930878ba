"""The executor `local`: all shards in this process."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefine.config.sections import RunConfig
from prefine.executors.protocol import StageWork, Workplace


class Local:
    """Works in this process; the calls of many prompts are in flight beside each other."""

    def check(self, config: RunConfig) -> None:
        """Accept every configuration."""

    def run(
        self, work: StageWork, shards: Iterable[Any], take: Callable[[Any], None]
    ) -> Sequence[str]:
        """Work on all shards; there are no notes but the job's."""
        place = Workplace(work.engine, work.advance, work.stopping)
        work.job.run(enumerate(shards), take, place)
        return work.job.notes

    def close(self) -> None:
        """Do nothing: nothing was opened."""
