"""How big the program is, and how much of it one training reads.

    python benchmarks/size.py [--json]

Prints, for every package, its files, the lines of code, docstring and comment, the tokens of its
source (names, operators, numbers and strings of Python's `tokenize`; from Python 3.12 on f-strings
count differently) and the lines of its tests; then the files and tokens of prefine that are loaded
by a run from preference pairs to a LoRA adapter trained by DPO under a likelihood budget, report
included.
"""

import argparse
import ast
import io
import json
import subprocess
import sys
import tempfile
import tokenize
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "prefine"
COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
MAX_SOURCE, MAX_FILES, MAX_LOADED = 180_000, 140, 110_000
RUN = """
import atexit, json, runpy, sys
def tell():
    loaded = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    ours = {file for name, file in loaded.items() if name.split(".")[0] == "prefine" and file}
    open(sys.argv[-1] + ".loaded", "w").write(json.dumps(sorted(ours)))
atexit.register(tell)
sys.argv = ["prefine", "run", sys.argv[-1]]
runpy.run_module("prefine", run_name="__main__")
"""


def tokens(path: Path) -> int:
    """Names, operators, numbers and strings of a file."""
    with path.open("rb") as file:
        return sum(token.type in COUNTED for token in tokenize.tokenize(file.readline))


def lines(path: Path) -> tuple[int, int, int]:
    """Lines of code, docstring and comment of a file; a line that has code is a line of code."""
    text = path.read_text(encoding="utf-8")
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        covered = set(range(token.start[0], token.end[0] + 1))
        if token.type == tokenize.COMMENT:
            comments |= covered
        elif token.type in COUNTED:
            code |= covered - docstrings
    return len(code), len(docstrings), len(comments - code)


def loaded() -> list[Path]:
    """The files of prefine that a run from pairs to a LoRA adapter under a budget loads."""
    rows = [
        {"prompt": f"question {n}", "chosen": f"a good answer {n}", "rejected": f"bad {n}"}
        for n in range(8)
    ]
    with tempfile.TemporaryDirectory() as folder:
        pairs, config = Path(folder) / "pairs.jsonl", Path(folder) / "run.yaml"
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        settings = {
            "run_dir": str(Path(folder) / "run"),
            "policy": {"name": "hf", "path": str(files("prefine.playground") / "model")},
            "pairs": {"name": "file", "path": str(pairs)},
            "train": {
                "loss": {"name": "dpo", "beta": 0.1},
                "regularizer": {"name": "budget", "delta": 5.0},
                "adapter": {"name": "lora", "rank": 4, "alpha": 8},
                "max_steps": 2,
                "pairs_per_step": 2,
            },
        }
        config.write_text(json.dumps(settings), encoding="utf-8")
        subprocess.run([sys.executable, "-c", RUN, str(config)], check=True, capture_output=True)
        return [
            Path(name) for name in json.loads(Path(f"{config}.loaded").read_text(encoding="utf-8"))
        ]


def packages() -> dict[str, dict[str, int]]:
    """The counts of every package; tests stand under the folder that mirrors it."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in sorted(SOURCE.rglob("*.py")):
        row = found["/".join(path.relative_to(SOURCE).parts[:-1]) or "prefine"]
        code, docstring, comment = lines(path)
        for name, count in (
            ("files", 1),
            ("code", code),
            ("docstring", docstring),
            ("comment", comment),
        ):
            row[name] += count
        row["tokens"] += tokens(path)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        folder = "/".join(path.relative_to(ROOT / "tests").parts[:-1]) or "prefine"
        found[folder]["tests"] += len(path.read_text(encoding="utf-8").splitlines())
    return {name: dict(row) for name, row in sorted(found.items())}


def main() -> None:
    """Print the table and the two figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    table, used = packages(), loaded()
    total = sum(row.get("tokens", 0) for row in table.values())
    read = sum(tokens(path) for path in used)
    if options.json:
        print(
            json.dumps(
                {
                    "packages": table,
                    "tokens": total,
                    "loaded_files": len(used),
                    "loaded_tokens": read,
                }
            )
        )
        return
    columns = ("files", "code", "docstring", "comment", "tokens", "tests")
    print(f"{'':<30}" + "".join(f"{column:>11}" for column in columns))
    for name, row in table.items():
        print(f"{name:<30}" + "".join(f"{row.get(column, 0):>11,}" for column in columns))
    sums = (sum(row.get(column, 0) for row in table.values()) for column in columns)
    print(f"{'all':<30}" + "".join(f"{count:>11,}" for count in sums))
    for what, count, most in (
        ("tokens of source", total, MAX_SOURCE),
        ("files of prefine that a LoRA run from pairs loads", len(used), MAX_FILES),
        ("their tokens", read, MAX_LOADED),
    ):
        print(f"{'ok  ' if count <= most else 'MISS'} {what:<52} {count:,} (<= {most:,})")


if __name__ == "__main__":
    main()
