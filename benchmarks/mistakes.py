"""What people do wrong in their first hour, done through the real command and real Python calls.

    python benchmarks/mistakes.py [--show] [--only WORDS]

Every row of `mistakes_table.py` runs in a folder of its own, where a small configuration, its data
and its model work, through the command's own entry point; all in one process, because loading the
libraries anew for each takes longer than the mistakes. Prints `ok` or MISS, and what is demanded:
the documented exit code, no traceback, and a message that names the place and a remedy.
`--show` prints the messages. Exits with 1 if there is a MISS.
"""

import argparse
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from command import Result, prefine
from mistakes_table import CALLS, COMMANDS, Call, Mistake
from run_place import Place
from tiny_model import save_tiny_model


class Outcome(NamedTuple):
    """What a mistake gave: the message, and what is missing of what was promised."""

    message: str
    missing: tuple[str, ...]


def run(command: str) -> Result:
    """Run the command's own entry point to its end."""
    return prefine(*shlex.split(command))


def lacks(message: str, mistake: Mistake | Call) -> list[str]:
    """Name what a message does not say; it may be broken into lines by a box."""
    words = " ".join(message.replace("│", " ").split())
    wanted = {"place": mistake.place, "remedy": mistake.remedy}
    missing = [f"{what} {text!r}" for what, text in wanted.items() if text not in words]
    return missing + ["no traceback"] * ("Traceback" in message)


def command_outcome(mistake: Mistake, place: Place) -> Outcome:
    """Make one mistake at the command line."""
    place.change(dict(mistake.changes))
    for name, text in mistake.files.items():
        place.put(name, text)
    if mistake.before:
        before = run(mistake.before)
        assert before.code == 0, f"{mistake.what}: {before.err}"
    result = run(mistake.command)
    missing = lacks(result.err, mistake)
    if result.code != mistake.code:
        missing.insert(0, f"exit {mistake.code}, not {result.code}")
    return Outcome(result.err, tuple(missing))


def call_outcome(call: Call) -> Outcome:
    """Make one mistake in Python, in this process."""
    import pandas

    import prefine as package

    rows = [{"prompt": f"q {n}", "chosen": "good", "rejected": "bad"} for n in range(4)]
    names = {"prefine": package, "pandas": pandas, "pairs": rows}
    try:
        exec(call.code, names)
    except Exception as error:  # noqa: BLE001 - any error is the finding
        message = f"{type(error).__name__}: {error}"
        missing = lacks(message, call)
        if type(error).__name__ != call.error:
            missing.insert(0, call.error)
            message += "".join(traceback.format_tb(error.__traceback__)[-2:])
        return Outcome(message, tuple(missing))
    return Outcome("", (call.error,))


def outcome(mistake: Mistake | Call, folder: Path, model: Path) -> Outcome:
    """Make one mistake in a new folder in which everything else works."""
    folder.mkdir()
    os.chdir(folder)
    place = Place(folder, model)
    return (
        command_outcome(mistake, place) if isinstance(mistake, Mistake) else call_outcome(mistake)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Make all mistakes; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--show", action="store_true", help="print the messages")
    parser.add_argument("--only", default="", help="those whose description has these words")
    options = parser.parse_args(arguments)
    mistakes = [one for one in (*COMMANDS, *CALLS) if options.only in one.what]
    good = 0
    with tempfile.TemporaryDirectory() as name:
        model = save_tiny_model(Path(name) / "model")
        for number, mistake in enumerate(mistakes):
            found = outcome(mistake, Path(name) / f"{number:02}", model)
            good += not found.missing
            asked = f"prefine {mistake.command}" if isinstance(mistake, Mistake) else mistake.code
            print(f"{'MISS' if found.missing else 'ok  '} {mistake.what:<46} {asked}", flush=True)
            ends = f"exit {mistake.code}" if isinstance(mistake, Mistake) else mistake.error
            print(f"     {ends}: {mistake.place} … {mistake.remedy}")
            if found.missing:
                print(f"     missing: {', '.join(found.missing)}")
            if found.missing or options.show:
                print("".join(f"     | {line}\n" for line in found.message.strip().splitlines()))
        os.chdir("/")
    print(f"\n{len(mistakes)} mistakes: {good} with a code, a place and a remedy as promised")
    return 0 if good == len(mistakes) else 1


if __name__ == "__main__":
    sys.exit(main())
