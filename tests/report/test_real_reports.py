"""Reports of three real runs: each change from before to after has its interval, and each count is
what the tables of the run folder have, counted here without any code of the report.
"""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from command import prefine
from run_place import OK, PAIRS, Place

REPOSITORY = Path(__file__).parents[2]
SMALL = {
    "prompts.count": 16,
    "sample.completions_per_prompt": 3,
    "sample.max_new_tokens": 32,
    "pair.held_out_prompts": 5,
    "train.pairs_per_step": 8,
    "train.epochs": 1,
    "train.train_on_truncated": True,
    "evaluate.prompts.count": 10,
    "evaluate.bootstrap_samples": 200,
}
REAL = {
    "train.max_steps": 2,
    "train.pairs_per_step": 4,
    "train.max_prompt_tokens": 24,
    "train.max_completion_tokens": 24,
    "pair.held_out_prompts": 5,
    "evaluate.bootstrap_samples": 200,
}
INTERVAL = r"−?[\d,.]+(?:–| to )−?[\d,.]+"  # without the marks against breaks
NO_INTERVAL = r"no interval(?: was computed)?"


class Element(HTMLParser):
    """The texts of a page's elements: each with its tag, its classes and the words inside it."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, set[str], str]] = []
        self._open: list[tuple[str, set[str], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input"):
            self._open.append((tag, set((dict(attrs).get("class") or "").split()), []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            name, classes, parts = self._open.pop()
            text = " ".join(parts).replace("\u2060", "")
            self.found.append((name, classes, " ".join(text.split())))
            if name == tag:
                return

    def handle_data(self, data: str) -> None:
        for _, _, parts in self._open:
            parts.append(data)

    def texts(self, tag: str, kind: str | None = None) -> list[str]:
        return [
            text for name, classes, text in self.found if name == tag and kind in (None, *classes)
        ]


def settings(values: dict[str, Any]) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def ran(*arguments: str) -> str:
    """The terminal's words of a run that ended well, in the folder `run`."""
    found = prefine("run", *arguments, "--run-dir", "run")
    assert found.code == OK, found.err
    return found.out


@pytest.fixture
def demo_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    config = REPOSITORY / "src" / "prefine" / "playground" / "demo.yaml"
    return ran(str(config), *settings(SMALL))


