"""The command `annotate`: people judge a run's answers, blind, by keyboard."""

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer import Argument, Option

from prefine.cli.ending import terminal_columns, visible
from prefine.cli.options import AsJson
from prefine.errors import ConfigError

if TYPE_CHECKING:
    from prefine.annotate.session import AskedQuestion, Session
    from prefine.cli.terminal import Terminal

_VERDICTS = {"1": 1.0, "left": 1.0, "2": 0.0, "right": 0.0, "t": 0.5, "s": None}
_SAID = {1.0: "the first", 0.0: "the second", 0.5: "a tie", None: "skipped"}
_FOOTER = "1 ← first  2 → second  t tie  s skip  b back  q quit  ? help"
_AT_THE_END = "b back  q quit"
_SCROLL = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "page up": -1,
    "page down": 1,
    "home": -(10**9),
    "end": 10**9,
}


def annotate(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, finished or at work.")],
    queue: Annotated[
        str,
        Option(
            metavar="NAME",
            help="Which comparisons first: random; uncertain (the judge is near .5); disagree "
            "(its two orders, or judge and gold, do); mixed (random and those by turns).",
        ),
    ] = "random",
    of: Annotated[
        str,
        Option(
            metavar="WHAT",
            help="evaluation (the answers before and after training) or rank (its duels).",
        ),
    ] = "evaluation",
    annotator: Annotated[
        str | None, Option(metavar="NAME", help="Your name, that of your login if not given.")
    ] = None,
    to: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Where verdicts are kept, RUN/annotations if not given."),
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the random order.")] = 0,
    half_width: Annotated[
        float,
        Option(
            metavar="POINTS",
            help="Of the interval that the summary counts the labels for that are still needed.",
        ),
    ] = 5.0,
    summary_: Annotated[
        bool, Option("--summary", help="Ask nothing; print what was said so far.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Judge pairs of a run's answers by keyboard, blind, and see how far its judge can be trusted.

    Every verdict is on the disk before the next question, in a file of your own; the run itself is
    only read. `--json` prints run, scope, questions, annotators, agreements, win_rate and outdated.
    """
    from prefine.annotate.questions import Texts, read_questions
    from prefine.annotate.queues import Queue
    from prefine.annotate.session import Session
    from prefine.annotate.summary import read_annotators, summary
    from prefine.annotate.text import as_text
    from prefine.annotate.verdict_file import FOLDER, VerdictFile
    from prefine.judges.human import Scope
    from prefine.run.view import RunView

    chosen: Queue = _one_of(get_args(Queue), queue, "--queue")
    scope: Scope = _one_of(get_args(Scope), of, "--of")
    if not half_width > 0:
        raise ConfigError(f"--half-width {half_width:g}: give percentage points above 0, such as 5")
    view = RunView(run)
    questions = read_questions(view, scope)
    folder = run / FOLDER if to is None else to
    if not summary_:
        from prefine.cli.terminal import open_terminal

        with (
            open_terminal() as terminal,
            VerdictFile(folder, _login() if annotator is None else annotator) as file,
        ):
            session = Session(
                questions, Texts(view, scope), file, scope=scope, queue=chosen, seed=seed
            )
            _ask(session, terminal, queue)
    by_id = {one.id: one for one in questions}
    annotators = read_annotators(folder, by_id, scope)
    found = summary(run, by_id, annotators, scope=scope, half_width=half_width)
    if json_:
        typer.echo(json.dumps(found.model_dump(mode="json"), ensure_ascii=False, allow_nan=False))
    else:
        typer.echo(visible(as_text(found, columns=terminal_columns() or 100)))


def _ask(session: "Session", terminal: "Terminal", queue: str) -> None:
    """Ask until the annotator quits; every verdict is journaled before the next is shown."""
    while True:
        asked = session.asked()
        key = _read(session, asked, terminal, queue)
        if key == "q":
            return
        if key == "b":
            session.back()
        elif asked is not None:
            session.answer(asked, _VERDICTS[key])


def _read(
    session: "Session", asked: "AskedQuestion | None", terminal: "Terminal", queue: str
) -> str:
    """Show a question, scroll in it, and return the key of a verdict, `b` or `q`."""
    from prefine.cli.annotate_screen import KEYS, Body, body, content_rows, frame, wrapped

    top, helping = 0, False
    drawn: list[str] | None = None
    content, laid_out = Body((), (0,)), 0
    status = _status(session, asked, queue)
    footer = _AT_THE_END if asked is None else _FOOTER
    while True:
        size = terminal.size
        if laid_out != size.columns:
            laid_out = size.columns
            part = sum(place <= top for place in content.parts) - 1
            if asked is None:
                text = (
                    f"This was the last comparison of the queue {queue}. Press q for the figures."
                )
                content = Body(tuple(wrapped(text, size.columns)), (0,))
            else:
                content = body(asked, size.columns)
            # Other lines at another width: the reader stays in the same part.
            top = content.parts[min(part, len(content.parts) - 1)] if top else 0
        page = content_rows(size)
        top = max(min(top, len(content.lines) - page), 0)
        lines = [piece for text in KEYS for piece in wrapped(text, size.columns)]
        screen = frame(
            status,
            lines if helping else content.lines,
            "any key: back to the question" if helping else footer,
            size,
            0 if helping else top,
        )
        if screen != drawn:
            if drawn is None:
                terminal.forget_keys()
            terminal.draw(screen)
            drawn = screen
        key = terminal.key()
        if key is None:
            continue
        if helping:
            helping = False
        elif key in ("b", "q") or (asked is not None and key in _VERDICTS):
            return key
        elif key == "?":
            helping = True
        elif key == "tab":
            top = next((part for part in content.parts if part > top), 0)
        else:
            top += _SCROLL.get(key, 0) * (max(page - 1, 1) if "page" in key else 1)


def _status(session: "Session", asked: "AskedQuestion | None", queue: str) -> str:
    """Return the line above a question; nothing in it tells of the answers that are shown."""
    parts = [f"{session.judged:,} judged", queue]
    if asked is not None and asked.again:
        parts.append(f"you said: {_SAID.get(asked.before, 'something else')}")
    if (found := session.agreement()) is not None:
        low_high = "" if found.interval is None else " [{:.0f}, {:.0f}]".format(*found.interval)
        parts.append(f"the judge agrees on {found.value:.0f} %{low_high} of {found.n:,}")
    return " · ".join(parts)


def _one_of(words: tuple[Any, ...], given: str, option: str) -> Any:
    """Return the word that was given for an option.

    Raises:
        ConfigError: It is none of them.
    """
    from prefine.config.checking import suggest

    if given not in words:
        raise ConfigError(f"{option} {given!r}: no such choice; {suggest(given, words)}")
    return given


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("--annotator: this login has no name; give one, such as anna") from error
