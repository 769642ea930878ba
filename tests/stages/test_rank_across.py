"""Stage `rank` with comparisons across prompts, and the pairs that become of them."""

from pathlib import Path
from typing import Any

import pytest

from prefine.config.base import Component
from prefine.config.yaml import validate
from prefine.errors import ConfigError, LimitError
from prefine.playground.world import gold
from prefine.records import Manifest, PreferencePair
from prefine.run.folder import RunFolder
from prefine.run.tables import table_hash
from prefine.run.view import RunView
from prefine.stages.check import check
from prefine.stages.pipeline import run_stage
from prefine.stages.plan import plan
from prefine.stages.stage_run import Silent

REPLIES = ["the kettle is bright .", "tea is warm .", "{prompt}", "i like tea . i like tea .", "no"]
JUDGE = {"name": "playground", "accuracy": 0.8, "first_slot_bias": 0.0}


def configured(folder: Path, across: dict[str, Any] | None = None, **sections: Any) -> Any:
    rank: dict[str, Any] = {"judge": JUDGE, "strategy": {"name": "minmax"}} | sections.pop(
        "rank", {}
    )
    values: dict[str, Any] = {
        "run_dir": str(folder),
        "policy": {"name": "scripted", "replies": REPLIES},
        "prompts": {"name": "playground", "count": 40},
        "sample": {"completions_per_prompt": 4, "shard_prompts": 16},
        "rank": rank | {"across": {} if across is None else across},
        "pair": {"selector": {"name": "joint"}},
        "train": {"loss": {"name": "jpo"}},
    }
    return validate(values | sections, where="test")


def run(config: Any, *stages: str) -> dict[str, Manifest]:
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        names = stages or ("sample", "rank", "pair")
        return {stage: run_stage(stage, config, folder, Silent()) for stage in names}


def across_pairs(folder: Path) -> list[PreferencePair]:
    return [pair for pair in RunView(folder).pairs() if pair.rejected_prompt is not None]


def test_the_judge_decides_which_pairs_across_prompts_there_are(tmp_path: Path) -> None:
    sure = {"judge": JUDGE | {"accuracy": 1.0}}
    config = configured(tmp_path / "run", {"meet": ["best_vs_best"]}, rank=sure)
    manifests = run(config)
    said = list(RunView(tmp_path / "run").joint_judgments())
    assert len(said) == len({one.comparison.model_dump_json() for one in said}) > 50
    assert all(one.comparison.second_prompt_id is not None for one in said)
    pairs = across_pairs(tmp_path / "run")
    assert len(pairs) > 10
    for pair in pairs:
        assert pair.rejected_prompt is not None and pair.p_chosen is not None
        better = gold(pair.prompt.text, pair.chosen.text)
        assert better > gold(pair.rejected_prompt.text, pair.rejected.text)
    assert manifests["rank"].usage.calls == len(said) + sum(
        one.calls for one in RunView(tmp_path / "run").rankings()
    )
    assert any(f"{len(said)} of {len(said)} calls" in note for note in manifests["rank"].notes)
    playground = config.model_copy(update={"policy": Component(name="playground")})
    lines = dict(plan(playground).lines)
    assert len(said) <= int(lines["judge calls across prompts, at most"]) == 80


def test_both_orders_are_asked_of_a_judge_with_a_favourite_slot(tmp_path: Path) -> None:
    biased = {"judge": JUDGE | {"first_slot_bias": 0.5}}
    run(configured(tmp_path / "auto", {"per_prompt": 1}, rank=biased), "sample", "rank")
    run(configured(tmp_path / "single", {"per_prompt": 1, "order": "single"}, rank=biased),
        "sample", "rank")  # fmt: skip
    auto = list(RunView(tmp_path / "auto").joint_judgments())
    single = list(RunView(tmp_path / "single").joint_judgments())
    assert len(auto) == 2 * len(single)
    assert [one.comparison for one in auto[1::2]] == [one.comparison.swapped() for one in auto[::2]]
    assert auto[::2] == single


def test_a_limit_asks_some_of_the_same(tmp_path: Path) -> None:
    asked = {}
    for limit in (10, 30, None):
        folder = tmp_path / str(limit)
        run(configured(folder, {"max_comparisons": limit}), "sample", "rank")
        asked[limit] = {one.comparison for one in RunView(folder).joint_judgments()}
    assert [len(asked[limit]) for limit in (10, 30)] == [10, 30]
    assert asked[10] < asked[30] < asked[None]


def test_a_stopped_run_asks_nothing_again_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = run(configured(tmp_path / "whole"))
    calls = whole["rank"].usage.calls
    limited = configured(tmp_path / "killed", rank={"max_calls": calls - 20})
    with pytest.raises(LimitError, match="max_calls"):
        run(limited, "sample", "rank")
    again = run(configured(tmp_path / "killed"))
    within = sum(one.calls for one in RunView(tmp_path / "whole").rankings())
    assert within < again["rank"].replayed < calls, "stopped among the comparisons across prompts"
    assert again["rank"].usage == whole["rank"].usage
    for table in ("rankings", "judgments", "joint_judgments", "pairs"):
        assert table_hash(tmp_path / "killed" / table) == table_hash(tmp_path / "whole" / table)
    assert run(configured(tmp_path / "killed")) == again, "what is done is not done again"


def test_rankings_and_judgments_are_those_of_a_run_without(tmp_path: Path) -> None:
    run(configured(tmp_path / "with"), "sample", "rank")
    plain = configured(tmp_path / "without")
    plain = plain.model_copy(update={"rank": plain.rank.model_copy(update={"across": None})})
    run(plain, "sample", "rank")
    assert not (tmp_path / "without" / "joint_judgments").exists()
    for one, other in zip(
        RunView(tmp_path / "with").rankings(), RunView(tmp_path / "without").rankings(), strict=True
    ):
        assert one == other


def test_options_of_pairs_hold_for_them(tmp_path: Path) -> None:
    soft = {"judge": JUDGE | {"verdict": "soft"}}
    all_of_them = {"selector": {"name": "joint", "keep": "across"}, "pairs_per_prompt": 9}
    run(configured(tmp_path / "all", rank=soft, pair=all_of_them))
    sure = all_of_them | {"min_p_chosen": 0.9, "held_out_prompts": 8}
    manifests = run(configured(tmp_path / "some", rank=soft, pair=sure))
    everything, some = across_pairs(tmp_path / "all"), across_pairs(tmp_path / "some")
    assert {pair.id for pair in some} < {pair.id for pair in everything}
    assert min(pair.p_chosen or 0 for pair in some) >= 0.9
    held_out = {pair.prompt.id for pair in RunView(tmp_path / "some").pairs("heldout_pairs")}
    assert len(held_out) == 8
    for pair in some:
        assert pair.rejected_prompt is not None
        assert not {pair.prompt.id, pair.rejected_prompt.id} & held_out
    assert manifests["pair"].counts.dropped["across prompts: one of the two is not trained on"] > 0


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"pair": {"selector": {"name": "best_vs_random"}}}, "'best_vs_random' does not read"),
        (
            {"rank": {"judge": {"name": "test_rank_across:short"}}},
            "rank.across: rank.judge cannot compare answers to two prompts",
        ),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, sections: Any, says: str) -> None:
    config = configured(tmp_path / "run", train={"loss": {"name": "dpo"}}, **sections)
    with pytest.raises(ConfigError, match=says):
        check(config, through="pair")


def short(prompt: Any, completion: Any) -> float:
    """A scorer."""
    return -float(len(completion.text))
