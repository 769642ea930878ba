"""Parts of a journal: absorbed once, under a lease, with the counts that one journal would have."""

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prefine.calls.protocol import JournalGroup, Submission
from prefine.errors import ConfigError
from prefine.run.folder import RunFolder
from prefine.run.journal import Journal
from prefine.run.journal_parts import absorb_parts, leased, next_part, part_file, parts_beside


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal" / "part-00000.sqlite"


def write_part(main: Path, number: int, *groups: JournalGroup) -> None:
    with closing(Journal(part_file(main, number))) as part:
        part.note_stage("rank")
        for group in groups:
            part.write(group)


def test_a_part_reads_the_journal_and_is_absorbed_by_it(main: Path) -> None:
    with closing(Journal(main)) as journal:
        # "b" was in flight when an earlier run ended; "c" had failed at some cost.
        journal.write(JournalGroup("rank", asked=["a", "b", "c"], answers={"a": "1"}))
        journal.write(JournalGroup("rank", failed={"c": "cost of c"}))
        journal.settle()
        with closing(Journal(part_file(main, 1), base=main)) as part:
            assert part.answers(["a", "b"]) == {"a": "1"}
            assert part.failed_usages(["c"]) == ["cost of c"]
        write_part(
            main,
            1,
            JournalGroup("rank", asked=["b", "d", "e"], submitted=[(Submission("t", "7"), ["x"])]),
            JournalGroup("rank", answers={"b": "2", "d": "4"}, failed={"e": "cost of e"}),
            JournalGroup("rank", asked=["f"]),
        )
        assert absorb_parts(journal) == 1
        assert journal.answers("abdef") == {"a": "1", "b": "2", "d": "4"}
        assert journal.failed_usages("ce") == ["cost of c", "cost of e"]
        assert journal.submissions(["x"]) == {"x": Submission("t", "7")}
        # "b" alone was asked twice; "f" is in flight, and asking it again will be the second one.
        assert journal.repeats("rank") == 1
        assert journal.write(JournalGroup("rank", asked=["e", "f"])) == 1
        assert journal.repeats("rank") == 2
    assert [path.name for path in main.parent.iterdir()] == ["part-00000.sqlite"]


def test_a_journal_that_others_read_is_not_taken_for_whole(main: Path) -> None:
    with closing(Journal(main)) as journal, closing(sqlite3.connect(main)) as other:
        journal.write(JournalGroup("rank", answers={"a": "1"}))
        other.execute("BEGIN")
        assert other.execute("SELECT key FROM answers").fetchall() == [("a",)]
        journal.write(JournalGroup("rank", answers={"b": "2"}))
        with pytest.raises(ConfigError, match=r"part-00000.sqlite: another process has been"):
            journal.settle(wait_s=0.1)
        other.rollback()
        journal.settle(wait_s=0.1)
        with closing(Journal(part_file(main, 1), base=main)) as part:
            assert part.answers("ab") == {"a": "1", "b": "2"}


def test_a_part_counts_once_however_often_its_absorption_is_cut_short(main: Path) -> None:
    with closing(Journal(main)) as journal:
        write_part(main, 1, JournalGroup("rank", asked=["a"], failed={"a": "cost"}))
        journal.absorb(part_file(main, 1), 1)  # and killed before the file was removed
        assert absorb_parts(journal) == 1
        assert journal.failed_usages(["a"]) == ["cost"]
        assert journal.last_part() == 1
        assert next_part(journal) == 2
        write_part(main, 5)
        assert next_part(journal) == 6


def test_parts_left_by_a_driver_that_was_killed_are_taken_over(main: Path) -> None:
    folder = main.parent.parent
    with RunFolder(folder) as run:
        assert run.journal().answers(["a"]) == {}
    write_part(main, 3, JournalGroup("rank", asked=["a"], answers={"a": "1"}))
    part_file(main, 4).write_bytes(b"")  # killed while it was made
    with RunFolder(folder) as run:
        assert run.journal().answers(["a"]) == {"a": "1"}
        assert parts_beside(main) == []


def test_a_part_that_is_being_written_is_not_taken_over(main: Path) -> None:
    with closing(Journal(main)) as journal:
        write_part(main, 1, JournalGroup("rank", answers={"a": "1"}))
        still = pytest.raises(ConfigError, match=r"part-00001.sqlite: another process still")
        with leased(part_file(main, 1)), still:
            absorb_parts(journal, wait_s=0.1)
        assert absorb_parts(journal, wait_s=0.1) == 1


def test_a_lease_ends_with_its_holder(main: Path) -> None:
    part = part_file(main, 2)
    with leased(part):
        file = part.with_suffix(".lease").open()
        with file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with leased(part, wait_s=0):
        pass
