"""Group commits: what lands while the journal writes goes into its next commit."""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from prefine.calls.protocol import AnswerLog, JournalGroup, Submission


class GroupCommits:
    """Writes to a journal in a thread of its own, one commit after the other.

    A commit waits for the disk, some milliseconds. What comes meanwhile gathers and is the next
    commit, so that a single answer is on disk at once and ten thousand a second are, too.
    """

    def __init__(self, journal: AnswerLog, stage: str) -> None:
        self._journal = journal
        self._stage = stage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefine-journal")
        self._gathering = JournalGroup(stage)
        self._waiting: list[asyncio.Future[None]] = []
        self._writing: asyncio.Task[None] | None = None
        self.repeated = 0

    async def asked(self, keys: Iterable[str]) -> None:
        """Return once the keys are noted as in flight; adds the repeated ones to `repeated`."""
        self._gathering.asked += keys
        await self._committed()

    async def landed(self, answers: Mapping[str, str], failed: Mapping[str, str]) -> None:
        """Return once the answers, and the costs of the failures, survive a kill."""
        self._gathering.answers |= answers
        self._gathering.failed |= failed
        await self._committed()

    def submissions(self, lines: Iterable[str]) -> dict[str, Submission]:
        """The submission of each of these lines that was ever handed over."""
        return self._journal.submissions(lines)

    async def submitted(self, submission: Submission, lines: Iterable[str]) -> None:
        """Return once it survives a kill that the lines belong to this submission."""
        self._gathering.submitted.append((submission, list(lines)))
        await self._committed()

    def close(self) -> None:
        """Write what has gathered, if an end has overtaken the commit it waited for."""
        self._thread.shutdown()
        left, self._gathering = self._gathering, JournalGroup(self._stage)
        if left != JournalGroup(self._stage):
            self._journal.write(left)

    async def _committed(self) -> None:
        # One future for each caller: one of them may be cancelled, and the others go on waiting.
        commit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(commit)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await commit

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, waiting = self._gathering, self._waiting
            self._gathering, self._waiting = JournalGroup(self._stage), []
            error: Exception | None = None
            try:
                self.repeated += await loop.run_in_executor(
                    self._thread, self._journal.write, group
                )
            except Exception as caught:  # noqa: BLE001 - whoever waits for this commit raises it
                error = caught
            for commit in waiting:
                if commit.done():
                    continue
                if error is None:
                    commit.set_result(None)
                else:
                    commit.set_exception(error)
        self._writing = None
