"""The loop: bit-identical resumption, refusals, and stopping before a bad update."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from prefine.errors import ConfigError, DataError, Interrupted, NumericsError
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.ipo import ipo
from prefine.losses.protocol import LossFunction, PairLogps, declare
from prefine.losses.regularizers.budget import budget
from prefine.schedules import learning_rate_factor
from prefine.training import checkpoints
from prefine.training.forward.passes import Forward
from prefine.training.logging.figures import TrainSummary
from prefine.training.loop import train
from prefine.training.objective.item_table import ItemTable
from prefine.training.reference.models import ReferenceModel
from prefine.training.reference.scoring import score_completions, score_tokens
from prefine.training.relations.choose import named_relation
from prefine.training.relations.pair_rows import StepRow
from prefine.training.relations.pairs import CHOSEN

EXAMPLES = tiny.examples()
STEPS = 9
BUDGET = partial(budget, delta=0.05)


def _train(
    folder: Path,
    model: torch.nn.Module | None = None,
    *,
    loss: LossFunction = dpo,
    run_key: str = "key",
    **options: Any,
) -> TrainSummary:
    settings = options.pop("settings", {})
    return train(
        tiny.model(dtype=torch.float32) if model is None else model,
        EXAMPLES,
        tiny.config(**settings),
        loss=loss,
        out_dir=folder,
        run_key=run_key,
        **{"regularizer": BUDGET, **options},
    )


def _after(rows: int) -> tuple[Callable[[StepRow], None], Callable[[], bool]]:
    """Stop when so many rows were written."""
    seen: list[StepRow] = []
    return seen.append, lambda: len(seen) >= rows


def _interrupted(folder: Path, after: int) -> None:
    on_step, should_stop = _after(after)
    with pytest.raises(Interrupted, match=f"step {after} of {STEPS}"):
        _train(folder, on_step=on_step, should_stop=should_stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor], TrainSummary]:
    """A training that nobody interrupted."""
    folder, model = tmp_path_factory.mktemp("whole"), tiny.model(dtype=torch.float32)
    summary = _train(folder, model)
    return folder, tiny.weights(model), summary


def _assert_same(
    folder: Path, model: torch.nn.Module, whole: tuple[Path, dict[str, Tensor], TrainSummary]
) -> None:
    assert tiny.log(folder) == tiny.log(whole[0])
    assert (folder / "train_final.json").read_bytes() == (
        whole[0] / "train_final.json"
    ).read_bytes()
    for name, weight in tiny.weights(model).items():
        assert torch.equal(weight, whole[1][name]), name


def test_rows_say_what_happened(whole: tuple[Path, dict[str, Tensor], TrainSummary]) -> None:
    rows = [StepRow.model_validate_json(line) for line in tiny.log(whole[0]).splitlines()]
    assert [row.step for row in rows] == list(range(1, STEPS + 1))
    assert [row.epoch for row in rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [row.pairs for row in rows] == [3, 3, 1] * 3
    assert sum(row.tokens for row in rows[:3]) == sum(
        len(e.chosen_ids) + len(e.rejected_ids) for e in EXAMPLES
    )
    assert rows[0].loss == pytest.approx(0.6931472, abs=1e-6)
    assert rows[0].fall == pytest.approx(0, abs=1e-5)
    assert rows[-1].margin > 1
    for row in rows:
        assert row.objective == pytest.approx(row.loss + 0.1 * row.regularizer, rel=1e-6)
        assert row.fall == pytest.approx(-row.chosen_change)
        assert row.margin == pytest.approx(row.chosen_change - row.rejected_change, abs=1e-5)
        assert row.fall_q10 <= row.fall_q50 <= row.fall_q90


def test_final_figures_are_exact_over_all_pairs(
    whole: tuple[Path, dict[str, Tensor], TrainSummary],
) -> None:
    final = whole[2].final
    trained, start = tiny.model(dtype=torch.float32), tiny.model(dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            parameter.copy_(whole[1][name])
    initial = score_completions(Forward(start), EXAMPLES)
    table = ItemTable.of(named_relation("pairs"), EXAMPLES, {"initial": initial})
    logps = table.join(score_completions(Forward(trained), EXAMPLES), table.totals())
    fall = initial[CHOSEN] - logps.policy_chosen
    assert final.pairs == whole[2].items == 7
    assert final.fall == pytest.approx(float(fall.mean()), abs=1e-5)
    assert final.fall_se == pytest.approx(float(fall.std()) / 7**0.5, rel=1e-4)
    assert final.margin == pytest.approx(float(logps.margin.mean()), rel=1e-5)
    assert final.accuracy == float((logps.margin > 0).float().mean())
    assert final.beyond_budget == pytest.approx(float((fall > 0.05).double().mean()))
    stored = json.loads((whole[0] / "train_final.json").read_text())
    assert stored["final"] == final.model_dump()


def test_training_twice_gives_the_same_bytes(whole: Any, tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.float32)
    _train(tmp_path, model)
    _assert_same(tmp_path, model, whole)


def test_a_loss_that_draws_numbers_draws_those_of_the_seed(tmp_path: Path) -> None:
    @declare(kind="coupled")
    def noisy(logps: PairLogps) -> Tensor:
        return dpo(logps) * (1 + torch.rand(1, dtype=torch.float64))

    def log(name: str, before: int, seed: int = 5) -> bytes:
        model = tiny.model()
        torch.manual_seed(before)
        _train(tmp_path / name, model, loss=noisy, settings={"max_steps": 2, "seed": seed})
        return tiny.log(tmp_path / name)

    assert log("one", 1) == log("two", 2)
    assert log("three", 1, seed=6) != log("one", 1)


@pytest.mark.parametrize("after", [1, 4, 8])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    whole: Any, tmp_path: Path, after: int
) -> None:
    _interrupted(tmp_path, after)
    assert len(tiny.log(tmp_path).splitlines()) == after
    model = tiny.model(dtype=torch.float32)
    assert _train(tmp_path, model).resumed_from == after
    _assert_same(tmp_path, model, whole)


def test_rows_after_the_checkpoint_are_cut_off(whole: Any, tmp_path: Path) -> None:
    _interrupted(tmp_path, 4)
    with (tmp_path / "train_log.jsonl").open("ab") as log:
        log.write(b'{"step": 5, "half a row')
    model = tiny.model(dtype=torch.float32)
    _train(tmp_path, model)
    _assert_same(tmp_path, model, whole)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.safetensors", "state.json", "hashes.json"]
)
@pytest.mark.parametrize("damage", ["torn", "flipped", "missing"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    whole: Any, tmp_path: Path, file: str, damage: str
) -> None:
    _interrupted(tmp_path, 5)
    newest = tmp_path / "checkpoints" / "step-00005" / file
    content = bytearray(newest.read_bytes())
    if damage == "missing":
        newest.unlink()
    elif damage == "torn":
        newest.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        newest.write_bytes(content)
    model = tiny.model(dtype=torch.float32)
    summary = _train(tmp_path, model)
    assert summary.resumed_from == 4
    assert "step-00005 is damaged" in summary.notes[0]
    _assert_same(tmp_path, model, whole)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00008",
        "step-00009",
    ]


def test_a_finished_run_is_not_trained_again(whole: Any, tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    model = tiny.model(dtype=torch.float32)
    rows: list[StepRow] = []
    summary = _train(tmp_path, model, on_step=rows.append)
    assert (summary.resumed_from, summary.reference_reused, rows) == (STEPS, True, [])
    _assert_same(tmp_path, model, whole)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    _interrupted(tmp_path, 2)
    before = tiny.log(tmp_path)
    with pytest.raises(ConfigError, match="another configuration"):
        _train(tmp_path, run_key="other")
    assert tiny.log(tmp_path) == before


def test_a_lost_log_is_not_papered_over(tmp_path: Path) -> None:
    _interrupted(tmp_path, 3)
    (tmp_path / "train_log.jsonl").unlink()
    with pytest.raises(DataError, match="has 0 rows, its newest checkpoint is of step 3"):
        _train(tmp_path)


def _save(folder: Path, step: int, *, keep: int) -> None:
    weights = tiny.weights(tiny.model())
    checkpoint = checkpoints.Checkpoint(step, weights, {}, torch.get_rng_state(), {}, 9)
    checkpoints.save(folder, checkpoint, run_key="k", keep=keep)


def test_old_checkpoints_are_deleted_only_when_the_new_one_stands(tmp_path: Path) -> None:
    (tmp_path / ".step-00009.1.tmp").mkdir()
    for step in range(1, 5):
        _save(tmp_path, step, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00002",
        "step-00003",
        "step-00004",
    ]


def test_a_damaged_later_checkpoint_never_crowds_out_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "step-00006").mkdir()
    _save(tmp_path, 5, keep=1)
    found, _ = checkpoints.load_newest(tmp_path, run_key="k")
    assert found is not None and found.step == 5


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_training_stops_before_an_update_that_is_not_finite(tmp_path: Path, where: str) -> None:
    before: dict[str, Tensor] = {}
    model = tiny.model(dtype=torch.float32)
    calls = 0

    @declare()
    def breaks(logps: PairLogps) -> Tensor:
        nonlocal calls
        calls += 1
        # The head takes all pairs of the first step together.
        if calls < 2:
            return dpo(logps)
        if where == "loss":
            return dpo(logps) * torch.tensor([torch.nan])
        zero = logps.policy_chosen - logps.policy_chosen.detach()
        return dpo(logps) + zero.abs().sqrt()

    def keep(row: StepRow) -> None:
        before.clear()
        before.update(tiny.weights(model))

    with pytest.raises(
        NumericsError, match=r"step 2: the (loss|gradient).*no update was made.*pair-\d"
    ):
        _train(tmp_path, model, loss=breaks, on_step=keep)
    assert len(tiny.log(tmp_path).splitlines()) == 1
    for name, weight in tiny.weights(model).items():
        assert torch.equal(weight, before[name])


def test_a_wrong_reference_is_noticed_at_the_first_step(tmp_path: Path) -> None:
    _train(tmp_path, settings={"max_steps": 1})
    (stored,) = (tmp_path / "reference").rglob("*.safetensors")
    other = score_tokens(Forward(tiny.model(seed=3, dtype=torch.float32)), EXAMPLES)
    save_file({"logps": other.values.logps, "lengths": other.lengths}, stored)
    shutil.rmtree(tmp_path / "checkpoints")
    model = tiny.model(dtype=torch.float32)
    before = tiny.weights(model)
    with pytest.raises(NumericsError, match=r"its own reference.*pair-\d"):
        _train(tmp_path, model)
    assert all(torch.equal(weight, before[name]) for name, weight in tiny.weights(model).items())


def test_a_named_reference_is_used_and_the_budget_stays_with_the_initial_policy(
    tmp_path: Path,
) -> None:
    rows: list[StepRow] = []
    reference = tiny.model(seed=4, dtype=torch.float32)
    _train(
        tmp_path,
        references=[ReferenceModel(lambda: reference)],
        loss=ipo,
        on_step=rows.append,
        settings={"max_steps": 1},
    )
    assert abs(rows[0].margin) > 0.1
    assert rows[0].fall == pytest.approx(0, abs=1e-5)
    assert len(list((tmp_path / "reference").rglob("*.safetensors"))) == 2


def test_weights_of_bfloat16_are_trained_in_float32(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.bfloat16)
    _train(tmp_path, model, settings={"dtype": "bfloat16", "max_steps": 2})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_without_a_regularizer_there_is_no_budget_to_exceed(tmp_path: Path) -> None:
    summary = _train(tmp_path, regularizer=None, settings={"max_steps": 1, "max_grad_norm": None})
    assert summary.final.beyond_budget is None


def test_dropout_is_off(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.float32)
    model.train()
    _train(tmp_path, model, settings={"max_steps": 1})
    assert not model.training


def test_a_pair_that_is_too_long_for_the_model_is_refused(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.float32)
    model.config.max_position_embeddings = 8
    with pytest.raises(ConfigError, match=r"positions, the model reads 8"):
        _train(tmp_path, model)


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(
            tiny.model(),
            [],
            tiny.config(),
            loss=dpo,
            regularizer=None,
            out_dir=tmp_path,
            run_key="k",
        )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25])],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    found = [
        learning_rate_factor(step, steps=6, schedule=schedule, warmup_fraction=1 / 3)
        for step in range(6)
    ]
    assert found == pytest.approx(expected)


def test_cosine_schedule_falls_to_half_in_the_middle() -> None:
    found = [
        learning_rate_factor(step, steps=4, schedule="cosine", warmup_fraction=0.0)
        for step in range(4)
    ]
    assert found[0] == 1
    assert found[2] == pytest.approx(0.5)
    assert found[3] > 0


def test_every_weight_is_trained_and_only_matrices_decay(tmp_path: Path) -> None:
    model, decayed = tiny.model(dtype=torch.float32), tiny.model(dtype=torch.float32)
    before = tiny.weights(model)
    _train(tmp_path / "a", model, settings={"max_steps": 1})
    _train(tmp_path / "b", decayed, settings={"max_steps": 1, "weight_decay": 0.5})
    for name, weight in tiny.weights(model).items():
        assert not torch.equal(weight, before[name]), name
        assert torch.equal(weight, tiny.weights(decayed)[name]) == (weight.dim() < 2), name
