"""Python at home: tables in and out, short words, functions as components, nothing frozen."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict

import prefine
from prefine.errors import ConfigError, DataError, NumericsError
from prefine.losses import PairLogps
from prefine.pairing.protocol import selector
from prefine.ranking import Duel, strategy
from prefine.training.sequence_logps import sequence_logps
from tiny_model import save_tiny_model

ROWS = [
    {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(6)
]
TWO_STEPS = {"max_steps": 2, "pairs_per_step": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("comfort") / "model"))


def test_pairs_survive_pandas_and_datasets() -> None:
    rated = [row | {"score_chosen": 2.5, "score_rejected": 1} for row in ROWS]
    pairs = prefine.read_pairs(rated)
    frame, dataset = pairs.to_pandas(), pairs.to_dataset()
    assert list(frame.columns[:3]) == dataset.column_names[:3] == ["prompt", "chosen", "rejected"]
    assert prefine.read_pairs(frame) == prefine.read_pairs(dataset) == pairs
    assert prefine.read_pairs(pd.DataFrame(rated)) == pairs
    assert prefine.Records().to_dataset().num_rows == len(prefine.Records().to_pandas()) == 0


def test_empty_cells_and_arrays_of_a_frame_are_plain_values(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "prompt": ["a", "b"],
            "completions": [np.array(["x", "y"]), ["z", "w"]],
            "topic": ["t", np.nan],
            "level": pd.array([1, pd.NA], dtype="Int64"),
        }
    )
    prompts, completions = prefine.read_completions(frame)
    assert [one.text for one in completions] == ["x", "y", "z", "w"]
    assert [dict(prompt.metadata) for prompt in prompts] == [
        {"topic": "t", "level": 1},
        {"topic": None, "level": None},
    ]
    assert [one.text for one in prefine.read_prompts(frame[["prompt"]])] == ["a", "b"]
    assert completions.to_pandas()["text"].tolist() == ["x", "y", "z", "w"]
    assert prompts.to_dataset()["topic"][0] == "t"


def test_which_split_is_asked() -> None:
    splits = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS))
    for read in (prefine.read_pairs, prefine.read_prompts):
        with pytest.raises(ConfigError, match=r"splits train, test; .* data\['train'\]"):
            read(splits)
    with pytest.raises(ConfigError, match="put one row in brackets"):
        prefine.read_pairs(ROWS[0])


def test_what_has_no_rows_is_refused() -> None:
    for nothing in (None, 3):
        with pytest.raises(ConfigError, match=f"expected a path, .*a list of rows, got {nothing}"):
            prefine.read_pairs(nothing)  # type: ignore[arg-type]


def test_what_a_notebook_prints_is_short() -> None:
    pairs = prefine.read_pairs([row | {"chosen": "long " * 500 + row["prompt"]} for row in ROWS])
    assert len(repr(pairs)) < 600 and "… 3 more" in repr(pairs) and "question 2" in repr(pairs)
    assert isinstance(pairs[:2], prefine.Records) and len(pairs[:2]) == 2
    assert repr(pairs[0]).startswith("PreferencePair(prompt='question 0', chosen='long long")
    assert repr(prefine.Records()) == "[]"
    assert {"prompt", "chosen", "id"} <= set(dir(pairs[0]))
    assert not [name for name in dir(pairs[0]) if name.startswith(("model_", "__"))]
    assert all(len(repr(one)) < 300 for one in (pairs[0].chosen, pairs[0].prompt))
    assert not [name for name in dir(prefine) if name.startswith("_") and name != "__version__"]


@strategy(guarantees={"best"}, max_asks=lambda m: 1, rounds=lambda m: 1)
def first_two(num_completions: int) -> Any:
    (p_first,) = yield [Duel(0, 1)]
    from prefine.ranking import Outcome

    return Outcome(champion=0 if (p_first or 0) > 0.5 else 1)


def test_strategies_selectors_and_losses_are_functions(tiny: str, tmp_path: Path) -> None:
    from prefine.pairing.protocol import Choice

    prompts, completions = prefine.read_completions(
        [{"prompt": f"q {n}", "completions": ["short", "rather longer", f"the {n}"]} for n in "abc"]
    )
    rankings = prefine.rank(
        prompts,
        completions,
        judge=lambda prompt, completion: len(completion.text),
        strategy=first_two,
        progress=False,
    )
    assert {one.strategy for one in rankings} == {f"{__name__}:first_two"}

    @selector(needs={"best"})
    def champion_first(ranking: Any) -> Any:
        loser = next(one for one in ranking.completions if one != ranking.champion)
        return [Choice(ranking.champion, loser)]

    pairs = prefine.make_pairs(prompts, completions, rankings, selector=champion_first)
    assert [pair.chosen.id for pair in pairs] == [one.champion for one in rankings]

    def mine(logps: PairLogps, *, scale: float = 1.0) -> torch.Tensor:
        return -scale * logps.margin

    with pytest.warns(UserWarning, match="only a call that gives it again can"):
        trained = prefine.train(
            tiny,
            pairs,
            output_dir=tmp_path / "run",
            settings={**TWO_STEPS, "loss": {"name": mine, "scale": 0.5}},
            progress=False,
        )
    assert trained.steps[0].loss == 0
    assert "given:mine-" in (tmp_path / "run" / "config.json").read_text()


@pytest.mark.parametrize(
    ("settings", "more", "error"),
    [
        ({"lr": 1}, {}, "settings.lr: unknown key; here it is train.learning_rate"),
        ({"loss": {"name": "dpo", "beta": -1}}, {}, r"train\.loss\.beta"),
        ({"evaluate_every": 1}, {}, r"train\.evaluate_every"),
        ({"reference": "./nowhere"}, {}, "nowhere: no such model folder"),
        ({}, {"held_out": ROWS[:1]}, "held out, too"),
        ({"loss": lambda logps: logps.margin * math.nan}, {}, "not finite"),
        ({"loss": lambda logps: logps.nothing}, {}, "nothing"),
    ],
)
@pytest.mark.filterwarnings("ignore:train.loss")
def test_a_call_that_failed_has_frozen_nothing(
    tiny: str, tmp_path: Path, settings: dict[str, Any], more: dict[str, Any], error: str
) -> None:
    kinds = (ConfigError, DataError, NumericsError, AttributeError, Exception)
    with pytest.raises(kinds, match=error):
        prefine.train(
            tiny, ROWS, output_dir=tmp_path, settings=TWO_STEPS | settings, progress=False, **more
        )
    done = prefine.train(tiny, ROWS, output_dir=tmp_path, settings=TWO_STEPS, progress=False)
    assert len(done.steps) == 2 and repr(done).startswith("Trained(path=")
    assert list(done.steps.to_pandas()["step"]) == [1, 2]


def test_training_says_how_far_it_is_unless_told_not_to(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pairs.jsonl"
    prefine.read_pairs(ROWS).to_dataset().to_json(file)
    prefine.train(tiny, file, output_dir=tmp_path / "a", settings=TWO_STEPS)
    said = capsys.readouterr().err
    assert "train: 2 steps\n" in said and "train: 2/2 steps (100%), in 0:0" in said
    prefine.train(tiny, file, output_dir=tmp_path / "b", settings=TWO_STEPS, progress=False)
    assert "steps" not in capsys.readouterr().err


def test_no_pairs_are_an_error_of_the_pairs(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pairs: there are none"):
        prefine.train(tiny, [], output_dir=tmp_path, progress=False)


def test_four_tensors_are_enough_for_dpo_and_what_is_missing_is_named() -> None:
    four = [torch.tensor([-3.0, -2.0]) * n for n in (1, 2, 3, 4)]
    logps = PairLogps(*four)
    expected = torch.nn.functional.softplus(-0.1 * (four[0] - four[2] - four[1] + four[3]))
    torch.testing.assert_close(prefine.losses.dpo(logps, beta=0.1), expected)
    assert (logps.pairs_in_step, repr(logps)) == (2, "PairLogps(2 pairs)")
    assert logps.weight.tolist() == logps.p_chosen.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"chosen_tokens; give PairLogps\(chosen_tokens=…\)"):
        prefine.losses.simpo(logps)
    counted = PairLogps(
        four[0], four[1], chosen_tokens=torch.tensor([2, 3]), rejected_tokens=torch.tensor([3, 4])
    )
    assert prefine.losses.simpo(counted).shape == (2,)
    assert counted.chosen_tokens_in_step == 5
    with pytest.raises(ValueError, match="ref_chosen"):
        prefine.losses.dpo(counted)


def test_sequence_logps_are_sums_over_the_labelled_tokens(tiny: str) -> None:
    torch.manual_seed(0)
    table = torch.randn(7, 7, requires_grad=True)
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 1, 0]])
    labels = torch.tensor([[-100, -100, 3, 4], [-100, 6, 1, -100]])

    def model(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(logits=table[input_ids])

    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}
    found = sequence_logps(model, batch)
    log = torch.log_softmax(table.detach().double(), -1)
    expected = [log[2, 3] + log[3, 4], log[5, 6] + log[6, 1]]
    assert found.tolist() == pytest.approx([float(one) for one in expected], rel=1e-6)
    found.sum().backward()
    assert table.grad is not None and table.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"batch\['labels'\]: expected input_ids with -100"):
        sequence_logps(model, {"input_ids": ids})


def test_a_warning_points_at_the_line_that_called() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.warns(UserWarning, match="duplicate pair") as caught:
        prefine.read_pairs([row, row])
    assert caught[0].filename == __file__
