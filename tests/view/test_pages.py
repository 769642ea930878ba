"""Every page on runs that the command has made, on one that works, and on hostile texts."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from prefine.records import (
    Comparison,
    Completion,
    Judgment,
    Message,
    PreferencePair,
    Prompt,
    Ranking,
    Score,
)
from prefine.run.item_rows import bridged_row, pair_row
from prefine.run.rows import completion_rows, joint_judgment_row, judgment_row
from prefine.run.tables import part_path, write_part
from prefine.run.view import RunView
from run_place import GONE, OK, Place, jsonl
from view_place import Asked, Tags

JUDGE = """
def longest(prompt, completion) -> float:
    return float(len(completion.text))

def letters(prompt, text) -> dict[str, float]:
    return {"letters": len(set(text)) / 100}
"""
SAMPLED = {
    "completions": GONE,
    "prompts": {"name": "file", "path": "prompts.jsonl"},
    "sample": {"completions_per_prompt": 3, "temperature": 1.0, "max_new_tokens": 6},
    "rank": {"judge": {"name": "view_judge:longest"}},
    "pair.held_out_prompts": 3,
    "train.max_steps": 2,
    "train.train_on_truncated": True,
    "evaluate": {
        "prompts": {"name": "file", "path": "unseen.jsonl"},
        "gold": {"name": "view_judge:letters"},
        "bootstrap_samples": 50,
    },
}
HOSTILE = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) <javascript:alert(1)> ![](http://evil.example/x.png)",
    "\x1b[31mred\x00\u202egnissim\u2066",
    "</textarea></pre></title><svg onload=alert(1)>",
    "{{ 7*7 }} {% raw %}",
    "<a href='http://evil.example' style='position:fixed' onclick=x>here</a>",
    '&lt;b&gt; &amp; "quotes" \' `code` | table |\n|-|-|',
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Path]:
    """A run, two rounds, and a sweep of two trials, in one folder."""
    root = tmp_path_factory.mktemp("viewed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        place = Place(root, tiny_model_folder)
        place.put("view_judge.py", JUDGE)
        place.put("prompts.jsonl", jsonl([{"prompt": f"question {n}"} for n in range(12)]))
        place.put("unseen.jsonl", jsonl([{"prompt": f"unseen {n}"} for n in range(4)]))
        place.change(SAMPLED)
        done = [prefine("run", "run.yaml", "--run-dir", "runs/one")]
        place.change({"rounds": {"count": 2}, "pair.held_out_prompts": 0})
        done.append(prefine("run", "run.yaml", "--run-dir", "runs/walk"))
        grid = {"train.loss.beta": [0.1, 0.5]}
        place.change({"rounds": GONE, "sweep": {"grid": grid}, "pair.held_out_prompts": 3})
        done.append(prefine("sweep", "run.yaml", "--run-dir", "runs/sweep"))
        assert [one.code for one in done] == [OK] * 3, [one.err for one in done]
        yield root / "runs"


@pytest.fixture(scope="module")
def asked(runs: Path) -> Asked:
    return Asked(runs)


def read(asked: Asked, path: str, status: int = 200) -> Tags:
    answer = asked.get(path)
    assert answer.status == status, answer.text
    return Tags(answer.text)


def test_the_list_of_runs_says_what_each_is(asked: Asked) -> None:
    page = read(asked, "/")
    names = page.links(data_row="")
    assert len(names) == 7
    assert "win rate is" in page.text
    # A trial differs from the one before it in its setting alone.
    assert "1 setting other than in trial-beta=0.1" in page.text
    assert "train.loss.beta 0.1 → 0.5" in page.text
    assert "2 of 2 rounds; the last one wins" in page.text
    assert "2 settings, 1 seed each" in page.text


def test_the_page_of_a_run(asked: Asked) -> None:
    page = read(asked, f"/run/{asked.key('one')}")
    for words in (
        "12 prompts",
        "36 completions",
        "Over training",
        "Cost",
        "held out",
    ):
        assert words in page.text
    charts = [json.loads(v["data-chart"]) for _, v in page.tags if "data-chart" in v]
    assert {"title", "series"} <= charts[0].keys()
    assert "No judge’s verdict failed." in page.text


@pytest.mark.parametrize(("name", "words"), [("walk", "2 of 2 rounds"), ("sweep", "2 settings")])
def test_the_pages_of_rounds_and_sweeps(asked: Asked, name: str, words: str) -> None:
    page = read(asked, f"/run/{asked.key(name)}")
    assert words in page.text
    assert any(tag == "svg" for tag, _ in page.tags)
    assert len(page.links(data_row="")) == 2


def test_prompts_of_all_rounds_are_one_list(asked: Asked) -> None:
    base = f"/run/{asked.key('walk')}/prompts"
    every = read(asked, base)
    # Twelve prompts, each in one of two rounds, and four that are evaluated in both.
    assert "20 prompts" in every.text
    first, second = (len(read(asked, f"{base}?round={n}").links(data_row="")) for n in (1, 2))
    assert first + second == 20
    assert min(first, second) > 4
    link = read(asked, f"{base}?round=2").links(data_row="")[0]
    assert "/prompt/2/" in link
    assert "round 2" in read(asked, link).text


def test_each_prompt_has_its_page_and_its_neighbours(asked: Asked) -> None:
    base = f"/run/{asked.key('one')}/prompts"
    links = read(asked, base).links(data_row="")
    assert len(links) == 16
    here, seen = links[0], []
    while here:
        seen.append(here)
        page = read(asked, here)
        assert f"Prompt {len(seen)} of 16" in page.text
        here = next(iter(page.links(rel="next")), "")
    assert seen == links


def test_a_sampled_prompt_shows_answers_duels_and_the_pair(asked: Asked) -> None:
    link = read(asked, f"/run/{asked.key('one')}/prompts?use=trained").links(data_row="")[0]
    page = read(asked, link)
    for words in ("3 answers", "chosen over", "selector best_vs_random", "comparisons", "best"):
        assert words in page.text
    assert any(values.get("class", "") == "duels" for tag, values in page.tags if tag == "svg")


def test_pairs_are_shown_and_found_as_they_were_bridged(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    pair, *rest = RunView(run).pairs()
    chosen = Completion(
        id="rewritten",
        prompt_id=pair.prompt.id,
        sample_index=0,
        message=Message(role="assistant", content="a rewritten answer"),
        model="m",
    )
    bridged = pair.model_copy(update={"chosen": chosen, "bridged_from": pair.chosen})
    rows = [bridged_row(bridged, "bridged"), *(bridged_row(one, "share") for one in rest)]
    (run / "bridged_pairs").mkdir()
    write_part(part_path(run / "bridged_pairs", 0), "bridged_pairs", rows, key="key")
    asked = Asked(tmp_path)
    base = f"/run/{asked.key('run')}/prompts"
    for scope in ("texts", "answers"):
        (link,) = read(asked, f"{base}?q=rewritten&scope={scope}").links(data_row="")
    page = read(asked, link)
    assert page.text.count("chosen over") == 1
    assert "a rewritten answer" in page.text
    assert "Chosen before" in page.text
    assert "held-out" not in page.text
    assert f"{len(rest) + 1} prompts" in read(asked, f"{base}?use=trained").text


def test_comparisons_across_prompts_are_counted_and_shown(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    (prompt, (mine, *_)), (other, (theirs, *_)), *_ = RunView(run).completions()
    theirs = theirs.model_copy(update={"message": Message(role="assistant", content="far away")})
    pair = PreferencePair(prompt=prompt, chosen=mine, rejected=theirs, rejected_prompt=other)
    met = Comparison(
        prompt_id=prompt.id, first=mine.id, second=theirs.id, second_prompt_id=other.id
    )
    said = Judgment(comparison=met, judge="j", error="no verdict in it", raw_text="cannot say")
    (run / "joint_judgments").mkdir()
    for name, row in (("joint_judgments", joint_judgment_row(said)), ("pairs", pair_row(pair))):
        write_part(part_path(run / name, 0), name, [row], key="key")
    asked = Asked(tmp_path)
    base = f"/run/{asked.key('run')}"
    assert "no verdict in it" in read(asked, base).text
    (link,) = read(asked, f"{base}/prompts?failed=1").links(data_row="")
    page = read(asked, link)
    for words in ("1 comparison with answers to other prompts", "cannot say", "1 failed"):
        assert words in page.text
    for words in ("an answer from elsewhere", "one to another prompt", other.text, "far away"):
        assert words in page.text


def test_an_evaluated_prompt_shows_before_and_after(asked: Asked) -> None:
    link = read(asked, f"/run/{asked.key('one')}/prompts?use=evaluated").links(data_row="")[0]
    page = read(asked, link)
    for words in ("Before and after training", "Word by word", "P(after is better)", "letters"):
        assert words in page.text


def test_a_held_out_prompt_shows_its_tokens(asked: Asked) -> None:
    base = f"/run/{asked.key('one')}/prompts"
    found = read(asked, f"{base}?sort=fall")
    assert "3 prompts" in found.text
    assert "margin" in found.text
    page = read(asked, found.links(data_row="")[0])
    assert "Log-probabilities, token by token" in page.text
    assert any(values.get("class") == "heat" for _, values in page.tags)


def test_runs_side_by_side(asked: Asked) -> None:
    keys = [
        one.key for one in asked.viewer.runs().by_key.values() if one.path.name.startswith("trial-")
    ]
    page = read(asked, f"/compare?run={keys[0]}&run={keys[1]}")
    assert "train.loss.beta" in page.text
    assert "name two runs or more" in read(asked, f"/compare?run={keys[0]}", 400).text
    assert "not among those" in read(asked, "/compare?run=../../etc", 404).text


def test_notes_stand_beside_the_run_and_are_exported(asked: Asked, runs: Path) -> None:
    key = asked.key("one")
    link = read(asked, f"/run/{key}/prompts?use=trained").links(data_row="")[0]
    prompt_id = link.split("/prompt/0/")[1].split("?")[0]
    form = {"prompt_id": prompt_id, "round": "0", "query": "?use=trained"}
    raw = {"as": "raw"}
    answer = asked.post(f"/run/{key}/note", flag="1", note="<b>odd\r\nverdict</b> ü", **form)
    assert (answer.status, answer.headers["location"]) == (303, link)
    answer = asked.post(f"/run/{key}/note", flag="1", note="<b>odd\nverdict</b> ü", **form, **raw)
    assert answer.headers["location"] == f"{link}&as=raw"
    page = asked.get(link)
    assert "&lt;b&gt;odd\nverdict&lt;/b&gt; ü</textarea>" in page.text
    assert "checked" in page.text
    flagged = read(asked, f"/run/{key}/prompts?flagged=1")
    assert flagged.links(data_row="") == [link.replace("use=trained", "flagged=1")]
    (line,) = asked.get(f"/run/{key}/notes.jsonl").text.splitlines()
    kept = json.loads(line)
    assert (kept["prompt_id"], kept["flag"], kept["note"]) == (
        prompt_id,
        True,
        "<b>odd\nverdict</b> ü",
    )
    file = runs / "one.notes.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    # Half a line of a killed process is no note, and is not in the way of the next one.
    with file.open("ab") as torn:
        torn.write(b'{"prompt_id": "x", "no')
    assert asked.get(f"/run/{key}/prompts?noted=1").status == 200
    assert asked.post(f"/run/{key}/note", note="", **form).status == 303
    assert asked.get(f"/run/{key}/notes.jsonl").text == ""
    assert len(file.read_bytes().splitlines()) == 3
    assert "0 prompts" in read(asked, f"/run/{key}/prompts?flagged=1").text


def test_notes_of_a_round_stand_beside_all_rounds(asked: Asked, runs: Path) -> None:
    key = asked.key("round-02")
    link = read(asked, f"/run/{key}/prompts").links(data_row="")[0]
    prompt_id = link.split("/prompt/2/")[1]
    form = {"prompt_id": prompt_id, "round": "2", "note": "here"}
    assert asked.post(f"/run/{key}/note", **form).status == 303
    assert (runs / "walk.notes.jsonl").is_file()
    whole = asked.get(f"/run/{asked.key('walk')}/notes.jsonl").text
    assert json.loads(whole)["round"] == 2
    assert asked.get(f"/run/{asked.key('round-01')}/notes.jsonl").text == ""


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"prompt_id": "another", "round": "0"}, 404),
        ({"prompt_id": "", "round": "0"}, 404),
        ({"prompt_id": "x", "round": "one"}, 404),
        ({"prompt_id": "x", "round": "0", "note": "n" * 200_000}, 413),
    ],
)
def test_notes_on_nothing_are_refused(asked: Asked, form: dict[str, str], status: int) -> None:
    assert asked.post(f"/run/{asked.key('one')}/note", **form).status == status


def test_a_run_at_work_is_shown_as_far_as_it_is(runs: Path, tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.mkdir()
    asked = Asked(tmp_path)
    assert "There is no run below" in read(asked, "/").text
    shutil.copy(runs / "one" / "config.json", live)
    assert "no stage has begun" in read(asked, "/").text
    manifest = json.loads((runs / "one" / "manifest.json").read_text())
    stages = dict(manifest["stages"])
    begun: dict[str, Any] = {}
    tables = {
        "sample": ("completions",),
        "rank": ("judgments", "rankings"),
        "pair": ("pairs", "heldout_pairs"),
        "train": ("train_log.jsonl", "eval_log.jsonl"),
    }
    for name, files in tables.items():
        begun[name] = stages[name] | {"complete": False}
        (live / "manifest.json").write_text(json.dumps(manifest | {"stages": begun}))
        page = asked.get("/").text
        assert f"working: {name} has not ended" in page
        assert "data-working" in page
        assert asked.get(f"/run/{asked.key()}").status == 200
        for file in files:
            copy = shutil.copytree if (runs / "one" / file).is_dir() else shutil.copy
            copy(runs / "one" / file, live / file)
        # The pictures of training come while the page is open, so it has their place before.
        assert 'id="training" data-live' in asked.get(f"/run/{asked.key()}").text
        # Another half row of a log, as it is being written.
        if (live / "train_log.jsonl").exists():
            with (live / "train_log.jsonl").open("a") as log:
                log.write('{"step": 3, "lo')
        time.sleep(0.8)
        listed = read(asked, f"/run/{asked.key()}/prompts")
        assert "12 prompts" in listed.text
        assert read(asked, listed.links(data_row="")[0]).text.count("answers") >= 1
        begun[name] = stages[name]
    begun["train"] = stages["train"] | {"complete": False}
    (live / "manifest.json").write_text(json.dumps(manifest | {"stages": begun}))
    os.utime(live / "manifest.json", (0, 0))
    # Training writes its logs alone, some of them seldom.
    for age, working in ((600, False), (100, True), (600, False)):
        then = time.time() - age
        for name in ("train_log.jsonl", "eval_log.jsonl"):
            os.utime(live / name, (then, then))
        assert ("working:" in asked.get("/").text) == working


def test_a_damaged_run_is_said_beside_the_others(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "good")
    shutil.copytree(runs / "one", tmp_path / "bad")
    (tmp_path / "bad" / "manifest.json").write_text("{torn")
    asked = Asked(tmp_path)
    page = read(asked, "/")
    assert "damaged" in page.text and "win rate" in page.text
    assert "damaged" in read(asked, f"/run/{asked.key('bad')}", 400).text
    # The one after it in the folder is shown, without what differs from it.
    (tmp_path / "bad" / "config.json").write_text("{torn")
    assert "win rate" in read(asked, f"/run/{asked.key('good')}").text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metrics.json", "{torn", "metrics.json: damaged"),
        ("metrics.json", '"\udcff"', "metrics.json: damaged"),
        ("train_log.jsonl", '{"step": 1}\n{torn\n', "train_log.jsonl, line 2: damaged"),
        ("train_log.jsonl", "[1]\n", "train_log.jsonl, line 1: damaged (no object)"),
    ],
)
def test_a_torn_file_of_one_run_is_named_and_takes_no_page_down(
    runs: Path, tmp_path: Path, name: str, text: str, said: str
) -> None:
    for run in ("a", "b"):
        shutil.copytree(runs / "one", tmp_path / run)
    (tmp_path / "a" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    asked = Asked(tmp_path)
    assert (said in read(asked, "/").text) == (name == "metrics.json")
    assert said in read(asked, f"/run/{asked.key('a')}", 400).text


def hostile_run(folder: Path, config: Path) -> None:
    """A run whose every text is hostile: prompts, answers, verdicts, sources, reasons, settings."""
    groups, judged, ranked, paired = [], [], [], []
    for number, words in enumerate(HOSTILE):
        other = HOSTILE[number - 1]
        prompt = Prompt.make(
            (Message(role="system", content=other), Message(role="user", content=words)),
            source=words,
            metadata={"source": words, "constraints": [words]},
        )
        answers = [
            Completion(
                id=f"answer{number}{index}",
                prompt_id=prompt.id,
                sample_index=index,
                message=Message(role="assistant", content=text, reasoning=text),
                model=words,
            )
            for index, text in enumerate((words, f"{other} again"))
        ]
        groups.append((prompt, answers))
        first, second = (one.id for one in answers)
        comparison = Comparison(prompt_id=prompt.id, first=first, second=second)
        said = [
            Judgment(comparison=comparison, judge="j", p_first=1.0, raw_text=words),
            Judgment(comparison=comparison.swapped(), judge="j", error=words, raw_text=words),
            Score(completion_id=first, judge="j", value=1.0, raw_text=words),
        ]
        judged += [judgment_row(one, prompt.id) for one in said]
        ranking = Ranking(
            prompt_id=prompt.id,
            strategy=words,
            completions=(first, second),
            order=(first, second),
            champion=first,
            worst=second,
        )
        ranked.append(ranking.model_dump(mode="json"))
        paired.append(
            pair_row(PreferencePair(prompt=prompt, chosen=answers[0], rejected=answers[1]))
        )
    tables = {
        "completions": completion_rows(groups),
        "judgments": judged,
        "rankings": ranked,
        "pairs": paired,
    }
    for name, rows in tables.items():
        (folder / name).mkdir(parents=True)
        write_part(part_path(folder / name, 0), name, rows, key="key")
    evaluated = {"prompt_id": "evaluated", "prompt": HOSTILE[0], "p_after": 1.0}
    outcome = evaluated | {"before": HOSTILE[1], "after": HOSTILE[2]}
    outcome |= {"gold_before": {HOSTILE[0]: 0.1}, "gold_after": {HOSTILE[0]: 0.4}}
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "outcomes.jsonl").write_bytes(jsonl([outcome]))
    value = json.loads(config.read_text())
    value["config"]["report"]["title"] = HOSTILE[0]
    value["config"]["policy"]["path"] = HOSTILE[1]
    (folder / "config.json").write_text(json.dumps(value))
    stage = {"stage": "rank", "config": {}, "code_version": HOSTILE[0], "stopped_by": HOSTILE[1]}
    stage |= {"counts": {"taken": 9, "produced": 1, "failed": {HOSTILE[4]: 3}}, "notes": HOSTILE}
    manifest = {"schema_version": 1, "stages": {"rank": stage}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_hostile_texts_stay_text(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    hostile_run(folder, runs / "one" / "config.json")
    asked = Asked(tmp_path)
    key = asked.key()
    base = f"/run/{key}/prompts"
    links = read(asked, base).links(data_row="")
    assert len(links) == len(HOSTILE) + 1
    for link in links:
        prompt_id = link.split("/prompt/0/")[1]
        answer = asked.post(f"/run/{key}/note", prompt_id=prompt_id, round="0", note=HOSTILE[4])
        assert answer.status == 303
    raw = [f"{link}?as=raw" for link in links]
    searched = [f"{base}?q=%3Cscript%3E", f"{base}?constraint=%22%3E%3Cscript%3Ex"]
    for path in ("/", f"/run/{key}", base, *searched, *links, *raw):
        answer = asked.get(path)
        assert answer.status == 200, path
        harmless(answer.text)
    shown = read(asked, links[0])
    assert "<script>document.title='taken'</script>" in shown.text


def harmless(page: str) -> None:
    """Nothing of a text has become an element, an attribute or an address."""
    for character in "\x00\x1b\u202e\u2066":
        assert character not in page
    for tag, values in Tags(page).tags:
        assert tag not in ("img", "iframe", "object", "embed", "base", "style")
        assert not [name for name in values if name.startswith("on") or name == "style"]
        if tag == "script":
            assert values["src"] in ("/static/view.js", "/static/charts.js")
        for name in ("href", "src", "action"):
            place = values.get(name, "/")
            assert place.startswith(("/", "#", "?", "data:,")) and not place.startswith("//")


def test_modules_that_a_run_names_are_not_imported(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "run")
    config = (tmp_path / "run" / "config.json").read_text()
    trap = config.replace("view_judge:", "trap_of_a_run:")
    (tmp_path / "run" / "config.json").write_text(trap)
    (tmp_path / "trap_of_a_run.py").write_text("raise SystemExit('imported')")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        asked = Asked(tmp_path)
        for path in ("/", f"/run/{asked.key()}", f"/run/{asked.key()}/prompts"):
            assert asked.get(path).status == 200
