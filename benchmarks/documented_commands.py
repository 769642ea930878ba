"""Every command of README.md and of the docs, run in a fresh clone in the order of the pages.

    python benchmarks/documented_commands.py [--setup] [--page PAGE ...]

Makes a clone, puts small files and models under the names that the pages use
(`documented_stand_ins.py`), and runs the lines of every fenced `bash` block as they are written;
YAML and Python blocks that begin with a file's name are written to that file. What a line needs
and is not here (a hub, a provider, several GPUs) is replaced as `CHANGES` says, and what cannot
run is listed with the reason. Prints a line for each command: whether its exit code is the
documented one, the code, seconds, the place. `--setup` runs `make setup` in the clone, as a new
user would; without it the environment of this Python is used. Exits with 1 if a code is another.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w-]+\.(?:py|yaml))\b")
TIMEOUT_S = 900
KEY = "a-key-for-rehearsals"


class Command(NamedTuple):
    """A command of a page: a line of a shell, or a Python block."""

    page: str
    line: int
    text: str
    language: str


class WrittenFile(NamedTuple):
    """A block of a page that says which file it is."""

    name: str
    text: str


class Change(NamedTuple):
    """What happens with commands of a page: `skip` is a reason, `instead` the pattern's new text.

    `pattern` is searched in the command, `page` is a pattern of pages.
    """

    page: str
    pattern: str
    skip: str = ""
    instead: str = ""


JUDGE = "--set rank.judge.model.base_url=http://127.0.0.1:8000/v1"
SMALL = (
    "--set prompts.count=64 --set sample.completions_per_prompt=2 --set evaluate.prompts.count=8 "
    "--set train.max_steps=1"
)
CHANGES = [
    Change("*", r"^make (test|check)", skip="the suite and its checks run by themselves"),
    Change("docs/index.md", r"^prefine run my-prompts.yaml", instead=rf"\g<0> {JUDGE}"),
    Change("docs/questions.md", r"^prefine run my-prompts.yaml", instead=rf"\g<0> {JUDGE}"),
    Change("docs/recipes/server-judge.md", r"^prefine .*\.yaml", instead=rf"\g<0> {JUDGE}"),
    # The file of completions has eight prompts.
    Change(
        "docs/recipes/reward-model.md",
        r"^prefine .*\.yaml",
        instead=r"\g<0> --set pair.held_out_prompts=2",
    ),
    # Fifteen trainings of two minutes.
    Change("docs/sweeps.md", r"^prefine sweep \S+$", instead=rf"\g<0> {SMALL}"),
    Change("docs/rounds.md", r"^prefine run \S+$", instead=rf"\g<0> {SMALL}"),
    # A server ends by itself there.
    Change("docs/view.md", r"^prefine view runs$", instead="prefine view . --stop-after 1"),
    # There is no hub, the base model is a folder, and a folder is the store.
    Change(
        "docs/hub.md",
        r"^(prefine push .*?)( --dry-run)?$",
        instead=r"\1 --base-model HuggingFaceTB/SmolLM2-135M-Instruct --dry-run",
    ),
    Change("docs/hub.md", r"^prefine pull", skip="needs the hub; benchmarks/storage.py has one"),
    Change("docs/storage.md", r"s3://bucket/", instead="file://$PWD/store/"),
    Change("*", r"^PYTHONPATH=configs", instead="PYTHONPATH=configs:$PYTHONPATH"),
    # There is no GPU: two processes share the CPU.
    Change(
        "*",
        r"^accelerate launch (.*ddp.*)--num_processes 4",
        instead=r"torchrun --nproc-per-node 2",
    ),
    Change(
        "*",
        r"^accelerate launch (.*fsdp2.*)--num_processes 4",
        instead=r"accelerate launch \1--multi_gpu --num_processes 2",
    ),
    Change("*", r"^torchrun --nproc-per-node 4", instead="torchrun --nproc-per-node 2"),
]
SERVERS = {
    "docs/index.md": [8000],
    "docs/recipes/server-judge.md": [8000],
    "docs/questions.md": [8000, 8001, 8002, 8003],
}
"""Ports on which `prefine mock-server` stands in for a page's servers."""
SCRIPTS = {"docs/questions.md"}
"""Pages whose Python blocks are programs of their own; `tests/test_docs_python.py` has the rest."""


def pages() -> list[str]:
    """Return the pages with commands: README.md, then docs/ in the order of the navigation."""
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs = [f"docs/{page}" for page in listed if (ROOT / "docs" / page).is_file()]
    return ["README.md", *docs, "CONTRIBUTING.md"]


