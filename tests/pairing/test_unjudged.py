"""What no judge could judge is neither chosen nor rejected, whoever ranked and whoever selects."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pair_worlds import PROMPT, completion, ranked

from prefine.config.base import Component
from prefine.config.components import TABLES, lookup
from prefine.config.sections import PairConfig
from prefine.config.yaml import validate
from prefine.pairing.protocol import selector_facts
from prefine.pairing.select import select_pairs
from prefine.pairing.selectors.best_vs import best_vs_random
from prefine.pairing.view import unjudged
from prefine.ranking.protocol import facts_of
from prefine.records import Completion, DuelRecord, Prompt, Ranking
from prefine.run.folder import RunFolder
from prefine.run.item_rows import TableRow, label_of, list_of, pair_of
from prefine.run.rows import ranking_of
from prefine.run.tables import parts, read_part
from prefine.stages.pipeline import run_stage
from prefine.stages.stage_run import Silent

STRATEGIES = sorted(set(TABLES["strategy"]))
GIVES_UP = {"against_baseline", "circulant", "insertion", "merge", "swiss"}
PROMPTS = 12
UNKNOWN = "answer that nobody can judge"
COMPLETIONS: dict[str, Callable[[TableRow], tuple[Completion, ...]]] = {
    "pairs": lambda row: (pair_of(row).chosen, pair_of(row).rejected),
    "lists": lambda row: list_of(row).completions,
    "labels": lambda row: (label_of(row).completion,),
}


def judge(prompt: Prompt, found: Completion) -> float | None:
    """The number at the end of the text; one answer of one prompt has none."""
    return None if found.text == UNKNOWN else float(found.text.split()[-1])


def _selectors(strategy: str) -> list[str]:
    guarantees = facts_of(lookup("strategy", strategy, where="test")).guarantees
    return [
        name
        for name in TABLES["selector"]
        if selector_facts(lookup("selector", name, where="test")).fits(guarantees)
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_with_every_selector(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    rows = [
        {"prompt": f"question {n}", "completions": [f"answer {n} {m}" for m in (2, 5, 1, 4)]}
        for n in range(PROMPTS)
    ]
    rows[3]["completions"][1] = UNKNOWN  # type: ignore[index]
    source = tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "run_dir": str(tmp_path / "run"),
        "policy": {"name": "playground"},
        "completions": {"name": "file", "path": str(source)},
        "rank": {
            "judge": {"name": "test_unjudged:judge"},
            "strategy": {"name": strategy},
            "max_failed_fraction": 0.5,
        },
        "pair": {"selector": {"name": "best_vs_random"}},
    }
    with RunFolder(tmp_path / "run") as folder:
        config = validate(values, where="test")
        folder.adopt_config(config.resolved())
        for stage in ("sample", "rank"):
            run_stage(stage, config, folder, Silent())
    failed = [
        one
        for part in parts(tmp_path / "run/rankings")
        for one in map(ranking_of, read_part(part))
        if one.failed_calls
    ]
    # Where nothing was found, the stage leaves the prompt out. In a knockout, the rival of the one
    # that cannot be judged may have met nobody else.
    assert len(failed) == (strategy not in GIVES_UP)
    without_verdict = sum(len(unjudged(one)) for one in failed)
    assert without_verdict in ((1, 2) if strategy == "knockout" else (len(failed),))
    for selector in _selectors(strategy):
        kind = {"lists": "lists", "labelled": "labels"}.get(selector, "pairs")
        chosen = {"selector": {"name": selector}}
        chosen |= {"pairs_per_prompt": 9} if kind == "pairs" else {}
        config = validate(values | {"pair": chosen}, where="test")
        with RunFolder(tmp_path / "run") as folder:
            manifest = run_stage("pair", config, folder, Silent())
        texts = [
            one.text
            for part in parts(tmp_path / "run" / kind)
            for row in read_part(part)
            for one in COMPLETIONS[kind](row)
        ]
        assert texts and UNKNOWN not in texts, selector
        note = f"{without_verdict} completions left out: no judge could judge them"
        assert any(one.startswith(note) for one in manifest.notes) == bool(failed), selector


def duelled(*duels: tuple[str, str, float | None], **fields: object) -> Ranking:
    records = tuple(DuelRecord(first=a, second=b, p_first=p) for a, b, p in duels)
    failed = sum(duel.p_first is None for duel in records)
    return ranked((3.0, 2.0, 1.0), scores=None, duels=records, failed_calls=failed, **fields)


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        (lambda: duelled(("a", "b", 0.9), ("c", "a", None)), {"c"}),
        (lambda: duelled(("a", "b", 0.9), ("c", "a", 0.5)), set()),
        # A challenger that won one order, and whose other order failed, has neither won nor lost.
        (lambda: duelled(("a", "b", 0.9), ("c", "a", 0.8), ("a", "c", None)), {"c"}),
        (lambda: duelled(("a", "b", 0.9), ("c", "a", 0.2), ("a", "c", None)), set()),
        # The champion stays where one order of the two is not the challenger's.
        (lambda: duelled(("a", "b", 0.9), ("b", "a", None), ("a", "c", 1.0)), set()),
        # Somebody else's verdict is enough.
        (lambda: duelled(("a", "b", 0.9), ("c", "a", None), ("b", "c", 0.9)), set()),
        (lambda: duelled(("a", "b", 0.9), rated=("c",)), set()),
        (lambda: duelled(("a", "b", 0.9), rated=()), {"c"}),
        # A ranking of an earlier version does not say what was rated.
        (lambda: duelled(("a", "b", 0.9)), set()),
        (lambda: duelled(), set()),
        (lambda: ranked((3.0, 2.0, 1.0), duels=()), set()),
    ],
)
def test_a_verdict_is_a_rating_or_a_duel_that_was_decided(
    ranking: Callable[[], Ranking], expected: set[str]
) -> None:
    found = ranking()
    assert unjudged(found) == expected
    completions = {id_: completion(id_, id_ * 3) for id_ in "abc"}
    selected = select_pairs(
        PROMPT,
        completions,
        found,
        lambda view: best_vs_random(view, seed=0),
        PairConfig(selector=Component(name="best_vs_random")),
        limit=None,
    )
    assert {pair.rejected.id for pair in selected.pairs} == {"b", "c"} - expected
