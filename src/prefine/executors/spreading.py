"""The work of a stage in the hands of other processes: orders for them, and their journal parts."""

import math
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from prefine.atomic import write_text
from prefine.calls.counts import CallCounts
from prefine.errors import noted_on
from prefine.executors.dispatch import Dispatch, Pool, Tally
from prefine.executors.protocol import StageWork
from prefine.executors.shared_limits import limits_of_one
from prefine.executors.worker import Orders, own_versions
from prefine.run.journal import Journal
from prefine.run.journal_parts import absorb_parts, next_part


class CountingPool(Pool, Tally, Protocol):
    """A pool that has the ledger of its workers."""


def work_on(
    work: StageWork,
    shards: Iterable[Any],
    take: Callable[[Any], None],
    start: Callable[[Orders, CallCounts], AbstractContextManager[CountingPool]],
    *,
    workers: int,
    each: int,
) -> list[str]:
    """Let the workers of a pool work on all shards; return notes.

    The journal absorbs their parts at the end, however that comes.

    Args:
        work: What to do.
        shards: Read one by one.
        take: Called with the result of each, in order.
        start: Makes the pool, of the workers' orders and what the stage has counted before.
        workers: The size of the pool.
        each: Shards of a task.

    Raises:
        PrefineError: As the job does, or as `Dispatch.run`.
    """
    engine = work.engine
    journal = None if engine is None else engine.journal
    assert journal is None or isinstance(journal, Journal), "the journal of a run folder"
    if journal is not None:
        journal.settle()
    with _token(work.folder) as (token_file, token):
        orders = Orders(
            stage=work.stage,
            config=limits_of_one(work.config, workers),
            folder=work.folder.absolute(),
            directory=Path.cwd(),
            paths=tuple(sys.path),
            token_file=token_file.absolute(),
            token=token,
            versions=own_versions(),
            job=work.order,
            journal=None if journal is None else journal.path.absolute(),
            max_calls=None if engine is None else engine.max_calls,
            max_cost=None if engine is None else engine.max_cost,
            most_failures=math.inf if engine is None else engine.most_failures,
        )
        earlier = CallCounts() if engine is None else engine.counts
        try:
            with start(orders, earlier) as pool:
                dispatch = Dispatch(
                    pool,
                    work,
                    pool,
                    shards_per_task=each,
                    first_part=1 if journal is None else next_part(journal),
                )
                notes = dispatch.run(shards, take)
        except BaseException as error:
            if journal is not None:
                with noted_on(error):
                    absorb_parts(journal)
            raise
    if journal is not None:
        absorb_parts(journal)
    return notes


@contextmanager
def _token(folder: Path) -> Iterator[tuple[Path, str]]:
    """A file in the run folder whose content only who sees the folder can know."""
    token = secrets.token_hex(8)
    path = folder / f".executor-{token}"
    write_text(path, token)
    try:
        yield path, token
    finally:
        path.unlink(missing_ok=True)
