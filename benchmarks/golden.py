"""What must stay as it is while the code moves: record it with one commit, check it with another.

    python benchmarks/golden.py record FILE [PART...]
    python benchmarks/golden.py check FILE [PART...]

PART is one of surface, asks, keys, trl, demo, ranking, evaluation; without any, all run, in about
ten minutes on two cores. `check` prints one line for each part, with the places that differ, and
exits with 1 if any does. Numbers are compared to the last bit, so record and check on the same
machine with the same libraries.
"""

import argparse
import hashlib
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
CONFIGS = (*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "src/prefine/playground/demo.yaml")
SECONDS = re.compile(r"\d[\d.,]*(?=\s*(m?s|us|µs|ms|seconds)\b)|^\s+\w+: \d+ s$")
TIMED = re.compile(r"seconds|\bs\b|speed|per second|faster", re.IGNORECASE)


def surface() -> Any:
    """Names of components, commands with options, and the exports of the package and its rooms."""
    import typer

    import prefine
    from prefine import losses, metrics, ranking, regularizers
    from prefine.cli.app import app
    from prefine.config.components import TABLES

    return {
        "components": {kind: sorted(table) for kind, table in TABLES.items()},
        "commands": _commands(typer.main.get_command(app), "prefine"),
        "prefine": sorted(prefine.__all__),
        "losses": sorted(losses.__all__),
        "regularizers": sorted(regularizers.__all__),
        "ranking": sorted(ranking.__all__),
        "metrics": sorted(metrics.__all__),
    }


def _commands(command: Any, name: str) -> dict[str, list[str]]:
    options = sorted(
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    )
    found = {name: options}
    for inner in getattr(command, "commands", {}).values():
        found |= _commands(inner, f"{name} {inner.name}")
    return found


def asks() -> Any:
    """Every ask of every strategy on 200 simulated prompts, hashed, with the outcomes."""
    from prefine.config.components import TABLES, lookup
    from prefine.ranking.protocol import Duel

    found = {}
    for name in sorted(TABLES["strategy"]):
        strategy = lookup("strategy", name, where="golden")
        hint = get_type_hints(strategy).get("order")
        orders = get_args(hint) or (None,)
        for order in orders:
            digest, count = hashlib.sha256(), 0
            for prompt in range(200):
                rng = random.Random(prompt)
                m = 2 + prompt % 11
                quality = [rng.gauss(0, 1) for _ in range(m)]
                running = strategy(m) if order is None else strategy(m, order=order)
                try:
                    round_ = next(running)
                    while True:
                        answers = []
                        for ask in round_:
                            digest.update(repr(tuple(ask)).encode())
                            count += 1
                            if rng.random() < 0.02:
                                answers.append(None)
                            elif type(ask) is Duel:
                                gap = quality[ask[0]] - quality[ask[1]] + rng.gauss(0.3, 0.7)
                                answers.append(round(1 / (1 + 2.718281828 ** (-2 * gap)), 3))
                            else:
                                answers.append(round(quality[ask[0]] + rng.gauss(0, 0.5), 1))
                        digest.update(repr(answers).encode())
                        round_ = running.send(answers)
                except StopIteration as end:
                    outcome = end.value
                    digest.update(repr((outcome.champion, outcome.worst, outcome.order)).encode())
            found[name if order is None else f"{name} {order}"] = [count, digest.hexdigest()]
    return found


def keys() -> Any:
    """Hashes of the committed configurations: of each stage, the training, judges and calls."""
    from prefine.config.named import components
    from prefine.config.yaml import load
    from prefine.errors import BackendError
    from prefine.judging.choose import make_judge
    from prefine.judging.protocol import Matchup, judgment_key
    from prefine.models.protocol import SampleRequest, sample_key
    from prefine.records import Completion, Message, Prompt, content_hash
    from prefine.run.config_changes import STAGE_SECTIONS, fingerprinted
    from prefine.stages.shards import sampler_of

    sys.path.append(str(ROOT / "configs"))
    os.environ.setdefault("JUDGE_API_KEY", "golden")
    prompt = Prompt.from_text("Tell me a story.")
    answers = [
        Completion(
            id=f"c{n}",
            prompt_id=prompt.id,
            sample_index=n,
            message=Message(role="assistant", content=f"s{n}"),
        )
        for n in range(2)
    ]
    found: dict[str, Any] = {}
    for path in CONFIGS:
        config = load(path)
        resolved = config.resolved()
        of_stages = {
            stage: fingerprinted({name: resolved[name] for name in sections})
            for stage, sections in STAGE_SECTIONS.items()
        }
        entry: dict[str, Any] = {
            stage: content_hash(settings) for stage, settings in of_stages.items()
        }
        entry["training"] = content_hash("train", of_stages["train"]["train"], {"pairs": "x"})
        for where, kind, component in components(config):
            if kind != "judge":
                continue
            try:
                fingerprint = make_judge(component, where=where).fingerprint
            except BackendError:  # a reward model of the hub, which is not on this machine
                continue
            entry[where] = [fingerprint, judgment_key(fingerprint, Matchup(prompt, *answers))]
        if config.sample is not None:
            try:
                fingerprint = sampler_of(config).fingerprint
            except BackendError:  # a model of the hub
                continue
            entry["sample call"] = [
                fingerprint,
                sample_key(fingerprint, SampleRequest(prompt, 3), config.sample),
            ]
        found[path.name] = entry
    return found