def blocks(page: str) -> Iterator[Command | WrittenFile]:
    """Yield the commands of a page and the files that it shows, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        language, content = fence.groups()
        first = text.count("\n", 0, fence.start(2)) + 1
        if named := FILE.match(content):
            yield WrittenFile(named[1], content)
        elif language == "bash":
            lines = re.sub(r"\\\n", lambda _: " \0", content).split("\n")
            number = first
            for line in lines:
                if line.strip() and not line.startswith("#"):
                    yield Command(page, number, line.replace("\0", "").strip(), language)
                number += 1 + line.count("\0")
        elif language == "python" and page in SCRIPTS:
            yield Command(page, first, content, language)


def matches(pattern: str, text: str) -> bool:
    """Return True if a command has the pattern in it."""
    return re.search(pattern, text) is not None


def applies(change: Change, command: Command) -> bool:
    """Return True if a change is for this command."""
    return fnmatch(command.page, change.page) and matches(change.pattern, command.text)


def changed(command: Command) -> tuple[str, str]:
    """Return what is run instead of a command, and the reason if it is not run."""
    text = command.text
    for change in CHANGES:
        if applies(change, command):
            if change.skip:
                return text, change.skip
            text = re.sub(change.pattern, change.instead, text)
    return text, ""


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it has started: a shell's end alone leaves `make` running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Shell:
    """Runs commands in the clone; ends the servers that they leave behind."""

    def __init__(
        self, folder: Path, environment: dict[str, str], timeout_s: float = TIMEOUT_S
    ) -> None:
        self.folder, self.environment, self.timeout_s = folder, environment, timeout_s
        self._background: list[subprocess.Popen[bytes]] = []

    def run(self, text: str, language: str = "bash") -> tuple[int, str]:
        """Run a command to its end, or start it if it ends with &; its exit code and stderr."""
        if variable := re.fullmatch(r"export (\w+)=(\S+)", text):
            self.environment[variable[1]] = KEY
            return 0, ""
        if text.endswith("&"):
            return self.start(text.removesuffix("&"))
        words = [sys.executable, "-c", text] if language == "python" else ["bash", "-c", text]
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=said,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                code = process.wait(self.timeout_s)
            finally:
                end_session(process)
            said.seek(0)
            return code, said.read()

    def start(self, text: str) -> tuple[int, str]:
        """Start a server, and wait until its port answers."""
        port = int(found[1]) if (found := re.search(r"--port (\d+)", text)) else 8000
        self._background.append(
            subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        for _ in range(600):
            if (code := self._background[-1].poll()) is not None:
                return code, f"the server on port {port} has ended"
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    return 0, ""
            time.sleep(0.1)
        return 1, f"nothing listens on port {port}"

    def end(self) -> None:
        """End all servers."""
        for process in self._background:
            process.send_signal(signal.SIGINT)
        for process in self._background:
            process.wait()
        self._background.clear()


def run_page(page: str, shell: Shell) -> Iterator[str | None]:
    """Run all of a page and print a line for each command; yield the mark of each."""
    for port in SERVERS.get(page, ()):
        code, said = shell.start(f"prefine mock-server --port {port}")
        assert code == 0, said
    for block in blocks(page):
        if isinstance(block, WrittenFile):
            (shell.folder / block.name).write_text(block.text, encoding="utf-8")
            continue
        text, skip = changed(block)
        place = f"{page}:{block.line}"
        shown = block.text.partition("\n")[0] if block.language == "bash" else "(a Python block)"
        if skip:
            print(f"skip  {'':14}  {place:32} {shown}\n{'':55}not run: {skip}", flush=True)
            yield "skip"
            continue
        began = time.monotonic()
        try:
            code, said = shell.run(text, block.language)
        except subprocess.TimeoutExpired:
            code, said = 124, f"not done after {shell.timeout_s:g} s"
        seconds = time.monotonic() - began
        mark = "ok" if code == 0 else "MISS"
        print(f"{mark:4}  exit {code} {seconds:6.1f} s  {place:32} {shown}", flush=True)
        if text != block.text:
            print(f"{'':55}as: {text}", flush=True)
        if code != 0:
            print(
                "".join(f"{'':55}{line}\n" for line in said.strip().splitlines()[-6:]), flush=True
            )
        yield mark
    shell.end()


def environment_of(clone: Path, *, setup: bool) -> dict[str, str]:
    """Return the variables for commands in a clone."""
    keep = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PREFINE_") and name != "PYTHONPATH"
    }
    found = {**keep, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "100"}
    if setup:
        subprocess.run(["make", "setup"], cwd=clone, env=found, check=True)
        return found | {"PATH": f"{clone / '.venv' / 'bin'}:{found['PATH']}"}
    # `make` sets itself up unless its stamp is there, and a new Python needs the sources.
    return found | {
        "PATH": f"{Path(sys.executable).parent}:{found['PATH']}",
        "PYTHONPATH": str(clone / "src"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pages; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--setup", action="store_true", help="run `make setup` in the clone")
    parser.add_argument("--page", action="append", help="only these, such as docs/index.md")
    options = parser.parse_args(arguments)
    marks: list[str | None] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "prefine"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        shell = Shell(clone, environment_of(clone, setup=options.setup))
        made = [sys.executable, str(ROOT / "benchmarks" / "documented_stand_ins.py"), str(clone)]
        subprocess.run(made, env=shell.environment | {"PYTHONPATH": str(ROOT / "src")}, check=True)
        try:
            for page in options.page or pages():
                marks += run_page(page, shell)
        finally:
            shell.end()
    counts = {mark: marks.count(mark) for mark in ("ok", "MISS", "skip")}
    print(
        f"\n{len(marks)} commands: {counts['ok']} with the documented exit code, {counts['MISS']} "
        f"with another, {counts['skip']} not run; {time.monotonic() - began:,.0f} s"
    )
    return 1 if counts["MISS"] else 0


if __name__ == "__main__":
    sys.exit(main())
