"""Stages `sample`, `rank` and `pair` over a scripted model and judges that need no call to
anybody.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefine.config.yaml import validate
from prefine.errors import ConfigError, DataError, LimitError
from prefine.judges.playground import PlaygroundJudge
from prefine.records import Completion, Manifest, PreferencePair, Prompt, Ranking
from prefine.run.folder import RunFolder
from prefine.run.item_rows import pair_of
from prefine.run.rows import completion_of, ranking_of
from prefine.run.tables import parts, read_part
from prefine.stages.check import check
from prefine.stages.pipeline import run_stage
from prefine.stages.plan import plan
from prefine.stages.stage_run import Silent

REPLIES = ["the kettle is bright .", "tea is warm .", "{prompt}", "i like tea . i like tea .", "no"]


def run_stages(tmp_path: Path, **sections: Any) -> dict[str, Manifest]:
    values: dict[str, Any] = {
        "run_dir": str(tmp_path / "run"),
        "policy": {"name": "scripted", "replies": REPLIES},
        "prompts": {"name": "playground", "count": 40},
        "sample": {"completions_per_prompt": 4, "shard_prompts": 16},
        "rank": {"judge": {"name": "playground", "accuracy": 1.0}},
    }
    config = validate(values | sections, where="test")
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        return {
            stage: run_stage(stage, config, folder, Silent())
            for stage in ("sample", "rank", "pair")
        }


def rows(tmp_path: Path, table: str) -> list[dict[str, Any]]:
    return [row for path in parts(tmp_path / "run" / table) for row in read_part(path)]


def rankings(tmp_path: Path) -> list[Ranking]:
    return [ranking_of(row) for row in rows(tmp_path, "rankings")]


def pairs(tmp_path: Path) -> list[PreferencePair]:
    return [pair_of(row) for row in rows(tmp_path, "pairs")]


def test_counts_add_up(tmp_path: Path) -> None:
    manifests = run_stages(tmp_path)
    sample, rank, pair = (manifests[stage].counts for stage in ("sample", "rank", "pair"))
    assert (sample.taken, sample.produced, sample.failed) == (40, 160, {})
    assert (
        rank.taken == 40 == rank.produced + sum(rank.dropped.values()) + sum(rank.failed.values())
    )
    assert set(rank.dropped) <= {"all completions identical"}
    assert pair.taken == rank.produced
    assert pair.produced + pair.dropped.get("no pair selected", 0) == pair.taken
    assert len(rows(tmp_path, "pairs")) == pair.produced
    assert len(list(parts(tmp_path / "run" / "completions"))) == 3


def test_a_sure_judge_finds_the_best(tmp_path: Path) -> None:
    from prefine.playground.world import gold

    run_stages(tmp_path)
    texts = {}
    for row in rows(tmp_path, "completions"):
        prompt, completion = completion_of(row)
        texts[completion.id] = gold(prompt.text, completion.text)
    for ranking in rankings(tmp_path):
        assert ranking.champion is not None
        assert texts[ranking.champion] == pytest.approx(
            max(texts[id_] for id_ in ranking.completions)
        )
    for pair in pairs(tmp_path):
        assert texts[pair.chosen.id] >= texts[pair.rejected.id]


def test_equal_answers_are_merged_and_never_judged(tmp_path: Path) -> None:
    manifests = run_stages(tmp_path, sample={"completions_per_prompt": 8})
    for row in rows(tmp_path, "completions"):
        completion_of(row)
    for ranking in rankings(tmp_path):
        assert 2 <= len(ranking.completions) <= len(REPLIES)
        assert len(
            {duel.first for duel in ranking.duels} | {duel.second for duel in ranking.duels}
        ) <= len(REPLIES)
    for pair in pairs(tmp_path):
        assert pair.chosen.text != pair.rejected.text
    assert manifests["rank"].usage.calls == sum(ranking.calls for ranking in rankings(tmp_path))


def test_a_plan_is_an_upper_bound(tmp_path: Path, tiny_model_folder: Path) -> None:
    made = run_stages(tmp_path)["rank"].usage.calls
    config = validate(
        {
            "run_dir": str(tmp_path / "other"),
            "policy": {"name": "hf", "path": str(tiny_model_folder)},
            "prompts": {"name": "playground", "count": 40},
            "sample": {"completions_per_prompt": 4, "max_new_tokens": 8},
            "rank": {"judge": {"name": "playground"}},
        },
        where="test",
    )
    lines = dict(plan(config).lines)
    assert lines["completions to sample"] == "160"
    assert made <= int(lines["judge calls, at most"].replace(",", ""))


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    first = run_stages(tmp_path)
    assert run_stages(tmp_path) == first


def test_strategies_and_selectors_meet(tmp_path: Path) -> None:
    judge = {"name": "playground", "accuracy": 1.0, "first_slot_bias": 0.0}
    rank = {"strategy": {"name": "round_robin"}, "judge": judge}
    run_stages(tmp_path, rank=rank, pair={"selector": {"name": "best_vs_worst"}})
    for ranking in rankings(tmp_path):
        assert ranking.order is not None
        assert sorted(ranking.order) == sorted(ranking.completions)
        assert (ranking.order[0], ranking.order[-1]) == (ranking.champion, ranking.worst)


def test_the_control_swaps_about_half(tmp_path: Path) -> None:
    run_stages(tmp_path / "a", prompts={"name": "playground", "count": 200})
    shuffled = {"labels": "shuffled"}
    run_stages(tmp_path / "b", prompts={"name": "playground", "count": 200}, pair=shuffled)
    judged = {
        (pair.chosen.text, pair.rejected.text, pair.prompt.id) for pair in pairs(tmp_path / "a")
    }
    kept = [(p.chosen.text, p.rejected.text, p.prompt.id) in judged for p in pairs(tmp_path / "b")]
    assert 0.35 < sum(kept) / len(kept) < 0.65
    assert all(
        p.p_chosen is None for p, same in zip(pairs(tmp_path / "b"), kept, strict=True) if not same
    )


def test_held_out_prompts_are_kept_apart(tmp_path: Path) -> None:
    run_stages(tmp_path, pair={"held_out_prompts": 5, "selector": {"name": "best_vs_random"}})
    trained = {pair.prompt.id for pair in pairs(tmp_path)}
    held = {pair_of(row).prompt.id for row in rows(tmp_path, "heldout_pairs")}
    assert trained
    assert not trained & held
    assert len(held) <= 5


def test_another_seed_meets_the_completions_in_another_order(tmp_path: Path) -> None:
    judge = {"name": "playground", "accuracy": 1.0}
    run_stages(tmp_path / "a", rank={"judge": judge, "seed": 0})
    run_stages(tmp_path / "b", rank={"judge": judge, "seed": 1})
    orders = Counter(
        one.completions == other.completions
        for one, other in zip(rankings(tmp_path / "a"), rankings(tmp_path / "b"), strict=True)
    )
    assert orders[False] > orders[True]


def test_a_judge_that_cannot_work_is_found_before_a_call(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="playground train prompt 0"):
        run_stages(tmp_path, rank={"judge": {"name": "recorded"}})
    assert not (tmp_path / "run" / "rankings").exists()


PAIRWISE = {
    "name": "pairwise",
    "answer": "text",
    "model": {"name": "scripted", "replies": ["It is a tie."]},
}


def long(prompt: Prompt, completion: Completion) -> float:
    """A scorer: the longer the better."""
    return float(len(completion.text))


def unsure(prompt: Prompt, completion: Completion) -> float | None:
    """A scorer that cannot say anything about an answer with tea."""
    return None if "tea" in completion.text else 1.0


def test_ratings_of_a_judge_that_can_rate(tmp_path: Path) -> None:
    rank = {"strategy": {"name": "pointwise"}, "judge": {"name": "playground", "accuracy": 0.8}}
    manifests = run_stages(tmp_path, rank=rank, pair={"selector": {"name": "best_vs_worst"}})
    judge = PlaygroundJudge(accuracy=0.8)
    answers: dict[str, tuple[Prompt, Completion]] = {}
    for row in rows(tmp_path, "completions"):
        prompt, completion = completion_of(row)
        answers[completion.id] = prompt, completion
    for ranking in rankings(tmp_path):
        assert ranking.scores == pytest.approx(
            [judge.score(*answers[id_]) for id_ in ranking.completions]
        )
        assert ranking.order is not None and ranking.champion == ranking.order[0]
        assert ranking.calls == len(ranking.completions)
        assert (ranking.duels, ranking.failed_calls) == ((), 0)
    assert manifests["rank"].usage.calls == sum(ranking.calls for ranking in rankings(tmp_path))
    assert (
        run_stages(tmp_path, rank=rank, pair={"selector": {"name": "best_vs_worst"}}) == manifests
    )


def test_ratings_of_a_scorer_and_duels_of_the_judge(tmp_path: Path) -> None:
    judge = {"name": "playground", "accuracy": 1.0}
    rank = {
        "strategy": {"name": "score_then_duel", "k": 2},
        "judge": judge,
        "scorer": {"name": f"{__name__}:long"},
    }
    manifests = run_stages(tmp_path, rank=rank)
    texts = {
        completion.id: completion.text
        for _, completion in map(completion_of, rows(tmp_path, "completions"))
    }
    for ranking in rankings(tmp_path):
        longest = sorted((len(texts[id_]) for id_ in ranking.completions), reverse=True)[:2]
        met = {id_ for duel in ranking.duels for id_ in (duel.first, duel.second)}
        assert sorted((len(texts[id_]) for id_ in met), reverse=True) == longest
        assert len(ranking.duels) == 2
        assert ranking.calls == 2 + len(ranking.completions)
    assert manifests["rank"].usage.calls == sum(ranking.calls for ranking in rankings(tmp_path))
    assert manifests["rank"].input_hashes.keys() == {"completions", "judge", "scorer"}


def test_another_scorer_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    rank = {
        "strategy": {"name": "pointwise"},
        "judge": {"name": "playground"},
        "scorer": {"name": f"{__name__}:long"},
    }
    run_stages(tmp_path, rank=rank)
    with pytest.raises(ConfigError, match=r"rank\.scorer"):
        run_stages(tmp_path, rank={**rank, "scorer": None})


def test_failed_ratings_are_counted_and_limited(tmp_path: Path) -> None:
    strategy = {"name": "score_then_duel"}
    rank = {
        "strategy": strategy,
        "judge": {"name": "playground"},
        "scorer": {"name": f"{__name__}:unsure"},
    }
    with pytest.raises(LimitError, match="the scorer gave no score"):
        run_stages(tmp_path / "strict", rank=rank)
    manifest = run_stages(tmp_path, rank={**rank, "max_failed_fraction": 1.0})["rank"]
    assert any("ratings failed and count as missing" in note for note in manifest.notes)
    assert manifest.counts.taken == manifest.counts.produced + sum(
        manifest.counts.dropped.values()
    ) + sum(manifest.counts.failed.values())
    texts = {
        completion.id: completion.text
        for _, completion in map(completion_of, rows(tmp_path, "completions"))
    }
    for ranking in rankings(tmp_path):
        assert ranking.failed_calls == sum("tea" in texts[id_] for id_ in ranking.completions)
        assert ranking.champion is not None and "tea" not in texts[ranking.champion]


@pytest.mark.parametrize(
    ("rank", "says"),
    [
        (
            {"strategy": {"name": "pointwise"}, "judge": PAIRWISE},
            "'pointwise' asks for ratings.*give rank.scorer",
        ),
        (
            {
                "strategy": {"name": "pointwise"},
                "judge": {"name": "playground"},
                "scorer": PAIRWISE,
            },
            "rank.scorer: this judge only compares",
        ),
        (
            {"judge": {"name": "playground"}, "scorer": {"name": f"{__name__}:long"}},
            "rank.scorer: strategy 'iterative' asks for no ratings",
        ),
        (
            {"judge": {"name": "playground"}, "scorer": {"name": "wise"}},
            "rank.scorer.name: unknown judge 'wise'",
        ),
    ],
)
def test_ratings_that_nobody_gives_or_wants_are_found_before_a_call(
    rank: dict[str, Any], says: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    policy = {"name": "hf", "path": str(tiny_model_folder)}
    values = {
        "run_dir": str(tmp_path / "run"),
        "policy": policy,
        "prompts": {"name": "playground", "count": 4},
    }
    config = validate(values | {"sample": {}, "rank": rank}, where="test")
    with pytest.raises(ConfigError, match=says):
        check(config)
    with pytest.raises(ConfigError, match=says):
        run_stages(tmp_path, rank=rank)
    assert not (tmp_path / "run" / "rankings").exists()


def hesitant(prompt: Prompt, completion: Completion) -> float:
    """A scorer that takes its time, and more for some answers than for others."""
    time.sleep(0.002 * (hash(completion.id) % 7))
    return float(hash((prompt.text, completion.text)) % 10)


def hesitant_in_threads(prompt: Prompt, completion: Completion) -> float:
    """The same, called from several threads."""
    return hesitant(prompt, completion)


hesitant_in_threads.concurrency = 8  # type: ignore[attr-defined]


@pytest.mark.parametrize("strategy", ["iterative", "merge", "eubo", "score_then_duel"])
def test_rankings_do_not_depend_on_how_many_prompts_ask_at_a_time(
    tmp_path: Path, strategy: str
) -> None:
    found = []
    for function in ("hesitant", "hesitant_in_threads"):
        judge = {"name": f"{__name__}:{function}"}
        rank = {"strategy": {"name": strategy}, "judge": judge}
        manifests = run_stages(tmp_path / function, rank=rank)
        found.append((rows(tmp_path / function, "rankings"), manifests["rank"].usage))
        assert len(list(parts(tmp_path / function / "run" / "rankings"))) == 3
    assert found[0] == found[1]
