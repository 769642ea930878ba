"""Run folders with an evaluation, for tests that lay runs side by side."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from run_place import jsonl

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\x1b[31m\u202e&amp;"
Make = Callable[..., Path]


def answered(
    prompt_id: str, gold: float | None, p: float | None = None, **other: Any
) -> dict[str, Any]:
    """An evaluated prompt whose baseline answer has a gold score of .5."""
    return {
        "prompt": f"question {prompt_id}",
        "prompt_id": prompt_id,
        "before": "before",
        "after": f"an answer {gold}",
        "p_after": p,
        "gold_before": None if gold is None else {"all": 0.5},
        "gold_after": None if gold is None else {"all": gold},
    } | other


def write_run(
    name: str,
    outcomes: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    losses: Sequence[float] = (),
) -> Path:
    """Write a run folder in the working directory from its outcomes, settings and losses."""
    path = Path(name)
    (path / "evaluation").mkdir(parents=True)
    config = {"run_dir": name, "evaluate": {"gold": {"name": "playground"}}} | (settings or {})
    (path / "config.json").write_text(json.dumps({"schema_version": 1, "config": config}))
    stage = {"stage": "evaluate", "config": {}, "code_version": "0", "complete": bool(outcomes)}
    manifest = {"schema_version": 1, "stages": {"evaluate": stage}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "evaluation" / "outcomes.jsonl").write_bytes(jsonl(list(outcomes)))
    rows = [{"step": n + 1, "loss": loss, "fall": 2 * loss} for n, loss in enumerate(losses)]
    (path / "train_log.jsonl").write_bytes(jsonl(rows))
    (path / "eval_log.jsonl").write_bytes(jsonl(rows))
    return path


def twenty(better: int, worse: int = 0) -> list[dict[str, Any]]:
    """Twenty prompts: some better than the baseline, some worse, ties."""
    golds = [1.0] * better + [0.0] * worse + [0.5] * (20 - better - worse)
    return [answered(f"p{n:02}", gold) for n, gold in enumerate(golds)]