@pytest.fixture
def real(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    with (real_data / "alpaca_eval_pool" / "pool.jsonl").open("rb") as lines:
        Path("pool.jsonl").write_bytes(b"".join(next(lines) for _ in range(16)))
    return ran(str(REPOSITORY / "configs" / "real.yaml"), *settings(REAL))


@pytest.fixture
def unevaluated(place: Place) -> str:
    place.change(PAIRS)
    return ran("run.yaml")


@pytest.fixture(params=["demo_like", "real", "unevaluated"])
def said(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


def test_every_change_has_an_interval_and_every_count_is_that_of_the_tables(said: str) -> None:
    page = Element(Path("run/report.html").read_text(encoding="utf-8"))
    check_changes(page)
    check_terminal(said)
    check_stages(page)
    check_outcomes(page)


# --- before and after


def check_changes(page: Element) -> None:
    """Each statement about before and after, wherever it may stand."""
    trained = len(rows("run/pairs")) > 0
    sentences = [
        sentence
        for tag, kind in (("p", None), ("li", None), ("dd", "note"))
        for text in page.texts(tag, kind)
        for sentence in re.split(r"(?<=[a-z)%])\. (?=[A-Z])", text)
    ]
    about_change = re.compile(
        r"changed by|win rate is|fell by|margin after|nats at the end|held-out fall|"
        r"before training|after training .*%|says \d"
    )
    changes = [one for one in sentences if about_change.search(one) and "kept" not in one[-40:]]
    assert changes or not trained
    bounds = rf"\s\((?:95 % interval |interval )?{INTERVAL}|\s\({NO_INTERVAL}"
    claim = re.compile(r"(?:changed by|ones by|fell by|margin .* is|says) [+−]?[\d,.]+ (?:nats|%)")
    for sentence in changes:
        assert re.search(rf"{bounds}|interval {INTERVAL}", sentence), sentence
        for found in claim.finditer(sentence):
            assert re.match(bounds, sentence[found.end() :]), sentence
    for cell in page.texts("td", "delta"):
        assert re.search(rf"{INTERVAL}.*; (better|worse|more|less|undecided)", cell) or re.search(
            NO_INTERVAL, cell
        ), cell
    arrows = [row for row in page.texts("tr") if "→" in row and not row.startswith("Constraint")]
    assert len(arrows) <= len(page.texts("td", "delta"))
    for text in page.texts("td", "words"):
        if "win rate" in text:
            assert re.search(INTERVAL, text), text
    # Intervals have a width.
    for low, high in re.findall(r"(−?[\d.]+)(?:–| to )(−?[\d.]+)", " ".join(changes)):
        assert low != high, changes


def check_terminal(said: str) -> None:
    changes = [
        line
        for line in said.splitlines()
        if " → " in line and not re.match(r"\w+ +[\d,]+ +→", line)
    ]
    for line in changes:
        assert re.search(r"\[-?[\d.]+, -?[\d.]+\]  (better|worse|more|less|undecided)$", line) or (
            line.endswith("no interval")
        ), line
    for line in said.splitlines():
        if "win rate by" in line:
            assert re.search(r"\[[\d.]+, [\d.]+\]  n=\d+$", line), line
        if "change of chosen answers" in line:
            assert " ± " in line, line


# --- counts


def rows(folder: str) -> list[dict[str, Any]]:
    """The rows of a table of the run, read by pyarrow alone."""
    parts = sorted(Path(folder).glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def lines(file: str) -> list[dict[str, Any]]:
    path = Path(file)
    return (
        [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        if path.is_file()
        else []
    )


def number(text: str) -> int:
    return int(text.replace(",", ""))


def check_stages(page: Element) -> None:
    """What each station of the pipeline took and made, and what became of the rest."""
    stations = {
        re.match(r"\w+", text)[0]: text  # type: ignore[index]
        for text in page.texts("li", "station")
    }
    flows = {
        name: tuple(number(n) for n in re.match(r"\w+ ([\d,]+) .*? ↓ ([\d,]+) ", text).groups())  # type: ignore[union-attr]
        for name, text in stations.items()
    }
    pairs, held_out = rows("run/pairs"), rows("run/heldout_pairs")
    assert flows["pair"][1] == len(pairs) > 0
    dropped = sum(number(n) for n in re.findall(r"([\d,]+) dropped:", stations["pair"]))
    assert flows["pair"][0] == len(pairs) + dropped
    assert not held_out or f"{len(held_out):,} dropped: held out" in stations["pair"]
    trained = number(re.search(r"↓ ([\d,]+) pairs trained on", stations["train"])[1])  # type: ignore[index]
    dropped = sum(number(n) for n in re.findall(r"([\d,]+) dropped:", stations["train"]))
    assert flows["train"] == (len(pairs), trained) and trained == len(pairs) - dropped
    if "sample" in stations:
        completions, rankings = rows("run/completions"), rows("run/rankings")
        prompts = {row["prompt_id"] for row in completions}
        imported = "imported" in stations["sample"]
        assert flows["sample"] == (len(completions if imported else prompts), len(completions))
        assert not imported or f"of {len(prompts):,} prompts" in stations["sample"]
        assert flows["rank"] == (len(prompts), len(rankings))
        judged = rows("run/judgments")
        calls = number(re.search(r"(?:calls|look-ups) ([\d,]+)", stations["rank"])[1])  # type: ignore[index]
        assert calls == len(judged)
    steps = lines("run/train_log.jsonl")
    assert re.search(rf"After {len(steps):,} steps? the log-prob", " ".join(page.texts("p")))


def check_outcomes(page: Element) -> None:
    """Contests and constraints, counted from the answers and their scores."""
    outcomes = lines("run/evaluation/outcomes.jsonl")
    contests = [text for text in page.texts("tr") if re.search(r"\d+ won, ", text)]
    assert bool(contests) == bool(outcomes)
    if not outcomes:
        assert "Win rates" not in " ".join(page.texts("h2"))
        leads = "picks the preferred answer" in " ".join(page.texts("p", "claim"))
        measured = Path("run/metrics.json")
        assert leads == (measured.is_file() and "reward_accuracy" in measured.read_text())
        return
    gains = [mean(row["gold_after"]) - mean(row["gold_before"]) for row in outcomes]
    chances = [row["p_after"] - 0.5 for row in outcomes if row["p_after"] is not None]
    for role, differences in (("gold", gains), ("judge", chances)):
        (text,) = (one for one in contests if re.search(rf"\b{role} \d", one))
        signs = Counter((one > 1e-9) - (one < -1e-9) for one in differences)
        counts = re.search(r"([\d,]+) won, ([\d,]+) tied, ([\d,]+) lost", text)
        assert counts is not None
        assert [number(n) for n in counts.groups()] == [signs[1], signs[0], signs[-1]], text
        assert f"n = {len(differences)};" in text
    has = Counter(name for row in outcomes for name in row["gold_after"])
    for name, count in has.items():
        (text,) = (one for one in page.texts("tr") if one.startswith(f"{name} ") and "→" in one)
        assert f"n = {count}" in text
    examples = [text for text in page.texts("article", "example")]
    assert 0 < len(examples) <= len(outcomes)


def mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)
