"""The committed configurations and their walks in docs/recipes: every command there is executed.

The commands run in order and as written, in a folder with a copy of `configs/`. Only what cannot be
had here is replaced, by `--set`: models and data sets of the hub, servers, and sizes that a tiny
model cannot take. What the pages say is printed has to be printed, and every path that they name
has to be there in the end.
"""

import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import openai_server as server
from command import Result, prefine
from openai_server import OpenAIServer, Reply
from other_tokens import save_with_other_tokens
from prefine.playground.world import gold_parts
from prefine.run.view import RunView
from tiny_reward import save_reward_model

REPOSITORY = Path(__file__).parents[1]
PAGES = REPOSITORY / "docs" / "recipes"
RECIPES = [
    "kto-grades",
    "lists-of-12",
    "own-judge",
    "pairs-lora-budget",
    "reward-model",
    "server-judge",
    "two-references",
]
KEY = "planted-key-0123456789"
SMALL = {"policy.path": "model", "train.pairs_per_step": 2}
IN_PROCESS = {
    "sample.completions_per_prompt": 3,
    "sample.max_new_tokens": 8,
    "train.train_on_truncated": True,
}


class Block(NamedTuple):
    """A fenced block of a page: its language, its lines."""

    language: str
    lines: list[str]


def blocks(page: Path) -> list[Block]:
    found = re.findall(
        r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [Block(language, text.splitlines()) for language, text in found]


def rows(name: str, values: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in values))


