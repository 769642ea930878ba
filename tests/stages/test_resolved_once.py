"""Every component of a configuration is resolved once: what was checked is what the stages use."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from prefine.config.components import bind
from prefine.config.named import components
from prefine.config.sections import RunConfig
from prefine.records import Completion, Prompt
from prefine.run.folder import RunFolder
from prefine.stages.check import check
from prefine.stages.pipeline import result_of, run_stage, stages_of
from prefine.stages.plan import plan
from prefine.stages.stage_run import Silent

PLAYGROUND = {"name": "playground"}


def questions() -> Iterator[dict[str, Any]]:
    """Prompts that the playground's gold score knows, as a user's function yields them."""
    from prefine.playground.world import draw_prompts

    for text in draw_prompts(6, split="test", seed=3):
        yield {"prompt": text}


def longer(prompt: Prompt, completion: Completion, *, power: float = 1.0) -> float:
    """A user's scorer."""
    return float(len(completion.text) ** power)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each component is resolved in the block, by its path."""
    found: Counter[str] = Counter()

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is bind.__code__:
            found[frame.f_locals["where"]] += 1

    sys.setprofile(on_event)
    try:
        yield found
    finally:
        sys.setprofile(None)


def values(run_dir: Path, **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run_dir": str(run_dir),
            "policy": PLAYGROUND,
            "prompts": {"name": "playground", "count": 12},
            "sample": {"completions_per_prompt": 2, "max_new_tokens": 24},
            # Named, because a default is one object for all configurations of a process.
            "rank": {"strategy": {"name": "iterative"}, "judge": PLAYGROUND},
            "pair": {"selector": {"name": "best_vs_random"}},
            "executor": {"name": "local"},
            "train": {
                "loss": {
                    "name": "mixture",
                    "losses": [{"name": "dpo"}, {"name": "nll"}],
                    "weights": [1.0, 0.1],
                },
                "regularizer": {"name": "budget", "delta": 5.0},
                "reference": PLAYGROUND,
                "step_source": {"name": "shuffled"},
                "max_steps": 1,
                "train_on_truncated": True,
                "pairs_per_step": 4,
            },
            "evaluate": {
                "prompts": {"name": f"{__name__}:questions", "limit": 4},
                "judge": {"name": f"{__name__}:longer", "power": 2.0, "temperature": 3.0},
                "gold": PLAYGROUND,
            },
            **sections,
        }
    )


def test_one_run_resolves_every_component_once(tmp_path: Path) -> None:
    config = values(tmp_path / "run")
    with counted() as found:
        check(config)
        with RunFolder(config.run_dir) as folder:
            folder.adopt_config(config.resolved())
            for stage in stages_of(config):
                run_stage(stage, config, folder, Silent())
            result = result_of(config, folder, 0.0)
    assert {stage for stage in folder.manifests()} >= {"sample", "rank", "train", "evaluate"}
    assert result.win_rate is not None and result.delta == 5.0
    assert found == Counter(path for path, _, _ in components(config))


@pytest.mark.parametrize("strategy", ["iterative", "score_then_duel"])
def test_so_does_a_dry_run_whose_judge_asks_a_model(tmp_path: Path, strategy: str) -> None:
    model = {"name": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    config = values(
        tmp_path / "run",
        rank={
            "strategy": {"name": strategy},
            "judge": {"name": "pairwise", "model": model},
            **({} if strategy == "iterative" else {"scorer": {"name": f"{__name__}:longer"}}),
        },
    )
    with counted() as found:
        assert plan(config, offline=True).lines
    assert found == Counter(path for path, _, _ in components(config))
    assert "rank.judge.model" in found


def test_a_component_that_was_resolved_is_saved_and_compared_as_before(tmp_path: Path) -> None:
    config, other = values(tmp_path), values(tmp_path)
    before = config.resolved()
    check(config)
    assert config.resolved() == before and config == other
    assert config.train.loss == other.train.loss
