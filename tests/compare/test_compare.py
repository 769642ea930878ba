"""`prefine compare`: planted differences, refusals, hostile texts, the terminal and JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from browser import chromium, visit
from command import prefine
from compared_runs import HOSTILE, Make, answered, twenty, write_run
from prefine.compare.results import comparison
from prefine.compare.runs import read_runs
from prefine.compare.text import as_text
from run_place import CONFIG, DATA, OK, Place, jsonl

LENGTHS = """
def longest(prompt, completion) -> float:
    return float(len(completion.text))

def letters(prompt, text) -> dict[str, float]:
    return {"letters": float(len(set(text)))}
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A function that writes a run folder from its outcomes and settings."""
    monkeypatch.chdir(tmp_path)
    return write_run


def files(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_planted_differences_are_found_and_corrected(make: Make) -> None:
    paths = [make("a", twenty(0)), make("b", twenty(16, 4)), make("c", twenty(1))]
    found = comparison(read_runs(paths))
    scores = {one.name: one for one in found.scores}
    assert list(scores) == ["gold_win_rate", "gold_score", "answer_length"]
    assert [one.value for one in scores["gold_win_rate"].values] == [50, 80, 52.5]
    b, c = scores["gold_win_rate"].differences
    # 16 times .5 more and 4 times .5 less, of 20.
    assert b.difference.value == pytest.approx(30)
    assert (b.above, b.below, b.same) == (16, 4, 0)
    # Wilson's interval of 16 of 20 is [.584, .919], here between -50 and 50 points; ours is wider,
    # by Student's quantile instead of the normal one.
    assert b.difference.interval == pytest.approx((8.4, 41.9), abs=2.5)
    # Twice the upper tail of a binomial: P(X >= 16 of 20) = .005909.
    assert b.p == pytest.approx(0.0118, abs=0.004)
    assert b.corrected == pytest.approx(2 * b.p)
    assert b.decided == "higher"
    assert c.difference.value == pytest.approx(2.5)
    assert (c.p, c.corrected, c.decided) == (1, 1, None)
    # The widest ranges first: B and the others lie .5 apart everywhere.
    assert [one.apart for one in found.furthest_apart] == [0.5] * 8


def test_the_order_of_rows_does_not_matter(make: Make) -> None:
    make("a", twenty(3))
    make("b", twenty(16, 4)[::-1])
    (score, *_) = comparison(read_runs([Path("a"), Path("b")])).scores
    assert (score.differences[0].above, score.differences[0].below) == (13, 4)


def test_prompts_that_differ_are_refused_with_what_is_common(make: Make) -> None:
    make("a", twenty(3))
    make("b", twenty(5)[:12])
    refused = prefine("compare", "a", "b", "--html", "page.html")
    assert refused.code == DATA
    assert refused.err == (
        "prefine: the runs have different evaluation prompts: A (a) has 20, B (b) has 12; all "
        "share 12; --common compares on these alone\n"
    )
    assert not Path("page.html").exists()
    found = json.loads(prefine("compare", "a", "b", "--common", "--json").out)
    assert found["prompts"] == 12
    assert found["scores"][0]["differences"][0]["above"] == 2


def test_prompts_without_a_common_one_have_no_differences(make: Make) -> None:
    make("a", twenty(3))
    make("b", [answered("other", 1.0)])
    assert "--common compares settings and curves" in prefine("compare", "a", "b").err
    found = prefine("compare", "a", "b", "--common")
    assert found.code == OK
    assert "win rate" not in found.out


def test_win_rates_over_other_baselines_and_judges_are_left_out(make: Make) -> None:
    def judged(name: str, **other: Any) -> list[dict[str, Any]]:
        return [answered(f"p{n}", 0.5, 0.75, **other) for n in range(4)]

    ranked = {"rank": {"judge": {"name": "playground", "accuracy": 0.8}}}
    make("a", judged("a"), ranked)
    make("b", judged("b", before="another"), ranked)
    make("c", judged("c"), {"rank": {"judge": {"name": "playground", "accuracy": 0.9}}})
    one = comparison(read_runs([Path("a"), Path("b")]))
    assert [score.name for score in one.scores] == ["gold_score", "answer_length"]
    assert any("baseline's answers differ" in note for note in one.notes)
    other = comparison(read_runs([Path("a"), Path("c")]))
    assert "judge_win_rate" not in {score.name for score in other.scores}
    assert any("settings of their judge" in note for note in other.notes)


def test_a_verdict_that_failed_is_missing_and_no_tie(make: Make) -> None:
    make("a", [answered(f"p{n}", None, 0.5) for n in range(6)])
    make("b", [answered(f"p{n}", None, None if n == 0 else 1.0) for n in range(6)])
    found = comparison(read_runs([Path("a"), Path("b")]))
    assert found.scores[0].name == "judge_win_rate"
    assert found.scores[0].prompts == 5
    assert found.scores[0].differences[0].difference.value == 50
    assert any("1 prompts have none in some run" in note for note in found.notes)


def test_settings_are_shown_where_they_differ(make: Make) -> None:
    train = {"loss": {"name": "dpo", "beta": 0.1}, "epochs": 2}
    make("a", twenty(1), {"train": train})
    make("b", twenty(1), {"train": train | {"loss": {"name": "dpo", "beta": 0.4}}})
    # What an older version did not write has its default, and does not differ.
    make("c", twenty(1), {"train": train | {"regularizer": None, "loss": {"name": "ipo"}}})
    found = comparison(read_runs([Path("a"), Path("b"), Path("c")]))
    assert [(row.path, row.values) for row in found.settings] == [
        ("train.loss.beta", (0.1, 0.4, None)),
        ("train.loss.name", ("dpo", "dpo", "ipo")),
    ]


def test_a_run_that_still_works_is_compared_as_far_as_it_is(make: Make) -> None:
    make("a", twenty(1), losses=[1.0, 0.5])
    make("b", [], losses=[1.0])
    found = prefine("compare", "a", "b", "--html", "page.html")
    assert found.code == OK
    assert "B has no evaluated answers (evaluate has not ended)" in " ".join(found.out.split())


def test_command_lines_that_cannot_be_carried_out(make: Make) -> None:
    make("a", twenty(1))
    make("sweep/trial-x=1", twenty(1))
    make("sweep/trial-x=2", twenty(1))
    make("all", [], {"rounds": {"count": 2}})
    make("all/round-01", twenty(1))
    before = files(Path())
    for arguments, said in (
        (["a"], "name two runs or more"),
        (["a", "./a"], "a: is named twice"),
        (["a", "nowhere"], "nowhere: there is no run here"),
        (["a", "sweep"], "sweep: holds several runs; name those to compare: sweep/trial-x=1"),
        (["a", "all"], "all: a run of rounds; name the rounds to compare: all/round-01"),
        (["a", "sweep/trial-x=1", "--html", "a/page.html"], "writes into no run"),
        (["a", "sweep/trial-x=1", "--html", "no/page.html"], "the page cannot be written"),
    ):
        found = prefine("compare", *arguments)
        assert found.code == CONFIG, arguments
        assert said in found.err.replace("\n", ""), found.err
    Path("a/evaluation/outcomes.jsonl").write_text("{damaged}\n")
    damaged = prefine("compare", "a", "sweep/trial-x=1")
    assert damaged.code == DATA
    assert "outcomes.jsonl, line 1: damaged" in damaged.err
    assert files(Path()).keys() == before.keys()


def test_the_terminal_has_eighty_columns(make: Make) -> None:
    settings = [{"train": {"loss": {"name": f"a_long_name_{n}"}}} for n in range(8)]
    names = [f"a-folder-with-a-long-name-{'x' * 60}-{n}" for n in range(8)]
    paths = [
        make(name, twenty(n, 8), one)
        for n, (name, one) in enumerate(zip(names, settings, strict=True))
    ]
    for several in (paths, paths[:2]):
        lines = as_text(comparison(read_runs(several)), columns=80).splitlines()
        assert max(map(len, lines)) <= 80
        assert any("undecided" in line for line in lines)


def test_json_has_these_keys_and_nothing_is_written(make: Make) -> None:
    make("a", twenty(2))
    make("b", twenty(5), {"train": {"epochs": 2}})
    before = files(Path())
    found = prefine("compare", "a", "b", "--json", "--prompts", "1")
    assert (found.code, files(Path())) == (OK, before)
    value = json.loads(found.out)

    def keys(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: keys(inner) for key, inner in one.items()}
        if isinstance(one, list) and one and isinstance(one[0], dict):
            return [keys(one[0])]
        return None

    metric = dict.fromkeys(["name", "value", "standard_error", "interval", "n", "unit"])
    difference = dict.fromkeys(["run", "above", "below", "same", "p", "corrected", "decided"])
    score = {"values": [metric], "differences": [difference | {"difference": metric}]}
    apart = ["prompt_id", "prompt", "baseline", "answers", "gold", "p_better", "apart"]
    run = ["letter", "path", "status", "prompts", "steps"]
    run += ["fall", "held_out_fall", "held_out_fall_se"]
    assert keys(value) == {
        "runs": [dict.fromkeys(run)],
        "settings": [dict.fromkeys(["path", "values"])],
        "evaluated": None,
        "prompts": None,
        "scores": [dict.fromkeys(["name", "prompts"]) | score],
        "furthest_apart": [dict.fromkeys(apart)],
        "notes": None,
    }


def test_hostile_texts_stay_texts(make: Make) -> None:
    hostile = {"prompt": HOSTILE, "before": HOSTILE}
    rows = [[answered(f"p{n}", gold, **hostile) for n in range(4)] for gold in (0.0, 1.0)]
    for number, row in enumerate(rows):
        row[0]["after"] = f"{HOSTILE} {number}"
    make("a", rows[0], {"report": {"title": HOSTILE}}, losses=[1.0, 0.5, 0.2])
    make("<b>&", rows[1], losses=[1.0, 0.7, 0.6, 0.5])
    found = prefine("compare", "a", "<b>&", "--html", "page.html")
    assert found.code == OK
    assert "\x1b" not in found.out
    assert "\u202e" not in found.out
    with chromium() as context:
        for scheme in ("light", "dark"):
            with visit(context, Path("page.html").resolve(), width=420, scheme=scheme) as seen:
                assert seen.complaints == []
                assert seen.requests == [Path("page.html").resolve().as_uri()]
                assert seen.page.title() == "Compare a, <b>&"
                assert seen.page.locator("script, img, main b").count() == 0
                assert seen.page.evaluate("document.documentElement.scrollWidth") == 420
                # Two figures, each of training and held-out items; the second run's own length.
                assert seen.page.locator(".pictures figure").count() == 4
                label = seen.page.locator(".pictures svg.plot").nth(2).get_attribute("aria-label")
                assert label == "Loss, training: A ends at 0.20, B ends at 0.50"
                assert "<script>" in seen.page.locator(".answer .text").first.inner_text()


def test_two_real_runs(place: Place) -> None:
    place.put("unseen.jsonl", jsonl([{"prompt": f"unseen {n}"} for n in range(3)]))
    place.put("lengths.py", LENGTHS)
    place.change(
        {
            "rank.judge": {"name": "lengths:longest"},
            "rank.strategy": {"name": "pointwise"},
            "evaluate": {
                "prompts": {"name": "file", "path": "unseen.jsonl"},
                "gold": {"name": "lengths:letters"},
                "decoding": {"max_new_tokens": 4},
            },
        }
    )
    for beta in ("0.1", "0.2"):
        ran = prefine("run", "run.yaml", "--run-dir", beta, "--set", f"train.loss.beta={beta}")
        assert ran.code == OK, ran.err
    found = json.loads(prefine("compare", "0.1", "0.2", "--json").out)
    assert found["settings"] == [{"path": "train.loss.beta", "values": [0.1, 0.2]}]
    assert found["prompts"] == 3
    assert [one["status"] for one in found["runs"]] == ["ended", "ended"]
    names = ["gold_win_rate", "judge_win_rate", "gold_score", "answer_length"]
    assert [one["name"] for one in found["scores"]] == names
