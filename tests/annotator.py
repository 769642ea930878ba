"""A run to annotate, and a person who annotates it: the real command in a pseudo-terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from prefine.records import Comparison, Completion, Judgment, Message, Prompt, content_hash
from prefine.run.rows import completion_rows, judgment_row
from prefine.run.tables import write_part
from run_place import jsonl

_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_WAIT_S = 30.0


class Answers(NamedTuple):
    """Both answers to a prompt, and P(after is better) by the judge in its two orders."""

    before: str
    after: str
    p_after: tuple[float | None, float | None] = (None, None)
    gold: tuple[float, float] | None = None


def prompt_of(number: int) -> Prompt:
    """The prompt of a number: its text says the number."""
    return Prompt.from_text(f"question {number}.")


def completion_of(prompt: Prompt, text: str, model: str) -> Completion:
    """An answer of a model."""
    return Completion(
        id=content_hash("test", prompt.id, model, text),
        prompt_id=prompt.id,
        sample_index=0,
        message=Message(role="assistant", content=text),
        model=model,
    )


def make_run(path: Path, answers: Sequence[Answers]) -> Path:
    """Write the folder of a run whose evaluation has ended, as its stages would."""
    path.mkdir(parents=True)
    config = {"run_dir": str(path), "evaluate": {}}
    (path / "config.json").write_text(json.dumps({"schema_version": 1, "config": config}))
    stage = {"stage": "evaluate", "config": {}, "code_version": "0", "complete": True}
    manifest = {"schema_version": 1, "stages": {"evaluate": stage}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    rows: dict[str, list[dict[str, Any]]] = {"baseline": [], "trained": [], "judgments": []}
    outcomes = []
    for number, one in enumerate(answers):
        prompt = prompt_of(number)
        before = completion_of(prompt, one.before, "before")
        after = completion_of(prompt, one.after, "after")
        rows["baseline"] += completion_rows([(prompt, [before])])
        rows["trained"] += completion_rows([(prompt, [after])])
        shown = Comparison(prompt_id=prompt.id, first=after.id, second=before.id)
        for p, comparison in zip(one.p_after, (shown, shown.swapped()), strict=True):
            p_first = p if comparison is shown or p is None else 1 - p
            judgment = Judgment(
                comparison=comparison,
                judge="judge",
                p_first=p_first,
                error="no verdict" if p is None else None,
            )
            rows["judgments"].append(judgment_row(judgment, prompt.id))
        gold = [None, None] if one.gold is None else [{"all": score} for score in one.gold]
        outcomes.append(
            {"prompt_id": prompt.id, "prompt": prompt.text, "before": one.before}
            | {"after": one.after, "p_after": None}
            | {"gold_before": gold[0], "gold_after": gold[1]}
        )
    for name, table in rows.items():
        kind = "judgments" if name == "judgments" else "completions"
        write_part(path / "evaluation" / name / "part-00000.parquet", kind, table, key="test")
    (path / "evaluation" / "outcomes.jsonl").write_bytes(jsonl(outcomes))
    return path


def verdict_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of an annotator's file; none if there is no file."""
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


class Annotator:
    """`prefine annotate` in a pseudo-terminal of its own, as a person sees it.

    Args:
        arguments: Of the command.
        columns: Of the terminal.
        rows: Of the terminal.
    """

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24) -> None:
        self._terminal, inner = pty.openpty()
        self.resize(columns, rows)

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(inner, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-c", "from prefine.cli.app import main; main()", *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            preexec_fn=take_terminal,
            env=os.environ | {"TERM": "xterm-256color"},
        )
        os.close(inner)
        self.said = ""
        """All that was written so far, with its escape sequences."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        os.close(self._terminal)

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def screen(self) -> list[str]:
        """The lines of the last whole picture, without colours; none before the first one."""
        pictures = self.said.split("\x1b[H")[1:]
        whole = [one for one in pictures if "\x1b[?25l" in one]
        return re.split(r"\r*\n", _STYLE.sub("", whole[-1])) if whole else []

    def wait(self, seen: Callable[[list[str]], bool], *, seconds: float = _WAIT_S) -> list[str]:
        """Read until the screen is as wished, and return it.

        Raises:
            AssertionError: It ended before, or was not so in time.
        """
        end = time.monotonic() + seconds
        while not seen(self.screen()):
            assert time.monotonic() < end, self.said[-3000:]
            assert self.read(), self.said[-3000:]
        return self.screen()

    def wait_for(self, text: str) -> list[str]:
        """Read until a line of the screen has a text in it."""
        return self.wait(lambda lines: any(text in line for line in lines))

    def read(self, seconds: float = 0.1) -> bool:
        """Read what is written within so many seconds; False at the end of the process."""
        if not select.select([self._terminal], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self._terminal, 65536)
        except OSError:  # the other side has closed it
            return False
        self.said += piece.decode("utf-8", "replace")
        return bool(piece)

    def end(self) -> tuple[int, str]:
        """Read to the end of the process; its exit code, and what it wrote behind the screens."""
        end = time.monotonic() + _WAIT_S
        while self.read():
            assert time.monotonic() < end, self.said[-3000:]
        code = self.process.wait(_WAIT_S)
        return code, self.said.rpartition("\x1b[?1049l")[2].replace("\r\n", "\n")

    def kill(self) -> None:
        """Kill -9; what was written before can still be read."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(_WAIT_S)


class Killed(NamedTuple):
    """An annotator who was killed: prompts shown, and of them those that the next was shown after.

    Behind the last of `shown` no other stood: its verdict may be on the disk or not.
    """

    shown: tuple[str, ...]
    followed: tuple[str, ...]


def annotate_until_killed(run: Path, *arguments: str, after_s: float) -> Killed:
    """Annotate as fast as the screen follows, and kill -9 so long after the first question."""
    shown: list[str] = []
    with Annotator("annotate", str(run), *arguments) as one:
        one.wait(lambda lines: judged_on(lines) is not None)
        killer = threading.Timer(after_s, one.kill)
        killer.start()
        count = None
        while True:
            now, number = judged_on(one.screen()), question_on(one.screen())
            if now == count or now is None or number is None:
                if not one.read(0.01):
                    break
                continue
            count = now
            shown.append(prompt_of(number).id)
            if one.process.poll() is None:
                one.press("1" if number % 2 else "t")
        killer.join()
    return Killed(tuple(shown), tuple(shown[:-1]))


def question_on(lines: Sequence[str]) -> int | None:
    """The number of the question on a screen."""
    found = re.search(r"^question (\d+)\.", "\n".join(lines), re.MULTILINE)
    return None if found is None else int(found[1])


def judged_on(lines: Sequence[str]) -> int | None:
    """The number of verdicts in the status line."""
    found = re.match(r" ([\d,]+) judged", lines[0]) if lines else None
    return None if found is None else int(found[1].replace(",", ""))
