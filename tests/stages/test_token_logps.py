"""The table of held-out answers' tokens through the command: texts, values, resumed runs."""

import json
import shutil
from pathlib import Path

import pytest
from test_evaluations_pipeline import StopsAfter

from command import prefine
from prefine.config.yaml import load
from prefine.errors import DataError, Interrupted
from prefine.models.hf.backend import HfModel
from prefine.records import SCHEMA_VERSION, AnswerTokens
from prefine.run.folder import RunFolder
from prefine.run.view import TOKEN_LOGPS, RunView
from prefine.stages.pipeline import run_stage
from run_place import OK, PAIRS, Place

HELD_OUT = PAIRS | {
    "pair.held_out_prompts": 2,
    "train.max_steps": 4,
    "train.epochs": 4,
    "train.pairs_per_step": 2,
    "train.learning_rate": 0.05,
    "train.checkpoint_every": 2,
}


def _table(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / TOKEN_LOGPS).iterdir()}


def test_tokens_are_the_text_and_values_those_of_the_logs(place: Place) -> None:
    place.change(HELD_OUT)
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err
    run = RunView(place.root / "run")
    pairs = {pair.id: pair for pair in run.pairs("heldout_pairs")}
    kept = list(run.token_logps())
    assert len(pairs) == 2 and len(kept) == 4
    stop = HfModel(path=str(place.root / "model")).tokenizer.eos_token
    changes = []
    for one in kept:
        pair = pairs[one.item_id]
        answer = getattr(pair, one.role)
        assert (one.prompt_id, one.completion_id) == (pair.prompt.id, answer.id)
        assert "".join(one.tokens) == answer.text + stop
        assert all(value < 0 for value in one.logps + one.initial_logps)
        if one.role == "chosen":
            changes.append(sum(one.logps) - sum(one.initial_logps))
    last = run.log("eval_log.jsonl")[-1]
    assert last["step"] == 4
    assert sum(changes) / 2 == pytest.approx(last["chosen_change"], abs=1e-4)

    # An interrupted training ends with the same bytes.
    whole = _table(run.path)
    shutil.rmtree(run.path)
    config = load(Path("run.yaml"))
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        run_stage("pair", config, folder, StopsAfter(100))
        with pytest.raises(Interrupted):
            run_stage("train", config, folder, StopsAfter(3))
        assert not (run.path / TOKEN_LOGPS).exists()
        assert list(run.token_logps()) == [], "as in a run of an earlier version"
        run_stage("train", config, folder, StopsAfter(100))
    assert _table(run.path) == whole


def test_a_table_that_does_not_fit_is_named(place: Place) -> None:
    row = {
        "prompt_id": "p",
        "completion_id": "c",
        "item_id": "i",
        "role": "chosen",
        "tokens": ["a", "b"],
        "logps": [-1.0],
        "initial_logps": [-1.0, -2.0],
    }
    with pytest.raises(ValueError, match="2 tokens, 1 and 2 log-probabilities"):
        AnswerTokens.model_validate(row)
    from prefine.run.tables import write_part

    run = place.root / "other"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "config": {}}))
    write_part(run / TOKEN_LOGPS / "part-00000.parquet", TOKEN_LOGPS, [row], key="k")
    with pytest.raises(DataError, match=r"(?s)other/heldout_tokens: .*2 tokens"):
        list(RunView(run).token_logps())
