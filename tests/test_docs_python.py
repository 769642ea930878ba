"""Every Python example of docs/python.md and README.md runs, in order; what cannot be had here
is replaced.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import openai_server as server
from openai_server import OpenAIServer
from phrase_model import save_phrase_model
from prefine.config.yaml import parse_yaml, validate
from prefine.judging.choose import make_judge

REPOSITORY = Path(__file__).parents[1]
PHRASES = ["Rain", " falls", " from", " clouds", " water", " is", " warm", ".", " boils"]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(page: str) -> list[str]:
    return FENCE.findall((REPOSITORY / page).read_text(encoding="utf-8"))


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What a page names and what is here instead; the working directory is empty but for that."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("JUDGE_API_KEY", "planted")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_judge", "my_losses"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    rows = [{"prompt": f"question {n}", "chosen": f"good {n}", "rejected": "bad"} for n in range(6)]
    for split in ("train_prefs", "test_prefs"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "hub" / "data" / f"{split}-00000-of-00001.jsonl").write_text(text)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_phrase_model(tmp_path / "model", PHRASES)
    with OpenAIServer(server.label_judge(0.6)) as at:
        yield {
            "Qwen/Qwen2.5-0.5B-Instruct": str(model),
            "HuggingFaceTB/SmolLM2-135M-Instruct": str(model),
            "HuggingFaceH4/ultrafeedback_binarized": "hub",
            '"model": "gpt-4.1-mini"': f'"model": "gpt-4.1-mini", "base_url": "{at.url}"',
        }
    for name in ("my_judge", "my_losses"):
        sys.modules.pop(name, None)


def run(page: str, stand_ins: dict[str, str]) -> dict[str, Any]:
    """All examples of a page in one namespace; one that begins with a file's name is written
    there instead.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, example in enumerate(examples(page), 1):
        if name := re.match(r"# (\w+\.py)\n", example):
            Path(name[1]).write_text(example)
            continue
        for theirs, ours in stand_ins.items():
            example = example.replace(theirs, ours)
        exec(compile(example, f"{page}, example {number}", "exec"), namespace)
    return namespace


def test_the_examples_of_the_page_run(
    stand_ins: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run("docs/python.md", stand_ins)
    assert "chosen answers: " in capsys.readouterr().out
    assert Path("runs/python-lora/model/adapter_config.json").is_file()
    assert Path("runs/python-pipeline/model/model.safetensors").is_file()
    assert found["pairs"] and found["found"].contests and len(found["loss"]) == 2
    assert found["logps"].margin.mean().item() > 0, "the loop of one's own has learned"
    assert Path("runs/cautious/model/model.safetensors").is_file()


def test_the_examples_of_the_readme_run(stand_ins: dict[str, str]) -> None:
    run("README.md", stand_ins)


@pytest.mark.parametrize("page", ["docs/judges.md", "docs/servers.md"])
def test_the_settings_on_the_page_are_settings(page: str, stand_ins: dict[str, str]) -> None:
    run(page, stand_ins)
    found = re.findall(
        r"^```yaml\n(.*?)^```",
        (REPOSITORY / page).read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert found
    rest: dict[str, Any] = {
        "run_dir": "run",
        "policy": {"name": "playground"},
        "prompts": {"name": "playground", "count": 4},
        "sample": {},
    }
    for text in found:
        config = validate(rest | parse_yaml(text, where=page), where=page)
        assert config.rank is not None
        make_judge(config.rank.judge, where="rank.judge")
        if config.sample is not None and config.sample.model is not None:
            config.sample.model.resolve("backend", where="sample.model")()


def test_pairs_to_a_lora_checkpoint_takes_fifteen_lines_of_python() -> None:
    first = examples("docs/python.md")[0]
    lines = [line for line in first.splitlines() if line.strip()]
    print(f"\nfrom pairs to a LoRA checkpoint with a budget: {len(lines)} lines of Python")
    assert len(lines) <= 15
    assert all(word in first for word in ("read_pairs", '"lora"', '"budget"', "prefine.train("))