def execute(
    line: str, replacements: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Result | None:
    """One line of a shell: settings of the environment, and perhaps the command."""
    words = shlex.split(line.removeprefix("export "))
    while words and (setting := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
        if setting[1] == "PYTHONPATH":
            monkeypatch.syspath_prepend(setting[2])
        elif setting[1] not in os.environ:
            monkeypatch.setenv(setting[1], KEY)
        words.pop(0)
    if not words:
        return None
    assert words[0] == "prefine", f"only prefine is executed, not {line!r}"
    place = next(i for i, word in enumerate(words) if word.endswith(".yaml")) + 1
    assert Path(words[place - 1]).is_file()
    ours = [
        part
        for key, value in replacements.items()
        for part in ("--set", f"{key}={json.dumps(value)}")
    ]
    return prefine(*words[1:place], *ours, *words[place:])


def walk(recipe: str, replacements: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page: commands are executed, and what is said to be printed is looked for
    in order.
    """
    printed: list[str] = []
    for language, lines in blocks(PAGES / f"{recipe}.md"):
        if language == "bash":
            printed = []
            for line in lines:
                result = execute(line, replacements, monkeypatch)
                if result is not None:
                    assert result.code == 0, f"{line}\n{result.err}"
                    assert KEY not in result.out + result.err
                    printed += result.out.splitlines()
        elif not lines[0].startswith("$ "):
            assert language == "text"
            for line in lines:
                pattern = ".*".join(re.escape(part) for part in line.split("…"))
                matches = [
                    number for number, said in enumerate(printed) if re.fullmatch(pattern, said)
                ]
                assert matches, f"{recipe}: {line!r} is not printed; there is\n" + "\n".join(
                    printed
                )
                printed = printed[matches[0] + 1 :]
    for path in sorted(
        set(re.findall(r"runs/[\w./-]*[\w-]", (PAGES / f"{recipe}.md").read_text(encoding="utf-8")))
    ):
        assert Path(path).exists(), f"{recipe}: {path} is named and is not there"


@pytest.fixture
def here(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The working directory of a user who has the configurations and a tiny policy in `model`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(REPOSITORY / "configs", "configs")
    shutil.copytree(tiny_model_folder, "model")
    yield tmp_path
    sys.modules.pop("own_judge", None)


def manifests(run: str) -> dict[str, Any]:
    stages: dict[str, Any] = json.loads(Path(run, "manifest.json").read_text())["stages"]
    return stages


def test_every_recipe_has_a_configuration_and_a_page() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == RECIPES
    for recipe in RECIPES:
        config = (REPOSITORY / "configs" / f"{recipe}.yaml").read_text(encoding="utf-8")
        assert config.startswith("# ") and f"docs/recipes/{recipe}.md" in config
        assert f"prefine run configs/{recipe}.yaml" in config
        assert f"configs/{recipe}.yaml" in (PAGES / f"{recipe}.md").read_text(encoding="utf-8")


def test_every_other_configuration_passes_the_check(here: Path) -> None:
    rows(
        "pool.jsonl",
        [
            {"prompt": f"q {n}", "completions": [{"text": t, "grade": 1} for t in "ab"]}
            for n in range(20)
        ],
    )
    others = [path for path in sorted(Path("configs").glob("*.yaml")) if path.stem not in RECIPES]
    assert others
    for path in others:
        result = prefine("config", "check", str(path))
        assert (result.code, result.out) == (0, "ok\n"), f"{path}: {result.err}"


def test_pairs_to_a_lora_checkpoint_takes_ten_lines_of_yaml_and_one_command(here: Path) -> None:
    example = next(block for block in blocks(REPOSITORY / "README.md") if block.language == "yaml")
    lines = [line for line in example.lines if line.strip() and not line.startswith("#")]
    print(f"\nfrom pairs to a LoRA checkpoint with a budget: {len(lines)} lines of YAML")
    assert len(lines) <= 10
    assert any("adapter" in line for line in lines) and any("budget" in line for line in lines)
    Path("lora.yaml").write_text("\n".join(example.lines))
    rows(
        "pairs.jsonl",
        [{"prompt": f"q {n}", "chosen": f"good {n}", "rejected": "bad"} for n in range(4)],
    )
    result = prefine("run", "lora.yaml", "--set", "policy.path=model")
    assert result.code == 0, result.err
    assert Path("runs/lora/model/adapter_config.json").is_file()


@pytest.fixture
def hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of eight pairs in the folder `hub`."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", here / "cache")
    Path("hub/data").mkdir(parents=True)
    conversation = [[{"role": "user", "content": f"question {n}"}] for n in range(8)]
    rows(
        "hub/data/train_prefs-00000-of-00001.jsonl",
        [
            {
                "prompt": asked[0]["content"],
                "chosen": [*asked, {"role": "assistant", "content": f"a good answer {n}"}],
                "rejected": [*asked, {"role": "assistant", "content": "a bad one"}],
                "score_chosen": 8.0,
                "score_rejected": 3.0,
            }
            for n, asked in enumerate(conversation)
        ],
    )


def test_pairs_from_the_hub_with_lora_and_a_budget(
    hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacements = {**SMALL, "pairs.path": "hub", "pair.held_out_prompts": 2}
    walk("pairs-lora-budget", replacements, monkeypatch)
    assert Path("runs/pairs-lora-budget/model/adapter_config.json").is_file()
    assert manifests("runs/pairs-lora-budget")["train"]["counts"]["produced"] == 6


def test_two_references(hub: None, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_with_other_tokens(here / "model", here / "base", apart=True)
    replacements = {**SMALL, "pairs.path": "hub", "pair.held_out_prompts": 2}
    walk("two-references", {**replacements, "train.reference.1.path": "base"}, monkeypatch)
    assert len(list(Path("runs/.prefine/reference").iterdir())) == 2, "each model scores once"
    found = {
        run: Path("runs", run, "train_log.jsonl").read_text()
        for run in ("two-references", "one-reference", "weighed-references")
    }
    assert len(set(found.values())) == 3


def test_a_server_that_samples_and_a_judge_at_a_url(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows("prompts.jsonl", [{"prompt": f"question {n}"} for n in range(6)])
    rows("eval_prompts.jsonl", [{"prompt": f"unseen question {n}"} for n in range(3)])
    judge = server.label_judge(0.7)

    def both(request: dict[str, Any], number: int) -> Reply:
        return (
            judge(request, number)
            if request["model"] == "gpt-4.1-mini"
            else server.honours_n(request, number)
        )

    with OpenAIServer(both) as at:
        replacements = {
            **SMALL,
            "sample.model.base_url": at.url,
            "rank.judge.model.base_url": at.url,
            "sample.completions_per_prompt": 3,
            "evaluate.decoding": {"max_new_tokens": 8},
        }
        walk("server-judge", replacements, monkeypatch)
    asked = [
        json.dumps([request.body.get("model"), request.body["messages"]]) for request in at.requests
    ]
    assert len(set(asked)) == len(asked), "nothing is asked twice, whatever was run again"
    keys = {request.body["model"]: request.headers.get("authorization") for request in at.requests}
    assert keys["gpt-4.1-mini"] == f"Bearer {KEY}" and KEY not in str(
        keys["Qwen/Qwen2.5-0.5B-Instruct"]
    )
    assert sum('"gpt-4.1-mini"' not in one for one in asked) == 6, (
        "one request per prompt where n is honoured"
    )
    assert manifests("runs/server-judge")["rank"]["usage"]["cost"] > 0
    assert KEY.encode() not in b"".join(
        path.read_bytes() for path in here.rglob("*") if path.is_file()
    )


def test_completions_and_a_reward_model(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_reward_model(here / "reward")
    found = [
        {"prompt": f"question {n}", "completions": [f"answer {n} {'more ' * m}" for m in range(3)]}
        for n in range(5)
    ]
    rows("completions.jsonl", found)
    walk(
        "reward-model",
        {**SMALL, "rank.judge.path": "reward", "pair.held_out_prompts": 2},
        monkeypatch,
    )
    stages = manifests("runs/reward-model")
    assert stages["rank"]["usage"]["calls"] == 15, "each completion is scored once"


def test_lists_of_twelve_real_answers(
    here: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path
) -> None:
    shutil.copy(real_data / "arena_bench_pool" / "pool.jsonl", "pool.jsonl")
    small = {
        **SMALL,
        "lists.limit": 12,
        "pair.held_out_prompts": 4,
        "train.max_steps": 2,
        "train.max_prompt_tokens": 32,
        "train.max_completion_tokens": 24,
    }
    walk("lists-of-12", small, monkeypatch)
    log = Path("runs/lists-of-12/train_log.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    assert last["lists"] == 2 and 0 <= last["ranking_accuracy"] <= 1
    produced = manifests("runs/lists-of-12")["pair"]["counts"]["produced"]
    assert produced == 8


def test_answers_with_grades(here: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real grades of twelve models; the folder of real data has one pool of them."""
    pool = real_data / "arena_bench_pool" / "pool.jsonl"
    replacements = {
        **SMALL,
        "labels.path": str(pool),
        "pair.held_out_prompts": 40,
        "train.pairs_per_step": 8,
        "train.max_steps": 2,
        "train.max_prompt_tokens": 16,
        "train.max_completion_tokens": 8,
    }
    walk("kto-grades", replacements, monkeypatch)
    grades = [
        answer["score"]
        for line in pool.read_text(encoding="utf-8").split("\n")[:-1]
        for answer in json.loads(line)["completions"]
    ]
    for run, above in (("kto-grades", 6), ("stricter", 8)):
        labels = [
            label.desirable
            for table in ("labels", "heldout_labels")
            for label in RunView(Path("runs", run)).labels(table)
        ]
        assert (len(labels), sum(labels)) == (720, sum(grade > above for grade in grades))
        found = json.loads(Path("runs", run, "metrics.json").read_text())["metrics"]
        assert {one["name"] for one in found} >= {"label_accuracy", "reward_auc"}
    first = json.loads(Path("runs/kto-grades/eval_log.jsonl").read_text().splitlines()[0])
    assert first["auc"] == pytest.approx(0.5, abs=0.2) and first["step"] == 0


def test_rejection_sampling_in_rounds(here: Path) -> None:
    small = {
        "policy": {"name": "hf", "path": "model"},
        "prompts.count": 8,
        "sample.completions_per_prompt": 6,
        "sample.max_new_tokens": 12,
        "pair.selector.accepted": 4,
        "train.max_steps": 2,
        "train.pairs_per_step": 4,
        "train.train_on_truncated": True,
        "evaluate.prompts.count": 4,
        "evaluate.decoding.max_new_tokens": 12,
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    command = ["run", "configs/rso.yaml", *(part for one in settings for part in ("--set", one))]
    result = prefine(*command)
    assert result.code == 0, result.err
    for folder in (Path("runs/rso/round-01"), Path("runs/rso/round-02")):
        view = RunView(folder)
        shares = []
        for ranking in view.rankings():
            best = max(ranking.scores or ())
            chances = [math.exp((score - best) / 1.5) for score in ranking.scores or ()]
            shares.append(100 * sum(chances) / len(chances))
        note = (
            f"accepted by the first pass: {sum(shares) / len(shares):.1f}% of the "
            f"completions (mean of {len(shares)} prompts; lowest {min(shares):.1f}%, highest "
            f"{max(shares):.1f}%)"
        )
        assert note in manifests(str(folder))["pair"]["notes"]
        assert note in (folder / "report.html").read_text(encoding="utf-8")
        drawn = [completion for _, found in view.completions() for completion in found]
        assert {one.sampling["top_k"] for one in drawn if one.sampling} == {40}
        scores = {
            id_: score
            for ranking in view.rankings()
            for id_, score in zip(ranking.completions, ranking.scores or (), strict=True)
        }
        pairs = list(view.pairs())
        assert 0 < len(pairs) <= 3 * len(shares), "three pairs of four accepted answers"
        assert all(scores[pair.chosen.id] > scores[pair.rejected.id] for pair in pairs)
    assert Path("runs/rso/report.html").is_file()


def test_a_judge_of_ones_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows("prompts.jsonl", [{"prompt": f"What is 6 times {n}?", "answer": 6 * n} for n in range(4)])
    rows(
        "eval_prompts.jsonl",
        [{"prompt": f"What is 7 times {n}?", "answer": 7 * n} for n in range(2, 5)],
    )
    replies = ["It is 0 .", "It is 6 .", "12, I think", "18 .", "no idea {sample}"]
    scripted = {"name": "scripted", "replies": replies}
    walk("own-judge", {**SMALL, **IN_PROCESS, "sample.model": scripted}, monkeypatch)
    assert manifests("runs/own-judge")["pair"]["counts"]["produced"] > 0
    module = Path("configs/own_judge.py")
    module.write_text(
        module.read_text().replace("return float(bool(numbers)", "return 1.0 - float(bool(numbers)")
    )
    sys.modules.pop("own_judge")
    again = "PYTHONPATH=configs prefine run configs/own-judge.yaml"
    result = execute(again, {**SMALL, **IN_PROCESS, "sample.model": scripted}, monkeypatch)
    assert result is not None and result.code == 0, result
    assert len(list(Path("runs/own-judge").glob("training-before-*"))) == 1


def test_self_play_on_the_playground(here: Path) -> None:
    small = {
        "labels.count": 6,
        "train.pairs_per_step": 3,
        "train.max_steps": 4,
        "train.step_source.reference_every": 2,
        "evaluate.prompts.count": 2,
        "evaluate.decoding.max_new_tokens": 8,
    }
    changes = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    result = prefine("run", "configs/self-play.yaml", *changes)
    assert result.code == 0, result.err
    log = Path("runs/self-play/train_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["pairs"] for line in log] == [3] * 4
    answers = list(RunView(Path("runs/self-play")).labels())
    assert len(answers) == 6
    for one in answers:
        assert set(gold_parts(one.prompt.text, one.completion.text).values()) == {1.0}
    assert "win rate by gold" in result.out
