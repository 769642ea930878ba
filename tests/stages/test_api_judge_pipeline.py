"""Ranking with a judge behind a URL: no torch, costs in the manifest, limits that hold over
runs.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai_server as server
from command import prefine, start
from openai_server import OpenAIServer
from run_place import BACKEND, DATA, GONE, LIMIT, OK, Place, jsonl

RANK_ALONE = """
import sys
import time
sys.argv = ["prefine", "{stage}", "run.yaml"]
from prefine.cli.app import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print(sorted({{"torch", "transformers", "peft", "datasets"}} & set(sys.modules)))
"""


def judged_at(at: OpenAIServer, **options: Any) -> dict[str, Any]:
    model = {"name": "openai", "model": "m", "base_url": at.url, "max_retries": 0, **options}
    return {"rank.judge": {"name": "pairwise", "model": model}}


def manifest(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("run/manifest.json").read_text())["stages"][stage]
    return found


def test_sampling_and_ranking_at_a_server_never_import_torch(place: Place) -> None:
    def both(request: dict[str, Any], number: int) -> server.Reply:
        script = server.label_judge(0.7) if request.get("logprobs") else server.honours_n
        return script(request, number)

    with OpenAIServer(both) as at:
        place.change(judged_at(at))
        model = {"name": "openai", "model": "m", "base_url": at.url}
        place.change(
            {
                "completions": GONE,
                "prompts": {"name": "file", "path": "prompts.jsonl"},
                "sample": {"model": model, "completions_per_prompt": 3},
            }
        )
        for stage in ("sample", "rank"):
            code = RANK_ALONE.format(stage=stage)
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            assert done.stdout.splitlines()[-1] == "[]"
    assert manifest("rank")["counts"]["produced"] == 4
    asked = manifest("rank")["judge_prompt"]
    assert asked.startswith("You are an impartial judge.") and "[conversation]" in asked
    assert manifest("sample")["judge_prompt"] is None


def test_cost_is_counted_and_limited_over_runs(place: Place) -> None:
    prices = {"prompt": 1e6, "completion": 0.0}  # one a token
    with OpenAIServer(server.label_judge(0.7)) as at:
        place.change(judged_at(at, prices=prices, concurrency=1))
        assert prefine("sample", "run.yaml").code == OK
        first = prefine("rank", "run.yaml", "--set", "rank.max_cost=20")
        assert first.code == LIMIT
        assert "max_cost" in first.err and "limit 20" in first.err
        asked = len(at.requests)
        assert asked > 0
        again = prefine("rank", "run.yaml", "--set", "rank.max_cost=21")
        assert again.code == LIMIT
        assert len(at.requests) <= asked + 1, "what earlier runs spent counts"
        done = prefine("rank", "run.yaml", "--set", "rank.max_cost=null")
        assert done.code == OK, done.err
    assert "cost" in done.out
    duels = sum(1 for request in at.requests if request.body.get("logprobs"))
    assert duels == len(at.requests), "no comparison was asked twice"


def test_a_server_may_move_between_runs(place: Place) -> None:
    with OpenAIServer(server.label_judge(0.7)) as at:
        place.change(judged_at(at))
        assert prefine("sample", "run.yaml").code == OK
        assert prefine("rank", "run.yaml", "--set", "rank.max_calls=3").code == LIMIT
        assert prefine("rank", "run.yaml").code == OK
        count = len(at.requests)
    with OpenAIServer(server.label_judge(0.7)) as elsewhere:
        result = prefine("rank", "run.yaml", "--set", f"rank.judge.model.base_url={elsewhere.url}")
        assert result.code == OK, result.err
        assert not elsewhere.requests, "every verdict was journaled"
        assert count > 0
        changed = prefine("rank", "run.yaml", "--set", "rank.judge.model.model=other")
        assert changed.code == 2, "another model is another run"


def test_a_wrong_name_that_nothing_answered_to_freezes_nothing(place: Place) -> None:
    with OpenAIServer(server.label_judge(0.7), model="m") as at:
        place.change(judged_at(at, model="typo"))
        assert prefine("sample", "run.yaml").code == OK
        wrong = prefine("rank", "run.yaml")
        assert wrong.code == BACKEND
        assert "there is no model 'typo'" in wrong.err and "journaled" not in wrong.err
        mended = prefine("rank", "run.yaml", "--set", "rank.judge.model.model=m")
        assert mended.code == OK, mended.err


def test_a_selector_that_found_nothing_may_be_changed(place: Place) -> None:
    pair = {"selector": {"name": "all_pairs"}, "min_gap": 100.0}
    place.change({"rank.strategy": {"name": "round_robin"}, "pair": pair})
    for stage in ("sample", "rank"):
        assert prefine(stage, "run.yaml").code == OK
    assert prefine("pair", "run.yaml").code == DATA
    assert prefine("pair", "run.yaml", "--set", "pair.min_gap=0.0").code == OK


def test_a_judge_that_only_sees_the_slot_is_noticed(place: Place) -> None:
    rows = [
        {"prompt": f"q {n}", "completions": [f"answer {n} {m}" for m in range(6)]}
        for n in range(12)
    ]
    place.put("answers.jsonl", jsonl(rows))
    with OpenAIServer(server.label_judge(0.8)) as at:
        place.change(judged_at(at))
        for stage in ("sample", "rank"):
            result = prefine(stage, "run.yaml")
            assert result.code == OK, result.err
    assert "chose the first slot in 100%" in result.out
    assert any("hardly looks at the answers" in note for note in manifest("rank")["notes"])


def test_a_judge_that_is_not_there_costs_nothing_but_a_message(place: Place) -> None:
    with OpenAIServer() as at:
        gone = at.url
    place.change(
        {
            "rank.judge": {
                "name": "pairwise",
                "model": {"name": "openai", "model": "m", "base_url": gone},
            }
        }
    )
    place.change({"rank.judge.model.max_retries": 0})
    result = prefine("run", "run.yaml")
    assert result.code == BACKEND
    assert gone in result.err and "cannot be reached" in result.err


def test_a_second_interrupt_does_not_wait_for_a_server_that_hangs(place: Place) -> None:
    with OpenAIServer(server.HANGS) as at:
        place.change(judged_at(at, timeout_s=100))
        assert prefine("sample", "run.yaml").code == OK
        process = start("rank", "run.yaml")
        while not at.requests:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 6
    assert "press Ctrl-C again" in err and "Traceback" not in err


def test_the_dry_run_estimates_what_the_prices_make_of_it(place: Place) -> None:
    with OpenAIServer() as at:
        place.change(judged_at(at, prices={"prompt": 1e6, "completion": 0.0}))
        model = {
            "name": "openai",
            "model": "m",
            "base_url": at.url,
            "prices": {"prompt": 0.0, "completion": 1e6},
        }
        place.change(
            {
                "completions": GONE,
                "prompts": {"name": "file", "path": "prompts.jsonl"},
                "sample": {"model": model, "completions_per_prompt": 3, "max_new_tokens": 100},
            }
        )
        result = prefine("run", "run.yaml", "--dry-run")
    assert result.code == OK, result.err
    lines = dict(line.rsplit("  ", 1) for line in result.out.splitlines() if "cost" in line)
    amounts = {name.strip(): float(value.replace(",", "")) for name, value in lines.items()}
    assert amounts["cost of sampling, about, at most"] == 4 * 3 * 100
    # 16 calls, each with two answers of 100 tokens, a question of 10 characters, and instructions.
    assert 16 * 200 < amounts["cost of judging in one token, about, at most"] < 16 * 2000
    assert not at.requests
