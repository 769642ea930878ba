"""Models that prefine serves itself, with the real `transformers serve` on this machine.

    python benchmarks/served.py                every figure
    python benchmarks/served.py parity         greedy answers, served and in this process
    python benchmarks/served.py killed         two servers, one of them killed within a stage
    python benchmarks/served.py rounds         two rounds, each served from the one before
    python benchmarks/served.py kill9          kill -9 of the command itself, and the command again

The model is the playground's, copied, so that its path in a command line marks the processes.
"""

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from line import Line
from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Call
from prefine.config.sections import Decoding
from prefine.data.playground import playground as playground_prompts
from prefine.models.hf.backend import HfModel
from prefine.models.playground import playground_folder
from prefine.models.protocol import SampleRequest, Samples, sample_key
from prefine.models.served.backend import ServedModel
from prefine.records import Completion, Prompt
from prefine.run.journal import Journal

PROMPTS, SAMPLES, PARITY_PROMPTS = 24, 4, 48
KILLED_AFTER = 20
"""Journaled answers after which something is killed."""
WITHIN_S = 30.0


class Place:
    """A folder with a model, a configuration and a run."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.model = folder / "policy"
        self.run = folder / "run"
        shutil.copytree(playground_folder(), self.model)
        self._config = folder / "run.json"
        policy = {
            "name": "served",
            "path": str(self.model),
            "engine": "transformers",
            "replicas": 2,
            "arguments": {"dtype": "float32"},
            "label": "policy",
        }
        config = {
            "run_dir": str(self.run),
            "policy": policy,
            "prompts": {"name": "playground", "count": PROMPTS},
            "sample": {"completions_per_prompt": SAMPLES, "max_new_tokens": 40},
            "rank": {"judge": {"name": "playground"}},
            "train": {"pairs_per_step": 8, "learning_rate": 1e-4},
            **sections,
        }
        self._config.write_text(json.dumps(config), encoding="utf-8")

    def start(self, command: str) -> "subprocess.Popen[bytes]":
        """Start the command in a process of its own."""
        words = [sys.executable, "-m", "prefine", command, str(self._config)]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stages(self, folder: str = ".") -> dict[str, Any]:
        """The manifests of the stages."""
        text = (self.run / folder / "manifest.json").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)["stages"]
        return found

    def journaled(self) -> int:
        """The number of journaled answers."""
        journal = self.run / "journal" / "part-00000.sqlite"
        if not journal.exists():
            return 0
        with closing(sqlite3.connect(journal)) as connection:
            try:
                return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
            except sqlite3.OperationalError:
                return 0  # the file is just being made

    def servers(self) -> list[int]:
        """The processes that serve the model, or a model of the run."""
        folder = str(self.model.parent)
        return [
            pid for pid, words in _processes() if folder in words and "transformers.cli" in words
        ]

    def keepers(self) -> list[int]:
        """The processes that keep those servers."""
        return sorted({_parent(pid) for pid in self.servers()})


def _processes() -> Iterable[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        yield int(folder.name), words


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _until(true: Callable[[], bool], within_s: float = 300.0) -> float:
    """Wait until something is true; return the seconds that it took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise TimeoutError(f"not within {within_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - began


def parity() -> list[Line]:
    """Greedy answers of the served model and of the same folder in this process."""
    folder = str(playground_folder())
    prompts = [Prompt.from_text(str(row.values["prompt"])) for row in _rows(PARITY_PROMPTS)]
    served = ServedModel(path=folder, engine="transformers", arguments={"dtype": "float32"})
    ours = _drawn(HfModel(path=folder, dtype="float32"), prompts)
    theirs = _drawn(served, prompts)
    same = sum(a.text == b.text for a, b in zip(ours, theirs, strict=True))
    tokens = sum(
        len(a.token_ids or ()) == (b.usage.completion_tokens if b.usage else None)
        for a, b in zip(ours, theirs, strict=True)
    )
    ends = sum(a.finish_reason == b.finish_reason for a, b in zip(ours, theirs, strict=True))
    said = f"{same} of {len(prompts)} texts, {tokens} token counts, {ends} ends are the same"
    return [
        Line("greedy, transformers serve beside hf", said, {same, tokens, ends} == {len(prompts)})
    ]


def _rows(count: int) -> list[Any]:
    return list(playground_prompts(count=count, split="test"))


def _drawn(model: Samples, prompts: list[Prompt]) -> list[Completion]:
    """One greedy answer to each prompt."""
    decoding = Decoding(temperature=0.0, max_new_tokens=40)
    requests = [SampleRequest(prompt, 0) for prompt in prompts]
    calls = [Call(sample_key(model.fingerprint, one, decoding), one) for one in requests]
    with tempfile.TemporaryDirectory() as folder:
        asker = CallEngine(Journal(Path(folder) / "journal.sqlite"))

        async def work() -> list[Completion]:
            found = await asker.ask(
                calls,
                Completion,
                lambda wanted: model.sample(calls, wanted, decoding),
                backend=model,
            )
            return [one for call in calls if isinstance(one := found[call.key], Completion)]

        return asker.run(work())


def killed() -> list[Line]:
    """Two servers; one gets SIGKILL within the stage."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        command = place.start("sample")
        _until(lambda: place.journaled() >= KILLED_AFTER)
        before = place.servers()
        os.kill(before[0], signal.SIGKILL)
        code = command.wait(300)
        manifest = place.stages()["sample"]
        counts, usage = manifest["counts"], manifest["usage"]
        whole = PROMPTS * SAMPLES
        left = len(place.servers()) + sum(Path(f"/proc/{pid}").exists() for pid in before)
        notes = [note for note in manifest["notes"] if "it ended" in note]
        fine = code == 0 and counts["produced"] == whole and not counts["failed"]
        return [
            Line(
                "two servers, one killed within the stage",
                f"exit {code}; {counts['produced']} of {whole} completions, "
                f"{sum(counts['failed'].values())} failed, {usage['calls']} answers",
                fine,
            ),
            Line(
                "… noted in the manifest",
                notes[0].partition(";")[0] if notes else "not at all",
                bool(notes),
            ),
            Line("… processes left", str(left), left == 0),
        ]


def rounds() -> list[Line]:
    """Two rounds; the second one serves the model of the first."""
    evaluate = {"prompts": {"name": "playground", "count": 4, "split": "test"}}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), rounds={"count": 2}, evaluate=evaluate)
        code = place.start("run").wait(900)
        names = ("round-01", "round-02")
        produced = [place.stages(name)["sample"]["counts"]["produced"] for name in names]
        note = place.stages("round-02")["sample"]["notes"][0]
        served = f"{place.run.resolve() / 'round-01' / 'model'} (the whole model) is served by 2 ×"
        left = len(place.servers())
        return [
            Line(
                "two rounds through it",
                f"exit {code}; {sum(produced)} of {PROMPTS * SAMPLES} completions",
                code == 0 and sum(produced) == PROMPTS * SAMPLES,
            ),
            Line(
                "… the second round serves",
                note.replace(str(place.run.resolve()), "RUN"),
                served in note,
            ),
            Line("… processes left", str(left), left == 0),
        ]


def kill9() -> list[Line]:
    """`kill -9` of the command within a stage, and the same command again."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        command = place.start("sample")
        _until(lambda: place.journaled() >= KILLED_AFTER)
        processes = [*place.servers(), *place.keepers()]
        command.kill()
        command.wait()
        seconds = _until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), WITHIN_S
        )
        left = sum(Path(f"/proc/{pid}").exists() for pid in processes) + len(place.servers())
        lines.append(
            Line(
                "kill -9 of the command: processes left",
                f"{left} of {len(processes)} (servers and keepers) after {seconds:.1f} s",
                left == 0,
            )
        )
        answered = place.journaled()
        code = place.start("sample").wait(300)
        manifest = place.stages()["sample"]
        whole = PROMPTS * SAMPLES
        asked = manifest["usage"]["calls"] - manifest["replayed"]
        lines.append(
            Line(
                "… the same command again",
                f"exit {code}; {manifest['counts']['produced']} of {whole} completions, "
                f"{asked} asked with {answered} journaled",
                code == 0 and asked == whole - answered,
            )
        )
        lines.append(Line("… processes left", str(len(place.servers())), not place.servers()))
    return lines


PARTS: dict[str, Callable[[], list[Line]]] = {
    "parity": parity,
    "killed": killed,
    "rounds": rounds,
    "kill9": kill9,
}


def main() -> None:
    """Print the figures; exit with 1 if one misses its goal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=PARTS)
    chosen = parser.parse_args().part
    missed = False
    for name, part in PARTS.items():
        if chosen in (None, name):
            for line in part():
                print(line, flush=True)
                missed |= line.ok is False
    sys.exit(missed)


if __name__ == "__main__":
    main()
