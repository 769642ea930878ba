"""Configurations in which every component states its options."""

from typing import Any

from prefine.config.filled import filled_in, with_options
from prefine.config.sections import RunConfig


def test_options_of_components_in_components_are_filled_in() -> None:
    values: dict[str, Any] = {
        "run_dir": "somewhere",
        "policy": "org/model",
        "prompts": {"name": "playground"},
        "sample": {"completions_per_prompt": 4},
        "rank": {"judge": {"name": "pairwise", "model": {"name": "playground"}}},
        "train": {
            "loss": {"name": "mixture", "losses": [{"name": "dpo"}, {"name": "simpo", "beta": 3}]},
            "regularizer": "budget",
            "regularizer_weight": "auto",
            "reference": ["initial", {"name": "hf", "path": "org/other", "weight": 0.25}],
        },
    }
    found: Any = filled_in(RunConfig.model_validate(values))
    assert found["policy"] == {
        "name": "hf", "path": "org/model", "dtype": "auto", "device": "auto", "batch_rows": 128,
        "label": None, "chat_template": None, "system": "own", "date": None,
    }  # fmt: skip
    assert found["rank"]["judge"]["model"] == {"name": "playground"}
    assert found["rank"]["judge"]["temperature"] == 0.0
    train = found["train"]
    dpo, simpo = train["loss"]["losses"]
    assert dpo == {"name": "dpo", "beta": 0.1, "label_smoothing": 0.0}
    assert simpo == {"name": "simpo", "beta": 3, "gamma": 1.6}
    assert train["regularizer"]["anchor"] == "chosen"  # an option of the automatic budget
    initial, other = train["reference"]
    assert initial == "initial"
    assert (other["weight"], other["dtype"]) == (0.25, "auto")


def test_stated_options_stay_as_they_are() -> None:
    schedule = {"schedule": "linear", "start": 0.1, "end": 0.01}
    found = with_options("loss", {"name": "dpo", "beta": schedule}, where="train.loss")
    assert found == {"name": "dpo", "beta": schedule, "label_smoothing": 0.0}
