"""The local web app on a large run: how long pages take, and how much memory the server has.

    python benchmarks/view.py make FOLDER     a run of 100,000 prompts with 8 answers each
    python benchmarks/view.py scale FOLDER    the real server on it, page by page

`scale` starts `prefine view` as a process, asks as a browser would, prints a row for each figure,
and appends them to benchmarks/results/view.txt.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from line import Line
from view_run import NOWHERE, RARE, Size, make

RESULTS = Path(__file__).parent / "results" / "view.txt"
PAGE_S, NOWHERE_S, MEMORY_MIB = 0.5, 3.0, 1024
_LINK = re.compile(r'href="(/run/[^"]+/prompt/[^"]+)" data-row')
_NEXT = re.compile(r'rel="next" href="([^"]+)"')


class Browser:
    """A client that keeps the cookie, as a browser does.

    Args:
        url: The link that the server has printed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        answer, _ = self._ask(f"{parts.path}?{parts.query}", {})
        self._cookie = answer["set-cookie"].split(";")[0]

    def get(self, path: str) -> tuple[str, float]:
        """The page at a path, and the seconds until it was there."""
        began = time.monotonic()
        _, text = self._ask(path.replace("&amp;", "&"), {"cookie": self._cookie})
        return text, time.monotonic() - began

    def _ask(self, path: str, headers: dict[str, str]) -> tuple[dict[str, str], str]:
        connection = HTTPConnection(self._host, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status not in (200, 303):
            raise SystemExit(f"{path}: status {answer.status}\n{text[:2000]}")
        return {name.lower(): value for name, value in answer.getheaders()}, text


def scale(folder: Path) -> list[Line]:
    """Start the server on a run, and measure it."""
    command = [sys.executable, "-m", "prefine", "view", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        browser = Browser(server.stdout.readline().strip())
        lines = list(_measured(browser))
        status = Path(f"/proc/{server.pid}/status").read_text()
    finally:
        server.terminate()
        server.wait(20)
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    lines.append(Line("memory of the server, peak", f"{peak:,.0f} MiB", peak <= MEMORY_MIB))
    return lines


def _measured(browser: Browser) -> list[Line]:
    text, _ = browser.get("/")
    found = re.search(r'href="(/run/\w+)/prompts"', text)
    assert found is not None
    base = f"{found.group(1)}/prompts"
    lines = []

    def row(what: str, take: Callable[[], float], most: float, note: str = "") -> None:
        seconds = take()
        lines.append(Line(what, f"{seconds:.3f} s{note}", seconds <= most))

    def first(query: str) -> Callable[[], float]:
        return lambda: browser.get(base + query)[1]

    began = time.monotonic()
    row("first page, the server just started", first(""), PAGE_S)
    while 'class="fine reading"' in browser.get(base)[0]:
        time.sleep(0.1)
    lines.append(
        Line("all facts of all prompts are read after", f"{time.monotonic() - began:.1f} s")
    )
    (total,) = re.findall(r'class="count" role="status">([\d,]+)', browser.get(base)[0])
    lines.append(Line("prompts, in all", total))
    row("first page again", first(""), PAGE_S)
    row("page 1,000", first("?page=1000"), PAGE_S)
    row(
        "filter: orders disagree, cut off, one source",
        first("?disagree=orders&truncated=1&source=code"),
        PAGE_S,
    )
    row("filter: won against the baseline", first("?outcome=won"), PAGE_S)
    row("sorted by score gap", first("?sort=gap"), PAGE_S)
    row("sorted by score gap, of long chosen answers", first("?sort=gap&shortest=1.1"), PAGE_S)
    row("search: first hits of a frequent word", first("?q=baba"), PAGE_S)
    row("search: first hits of a word of 100 prompts", first(f"?q={RARE}"), PAGE_S)
    row("search: a word that occurs nowhere", first(f"?q={NOWHERE}"), NOWHERE_S)
    row("search in the judge's words", first("?q=first+says&scope=judge"), NOWHERE_S)
    text, _ = browser.get(base + "?sort=gap")
    here, times = _LINK.findall(text)[0], []
    for _ in range(12):
        text, seconds = browser.get(here)
        times.append(seconds)
        here = _NEXT.findall(text)[0]
    lines.append(
        Line(
            "one prompt, then the next: median of 12",
            f"{median(times):.3f} s",
            median(times) <= PAGE_S,
        )
    )
    lines.append(
        Line(
            "one prompt, then the next: slowest of 12", f"{max(times):.3f} s", max(times) <= PAGE_S
        )
    )
    row("page of the run", lambda: browser.get(found.group(1))[1], PAGE_S)
    return lines


def main() -> None:
    """Run a subcommand."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    for name, value in Size()._asdict().items():
        making.add_argument(f"--{name}", type=int, default=value)
    scaling = commands.add_parser("scale")
    scaling.add_argument("folder", type=Path)
    given = vars(parser.parse_args())
    command, folder = given.pop("command"), given.pop("folder")
    if command == "make":
        began = time.monotonic()
        make(folder, Size(**given))
        print(f"{folder}: made in {time.monotonic() - began:.0f} s")
        return
    lines = scale(folder)
    for line in lines:
        print(line)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(f"# scale, {datetime.now(UTC):%Y-%m-%d %H:%M}, two CPU cores\n")
        file.writelines(f"{line}\n" for line in lines)
    sys.exit(any(line.ok is False for line in lines))


if __name__ == "__main__":
    main()
