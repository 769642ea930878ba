"""Group commits: what lands while the journal writes goes into its next commit."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from prefine.calls.protocol import AnswerLog, JournalGroup, Submission


class GroupCommits:
    """Writes to a journal in a thread of its own, one commit after the other.

    What comes during a commit gathers and is the next one, so that a single answer is written at
    once and ten thousand a second are, too. A commit survives a kill. Answers wait for the disk as
    well, which takes some milliseconds to survive a power cut: that happens in another thread, so
    that commits go on meanwhile.
    """

    def __init__(self, journal: AnswerLog, stage: str) -> None:
        self._journal = journal
        self._stage = stage
        self._gathering = JournalGroup(stage)
        self._commits = _Rounds("prefine-journal", self._begin_commit)
        self._syncs = _Rounds("prefine-sync", lambda: journal.sync)
        self.repeated = 0

    async def asked(self, keys: Iterable[str]) -> None:
        """Return once the keys are noted as in flight; adds the repeated ones to `repeated`."""
        self._gathering.asked += keys
        await self._commits.next()

    async def landed(self, answers: Mapping[str, str], failed: Mapping[str, str]) -> None:
        """Return once the answers, and the costs of the failures, are on the disk."""
        self._gathering.answers |= answers
        self._gathering.failed |= failed
        await self._commits.next()
        await self._syncs.next()

    def submissions(self, lines: Iterable[str]) -> dict[str, Submission]:
        """The submission of each of these lines that was ever handed over."""
        return self._journal.submissions(lines)

    async def submitted(self, submission: Submission, lines: Iterable[str]) -> None:
        """Return once it is on the disk that the lines belong to this submission."""
        self._gathering.submitted.append((submission, list(lines)))
        await self._commits.next()
        await self._syncs.next()

    def close(self) -> None:
        """Write what has gathered, if an end has overtaken the commit it waited for."""
        self._commits.close()
        self._syncs.close()
        if self._gathering != JournalGroup(self._stage):
            self._begin_commit()()
            self._journal.sync()

    def _begin_commit(self) -> Callable[[], None]:
        group, self._gathering = self._gathering, JournalGroup(self._stage)

        def commit() -> None:
            self.repeated += self._journal.write(group)

        return commit


class _Rounds:
    """Work in a thread, round after round, each for all who have come before it began.

    Args:
        name: Of the thread.
        begin: Called on the event loop; returns the work of a round.
    """

    def __init__(self, name: str, begin: Callable[[], Callable[[], None]]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._begin = begin
        self._waiting: list[asyncio.Future[None]] = []
        self._running: asyncio.Task[None] | None = None

    async def next(self) -> None:
        """Return when a round has ended that began after this call; raises its error."""
        # One future for each caller: one of them may be cancelled, and the others go on waiting.
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(end)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await end

    def close(self) -> None:
        """Wait for the round that is under way."""
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            work, waiting, self._waiting = self._begin(), self._waiting, []
            error: Exception | None = None
            try:
                await loop.run_in_executor(self._thread, work)
            except Exception as caught:  # noqa: BLE001 - whoever waits for this round raises it
                error = caught
            for end in waiting:
                if end.done():
                    continue
                if error is None:
                    end.set_result(None)
                else:
                    end.set_exception(error)
        self._running = None
