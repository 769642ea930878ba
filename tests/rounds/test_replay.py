"""Items of earlier rounds among those of a round: how many, which, and with what weights."""

from pathlib import Path

import pytest

from prefine.config.base import Component, WeighedSource
from prefine.config.rounds import LineageConfig, ReplayConfig
from prefine.config.sections import BridgeConfig, PairConfig, RunConfig
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.run.item_rows import bridged_row, pair_row
from prefine.run.tables import TableWriter
from prefine.stages.replay import replayed

MODEL = Component(name="hf", path="model")


def pair(number: int) -> PreferencePair:
    prompt = Prompt.model_validate(
        {"id": f"p{number}", "messages": [{"role": "user", "content": f"question {number}"}]}
    )
    chosen, rejected = (
        Completion(
            id=f"{number}-{text}",
            prompt_id=prompt.id,
            sample_index=index,
            message=Message(role="assistant", content=text),
        )
        for index, text in enumerate(("good", "bad"))
    )
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected)


def table(folder: Path, numbers: range) -> None:
    with TableWriter(folder / "pairs", "pairs") as writer:
        writer.write([pair_row(pair(number)) for number in numbers], key="key")


def config(folder: Path, number: int, replay: ReplayConfig, seed: int = 0) -> RunConfig:
    return RunConfig(
        run_dir=folder / f"round-{number:02d}",
        policy=MODEL,
        pairs=WeighedSource(name="file", path="unused.jsonl"),
        pair=PairConfig(replay=replay, seed=seed),
        lineage=LineageConfig(round=number, initial=MODEL),
    )


def drawn(found: RunConfig, own: int, without: set[str] | None = None) -> list[str]:
    return [one.prompt.id for one in replayed(found, "pairs", own=own, without=without or set())]


def test_a_quarter_is_a_third_of_its_own_and_held_out_prompts_are_not_drawn(
    tmp_path: Path,
) -> None:
    table(tmp_path / "round-01", range(20))
    found = config(tmp_path, 2, ReplayConfig(share=0.25))
    ids = drawn(found, own=30)
    assert len(ids) == len(set(ids)) == 10
    assert drawn(found, own=30) == ids
    assert drawn(config(tmp_path, 2, ReplayConfig(share=0.25), seed=1), own=30) != ids
    assert not set(ids[:5]) & set(drawn(found, own=30, without=set(ids[:5])))
    assert len(drawn(found, own=3000)) == 20, "no more than there are"


def test_a_pair_of_two_prompts_is_not_drawn_if_one_of_them_is_held_out(tmp_path: Path) -> None:
    joint = pair(1).model_copy(update={"rejected_prompt": pair(2).prompt})
    with TableWriter(tmp_path / "round-01" / "pairs", "pairs") as writer:
        writer.write([pair_row(joint)], key="key")
    found = config(tmp_path, 2, ReplayConfig(share=0.5))
    assert drawn(found, own=1) == ["p1"]
    assert drawn(found, own=1, without={"p2"}) == []


def test_of_a_run_with_a_bridge_the_bridged_pairs_are_drawn(tmp_path: Path) -> None:
    before = pair(1)
    new = before.chosen.model_copy(update={"id": "new"})
    bridged = before.model_copy(update={"chosen": new, "bridged_from": before.chosen})
    table(tmp_path / "round-01", range(1, 2))
    with TableWriter(tmp_path / "round-01" / "bridged_pairs", "bridged_pairs") as writer:
        writer.write([bridged_row(bridged, "bridged")], key="key")
    found = config(tmp_path, 2, ReplayConfig(share=0.5))
    section = BridgeConfig(model=Component(name="playground"), judge=None)
    with_bridge = found.model_copy(update={"bridge": section})
    assert list(replayed(with_bridge, "pairs", own=1, without=set())) == [bridged]
    assert list(replayed(found, "pairs", own=1, without=set())) == [before]


@pytest.mark.parametrize(("by", "expected"), [("age", 2 / 3), ("use", 0.5)])
def test_weights_are_by_age_or_by_use(tmp_path: Path, by: str, expected: float) -> None:
    """Of two rounds of equal size, the later one is drawn twice as often by age; by use alike."""
    table(tmp_path / "round-01", range(30))
    table(tmp_path / "round-02", range(30, 60))
    replay = ReplayConfig.model_validate({"share": 0.5, "by": by})
    later = [
        int(id_[1:]) >= 30
        for seed in range(80)
        for id_ in drawn(config(tmp_path, 3, replay, seed), own=3)
    ]
    # Four standard errors of 240 draws.
    assert sum(later) / len(later) == pytest.approx(expected, abs=4 * 0.032)


def test_an_item_that_was_replayed_before_is_drawn_less_often(tmp_path: Path) -> None:
    table(tmp_path / "round-01", range(30))
    table(tmp_path / "round-02", range(15))  # replayed there
    replay = ReplayConfig(share=0.5, by="use")
    once = [
        int(id_[1:]) >= 15
        for seed in range(80)
        for id_ in drawn(config(tmp_path, 3, replay, seed), own=3)
    ]
    # Weights 1/2 and 1/3.
    assert sum(once) / len(once) == pytest.approx(0.6, abs=4 * 0.032)