def trl() -> Any:
    """The first ten losses, margins and gradient norms on rows as TRL's are, by several losses."""
    words = re.findall(
        r"\w+",
        "the kettle is bright and warm today while a small cup of tea stands near some books",
    )
    rows = [
        {
            "prompt": f"question {n} about {words[n % 17]}",
            "chosen": " ".join(words[n % 5 : n % 5 + 2 + n % 7]),
            "rejected": " ".join(words[(n + 3) % 9 : (n + 3) % 9 + 1 + n % 4]) + f" {n}",
        }
        for n in range(12)
    ]
    found = {}
    for loss in (
        "dpo",
        "ipo",
        "simpo",
        "cpo",
        "orpo",
        "kto_pair",
        "bco",
        "aot",
        "beta_dpo",
        "f_dpo_alpha",
    ):
        with tempfile.TemporaryDirectory() as folder:
            pairs, run = Path(folder) / "pairs.jsonl", Path(folder) / "run"
            pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            config = {
                "run_dir": str(run),
                "policy": {"name": "playground"},
                "pairs": {"name": "file", "path": str(pairs)},
                "train": {
                    "loss": {"name": loss},
                    "max_steps": 10,
                    "epochs": 10,
                    "pairs_per_step": 4,
                },
            }
            (Path(folder) / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
            _prefine("run", str(Path(folder) / "run.yaml"))
            found[loss] = [
                json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()
            ]
    return found


def demo() -> Any:
    """Everything that the demo leaves: log, journal, tables with their keys, weights, output."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        printed = json.loads(_prefine("demo", "--run-dir", str(run), "--json"))
        return {
            "log": [
                json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()
            ],
            "json": _without_time(printed, folder),
            "journal": _journal(run),
            "tables": {str(p.relative_to(run)): _table(p) for p in sorted(run.rglob("*.parquet"))},
            "files": sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()),
            "model": {
                str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest()
                for p in sorted(run.rglob("*.safetensors"))
            },
        }


def _journal(run: Path) -> list[Any]:
    found = []
    for path in sorted(run.rglob("*.sqlite")):
        with sqlite3.connect(path) as database:
            rows = database.execute("SELECT key, answer FROM answers ORDER BY key").fetchall()
        found.append([path.name, len(rows), hashlib.sha256(repr(rows).encode()).hexdigest()])
    return found


def _table(path: Path) -> list[Any]:
    table = pq.read_table(path)
    metadata = {
        k.decode(): v.decode()
        for k, v in (table.schema.metadata or {}).items()
        if k != b"ARROW:schema"
    }
    return [
        table.column_names,
        metadata,
        hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest(),
    ]


def _without_time(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {
            k: _without_time(v, folder)
            for k, v in value.items()
            if k not in ("seconds", "wall_time_s")
        }
    if isinstance(value, list):
        return [_without_time(item, folder) for item in value]
    return value.replace(folder, "") if isinstance(value, str) else value


def ranking() -> Any:
    """What `benchmarks/ranking.py table` prints, seconds aside."""
    return _printed("ranking.py", "table")


def evaluation() -> Any:
    """What `benchmarks/evaluation.py` prints, seconds aside."""
    return _printed("evaluation.py")


def _printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    return [line for line in out.splitlines() if not TIMED.search(line)]


def _prefine(*arguments: str) -> str:
    """The command of this checkout, under one path for all: a model's folder names its base's."""
    place = Path(tempfile.gettempdir()) / "prefine-golden"
    place.unlink(missing_ok=True)
    place.symlink_to(ROOT / "src")
    environment = os.environ | {"PYTHONPATH": str(place)}
    command = [sys.executable, "-m", "prefine", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return done.stdout


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """The places at which two recordings differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in sorted({*before, *after})
            for line in differences(
                before.get(key, "(none)"), after.get(key, "(none)"), f"{place}.{key}".strip(".")
            )
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for n, (a, b) in pairs for line in differences(a, b, f"{place}[{n}]")]
    return [] if before == after else [f"{place}: {_short(before)} -> {_short(after)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


PARTS: dict[str, Callable[[], Any]] = {
    part.__name__: part for part in (surface, asks, keys, trl, demo, ranking, evaluation)
}


def main() -> None:
    """Record, or check against a recording."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}")
    options = parser.parse_args()
    known = json.loads(options.file.read_text(encoding="utf-8")) if options.file.exists() else {}
    failed = False
    for part in options.parts or PARTS:
        now = json.loads(json.dumps(PARTS[part]()))
        if options.what == "record":
            known[part] = now
            options.file.write_text(
                json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8"
            )
            print(f"recorded {part}", flush=True)
            continue
        found = differences(known[part], now)
        failed |= bool(found)
        print(
            f"{'MISS' if found else 'ok  '} {part}" + (f": {len(found)} differ" if found else ""),
            flush=True,
        )
        for line in found[:20]:
            print(f"       {line}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
