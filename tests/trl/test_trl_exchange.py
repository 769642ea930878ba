"""What is written here trains in TRL unchanged, and what is written for TRL trains here."""

import json
from typing import Any

import pytest
import trl_runs as runs

import prefine
from run_place import Place

ROWS: dict[str, Any] = {
    "plain": runs.plain_rows(),
    "conversational": runs.conversations(),
    "multi-turn": runs.longer_conversations(),
}


@pytest.mark.parametrize("remove_unused_columns", [True, False])
@pytest.mark.parametrize("form", ROWS)
def test_our_pairs_train_in_trl(place: Place, form: str, remove_unused_columns: bool) -> None:
    table = runs.table(runs.walked(place, ROWS[form]))
    assert {"prompt", "chosen", "rejected"} <= set(table.column_names)
    trainer = runs.trainer(place, table, remove_unused_columns=remove_unused_columns)
    assert len(trainer.train_dataset) == len(ROWS[form])
    trainer.train()
    (first, *_) = trainer.state.log_history
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize("form", ROWS)
def test_rows_in_trls_format_train_here(place: Place, form: str) -> None:
    run = runs.walked(place, ROWS[form])
    rows = (run / "train_log.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["loss"] == pytest.approx(0.6931472, abs=1e-5)
    manifest = json.loads((run / "manifest.json").read_text())["stages"]["train"]
    assert manifest["counts"]["produced"] == len(ROWS[form])


@pytest.mark.parametrize("form", ["conversational", "multi-turn"])
def test_both_read_and_score_the_same_tokens(place: Place, form: str) -> None:
    """Of a template that ends a turn with its stop token and writes nothing behind it."""
    from prefine.config.yaml import load
    from prefine.stages.training_inputs import read_items, trainable

    run = runs.walked(place, ROWS[form])
    config = load(place.root / "run.yaml")
    ours = read_items(run / "pairs", trainable(config.policy, where="policy"), config).items
    theirs = runs.trainer(place, runs.table(run)).train_dataset
    for mine, row in zip(ours, theirs, strict=True):
        assert list(mine.prompt_ids) == row["prompt_ids"]
        assert list(mine.chosen_ids) == row["chosen_ids"]
        assert list(mine.rejected_ids) == row["rejected_ids"]


def test_a_newline_after_the_turn_is_scored_there_and_not_here(place: Place) -> None:
    """Nothing is generated after the stop token, so nothing behind it is scored here."""
    from prefine.config.yaml import load
    from prefine.stages.training_inputs import read_items, trainable

    template = place.root / "model" / "tokenizer_config.json"
    settings = json.loads(template.read_text())
    settings["chat_template"] = settings["chat_template"].replace(
        "'<|end|>' -}}", "'<|end|>\n' -}}"
    )
    template.write_text(json.dumps(settings))
    run = runs.walked(place, ROWS["conversational"])
    config = load(place.root / "run.yaml")
    policy = trainable(config.policy, where="policy")
    ours = read_items(run / "pairs", policy, config).items
    theirs = runs.trainer(place, runs.table(run)).train_dataset
    for mine, row in zip(ours, theirs, strict=True):
        assert list(mine.chosen_ids) == row["chosen_ids"][:-1]
        assert policy.tokenizer.decode(row["chosen_ids"][-2:]) == "<|end|>\n"


@pytest.mark.parametrize("form", ["conversational", "multi-turn"])
def test_implicit_prompts_are_the_same_pairs(form: str) -> None:
    explicit = ROWS[form]
    implicit = [
        {side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in explicit
    ]
    assert [pair.id for pair in prefine.read_pairs(implicit)] == [
        pair.id for pair in prefine.read_pairs(explicit)
    ]
