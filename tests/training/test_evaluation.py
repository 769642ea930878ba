"""Held-out pairs during training: right figures, an undisturbed training, the same bytes, and
an early end.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import textbook
import tiny_training as tiny
import torch
from torch import Tensor

from prefine.config.training import AdapterConfig, EarlyStopConfig
from prefine.errors import DataError, Interrupted, NumericsError
from prefine.losses.pairs.aot import aot
from prefine.losses.pairs.bco import bco
from prefine.losses.pairs.bmc import bmc
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.kto_pair import kto_pair
from prefine.losses.pairs.ld_dpo import ld_dpo
from prefine.losses.pairs.wpo import wpo
from prefine.losses.protocol import LossFunction, PairLogps, declare
from prefine.losses.regularizers.budget import budget
from prefine.losses.regularizers.nll import nll
from prefine.metrics.rewards.likelihood_indicators import token_spread
from prefine.training.logging.figures import TrainSummary, error_of
from prefine.training.loop import train
from prefine.training.relations.pair_rows import EvaluationRow

EXAMPLES, HELD_OUT = tiny.examples(), tiny.examples(5, seed=1)
STEPS = 9
SOON = EarlyStopConfig(patience=1, keep=0.0, entropy_fall=0.0, mass_fall=0.0)
"""Ends training at the first reading that is lower than one before."""


def _train(
    folder: Path,
    model: torch.nn.Module | None = None,
    *,
    loss: LossFunction = dpo,
    examples: Any = EXAMPLES,
    held_out: Any = HELD_OUT,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> TrainSummary:
    return train(
        tiny.model(dtype=torch.float32) if model is None else model,
        examples,
        tiny.config(**{"evaluate_every": 2, **(settings or {})}),
        loss=loss,
        regularizer=partial(budget, delta=0.05),
        out_dir=folder,
        run_key="key",
        held_out=held_out,
        **options,
    )


def _rows(folder: Path) -> list[EvaluationRow]:
    lines = (folder / "eval_log.jsonl").read_bytes().splitlines()
    return [EvaluationRow.model_validate_json(line) for line in lines]


def _stop_after(rows: int) -> dict[str, Callable[..., Any]]:
    seen: list[Any] = []
    return {"on_step": seen.append, "should_stop": lambda: len(seen) >= rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder, model = tmp_path_factory.mktemp("whole"), tiny.model(dtype=torch.float32)
    _train(folder, model)
    return folder, tiny.weights(model)


def test_the_figures_are_those_of_plain_passes(tmp_path: Path) -> None:
    model = tiny.model()
    start = [
        [
            textbook.token_logps(tiny.model(), e.prompt_ids, side).sum()
            for side in (e.chosen_ids, e.rejected_ids)
        ]
        for e in HELD_OUT
    ]
    _train(tmp_path, model)
    row = _rows(tmp_path)[-1]
    now = [
        [
            textbook.token_logps(model, e.prompt_ids, side).sum()
            for side in (e.chosen_ids, e.rejected_ids)
        ]
        for e in HELD_OUT
    ]
    with torch.no_grad():
        change = torch.tensor(now) - torch.tensor(start)
        margin = change[:, 0] - change[:, 1]
        weight = torch.tensor([e.weight for e in HELD_OUT], dtype=torch.float64)
        loss = -torch.nn.functional.logsigmoid(0.1 * margin)
        excess = (-change[:, 0] - 0.05).clamp(min=0)
    assert (row.step, row.pairs) == (STEPS, 5)
    assert row.margin == pytest.approx(float(margin.mean()))
    assert row.accuracy == float((margin > 0).double().mean())
    assert row.chosen_change == pytest.approx(float(change[:, 0].mean()))
    assert row.loss == pytest.approx(float((loss * weight).sum() / weight.sum()))
    assert row.regularizer == pytest.approx(float((excess * weight).sum() / weight.sum()))
    assert row.objective == pytest.approx(row.loss + 0.1 * row.regularizer)
    logits = []
    with torch.no_grad():
        for e in HELD_OUT:
            ids = torch.tensor([[*e.prompt_ids, *e.chosen_ids]])
            logits.append(model(input_ids=ids).logits[0, len(e.prompt_ids) - 1 : -1])
    spread = token_spread(torch.cat(logits).numpy(), [True] * sum(map(len, logits)), k=10)
    for name, values in spread._asdict().items():
        assert getattr(row, name) == pytest.approx(float(values.mean())), name
    bits = float(spread.top_entropy_renormalised.mean()) * 1.4426950408889634
    assert row.top_entropy_bits == pytest.approx(bits)


@pytest.mark.parametrize(
    "loss",
    [
        dpo,
        kto_pair,
        aot,
        ld_dpo,
        partial(nll, reduction="token_mean"),
        partial(wpo, loss=dpo),
        partial(bmc, loss=dpo),
    ],
    ids=lambda loss: getattr(loss, "func", loss).__name__,
)
def test_every_kind_of_loss_is_what_a_step_of_the_same_pairs_sees(
    tmp_path: Path, loss: LossFunction
) -> None:
    same = [replace(example, weight=1.0) for example in EXAMPLES]
    settings = {"evaluate_every": 1, "max_steps": 3, "pairs_per_step": len(same)}
    _train(tmp_path, tiny.model(), loss=loss, examples=same, held_out=same, settings=settings)
    steps = [json.loads(line) for line in tiny.log(tmp_path).splitlines()]
    # A step's row is of the moment before its update.
    for step, row in zip(steps, _rows(tmp_path), strict=False):
        assert row.step == step["step"] - 1
        for name in (
            "loss",
            "regularizer",
            "objective",
            "margin",
            "accuracy",
            "chosen_logp",
            "fall_q90",
            "token_fall",
        ):
            assert getattr(row, name) == pytest.approx(step[name], rel=1e-9, abs=1e-9), name


def test_standard_errors_are_those_of_means_and_of_ratios_of_means(tmp_path: Path) -> None:
    model = tiny.model()
    same = [
        tiny.TokenizedPair(e.id, e.prompt_ids, e.chosen_ids[:1], e.rejected_ids) for e in HELD_OUT
    ]
    _train(tmp_path, model, held_out=same, settings={"max_steps": 2})
    row = _rows(tmp_path)[-1]
    with torch.no_grad():
        mass = torch.cat([textbook.top_mass(model, e.prompt_ids, e.chosen_ids, 10) for e in same])
    # One token each: the ratio's error is that of the mean.
    assert row.top_mass_se == pytest.approx(float(mass.std()) / 5**0.5)
    _train(tmp_path / "one", tiny.model(), held_out=HELD_OUT[:1], settings={"max_steps": 2})
    alone = _rows(tmp_path / "one")[-1]
    assert (alone.loss_se, alone.top_mass_se, alone.margin_se) == (None, None, None)


def test_pairs_of_one_prompt_are_one_observation(tmp_path: Path) -> None:
    twice = [replace(e, id=f"{e.id}-{n}") for e in HELD_OUT for n in range(2)]
    for name, held_out in (("once", HELD_OUT), ("twice", twice), ("one", twice[:2])):
        _train(tmp_path / name, tiny.model(), held_out=held_out, settings={"max_steps": 2})
    once, both, alone = (_rows(tmp_path / name)[-1] for name in ("once", "twice", "one"))
    assert both.pairs == 2 * once.pairs
    for figure in ("fall", "token_fall", "margin", "accuracy", "loss", "top_mass", "entropy"):
        error = getattr(once, f"{figure}_se")
        assert getattr(both, f"{figure}_se") == pytest.approx(error, rel=1e-9, abs=1e-15)
        assert getattr(alone, f"{figure}_se") is None


def test_the_error_over_prompts_is_that_of_their_sums() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 9, 40)
    values = rng.normal(size=40) + prompts
    sums = np.array([(values - values.mean())[prompts == prompt].sum() for prompt in range(9)])
    expected = np.sqrt(9 / 8 * np.sum(sums**2)) / 40
    found = error_of((torch.tensor(values), torch.tensor(prompts)))
    assert found == pytest.approx(expected, rel=1e-12)
    assert found is not None and found > 1.5 * values.std(ddof=1) / 40**0.5


def test_rows_of_any_size_give_the_same_figures(tmp_path: Path) -> None:
    rows = []
    for name, changed in {
        "a": {"micro_batch_tokens": 12},
        "b": {},
        "c": {"sharing": "off"},
    }.items():
        _train(tmp_path / name, tiny.model(), settings={"max_steps": 4, **changed})
        rows.append([row.model_dump() for row in _rows(tmp_path / name)])
    for other in rows[1:]:
        for one, row in zip(other, rows[0], strict=True):
            assert one == pytest.approx(row, rel=1e-9, abs=1e-9)


def test_the_start_and_the_end_are_evaluated(whole: Any, tmp_path: Path) -> None:
    rows = _rows(whole[0])
    assert [row.step for row in rows] == [0, 2, 4, 6, 8, 9]
    assert (rows[0].margin, rows[0].fall, rows[0].loss) == (0, 0, pytest.approx(0.6931472))
    assert len({row.margin for row in rows}) == len(rows)
    _train(tmp_path, settings={"evaluate_every": 3})
    assert [row.step for row in _rows(tmp_path)] == [0, 3, 6, 9]


def test_an_adapter_starts_where_the_policy_does(tmp_path: Path) -> None:
    settings = {"adapter": AdapterConfig(name="lora", rank=2), "max_steps": 2}
    _train(tmp_path, tiny.model(dtype=torch.float32), settings=settings)
    first, last = _rows(tmp_path)
    assert first.margin == 0 != last.margin


@declare(kind="coupled", needs=frozenset({"mismatched", "reference"}))
def _noisy(logps: PairLogps) -> Tensor:
    return kto_pair(logps) * (1 + torch.rand(1, dtype=logps.margin.dtype))


@pytest.mark.parametrize("loss", [dpo, bco, _noisy])
def test_training_is_not_disturbed(tmp_path: Path, loss: LossFunction) -> None:
    """Not by what draws random numbers, nor by what moves hyper-parameters."""
    plain, watched = tiny.model(dtype=torch.float32), tiny.model(dtype=torch.float32)
    _train(tmp_path / "plain", plain, loss=loss, settings={"evaluate_every": None})
    _train(tmp_path / "watched", watched, loss=loss, settings={"evaluate_every": 1})
    assert tiny.log(tmp_path / "plain") == tiny.log(tmp_path / "watched")
    for name, weight in tiny.weights(watched).items():
        assert torch.equal(weight, tiny.weights(plain)[name]), name
    assert [row.step for row in _rows(tmp_path / "plain")] == [0, STEPS]
    assert len(_rows(tmp_path / "watched")) == STEPS + 1


def test_a_loss_is_evaluated_with_the_hyper_parameters_of_the_moment(tmp_path: Path) -> None:
    _train(tmp_path, loss=bco, settings={"evaluate_every": 1, "max_steps": 2})
    moved = [
        json.loads(line)["hyper_parameters"]["loss.delta"]
        for line in tiny.log(tmp_path).splitlines()
    ]
    assert moved[-1] != 0
    rows = _rows(tmp_path)
    # At delta 0 and margin 0 both sides give log 2.
    assert rows[0].loss == pytest.approx(2 * 0.6931472, rel=1e-4)


@pytest.mark.parametrize("after", [0, 1, 2, 5, 8])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    whole: Any, tmp_path: Path, after: int
) -> None:
    with pytest.raises(Interrupted):
        _train(tmp_path, **_stop_after(after))
    # What a kill after the last checkpoint would leave.
    with (tmp_path / "eval_log.jsonl").open("ab") as log:
        log.write(b'{"pairs":5}\n{"half a row')
    model = tiny.model(dtype=torch.float32)
    _train(tmp_path, model)
    for name in ("eval_log.jsonl", "train_log.jsonl", "train_final.json"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()
    for name, weight in tiny.weights(model).items():
        assert torch.equal(weight, whole[1][name]), name


def test_a_lost_log_is_not_papered_over(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        _train(tmp_path, **_stop_after(5))
    (tmp_path / "eval_log.jsonl").unlink()
    with pytest.raises(DataError, match=r"eval_log.jsonl has 0 rows.*of step 5 and knows 3"):
        _train(tmp_path)


def test_nothing_to_evaluate_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.evaluate_every"):
        _train(tmp_path, held_out=[])
    one_prompt = [tiny.TokenizedPair(str(n), (3,), (n, 1), (n, 2)) for n in range(2)]
    with pytest.raises(DataError, match=r"held-out pairs|all pairs have the same prompt"):
        _train(tmp_path, loss=kto_pair, held_out=one_prompt)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    @declare()
    def breaks(logps: PairLogps) -> Tensor:
        return dpo(logps) * (torch.nan if len(logps.margin) == len(HELD_OUT) else 1)

    with pytest.raises(NumericsError, match="evaluation after step 0"):
        _train(tmp_path, loss=breaks)


# --- stopping early


def _stopped(folder: Path, model: torch.nn.Module | None = None, **options: Any) -> TrainSummary:
    return _train(folder, model, settings={"early_stop": SOON}, **options)


def test_an_alarm_ends_training_and_a_resumed_one_ends_there_too(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.float32)
    summary = _stopped(tmp_path / "whole", model)
    assert summary.stopped_by in ("collapse", "diffusion")
    assert 0 < summary.steps < summary.planned_steps == STEPS
    rows = _rows(tmp_path / "whole")
    assert [row.step for row in rows] == list(range(0, summary.steps + 1, 2))
    lower = [
        b.top_mass < a.top_mass
        or (b.top_entropy_renormalised < a.top_entropy_renormalised and b.margin > a.margin)
        for a, b in pairwise(rows)
    ]
    assert lower == [False] * (len(lower) - 1) + [True]
    assert [row.collapse or row.diffusion for row in rows] == [False, *lower]
    assert getattr(rows[-1], str(summary.stopped_by))
    assert len(tiny.log(tmp_path / "whole").splitlines()) == summary.steps
    assert (tmp_path / "whole" / "checkpoints" / f"step-{summary.steps:05d}").is_dir()
    stored = json.loads((tmp_path / "whole" / "train_final.json").read_text())
    assert (stored["steps"], stored["stopped_by"]) == (summary.steps, summary.stopped_by)

    for after in range(summary.steps):
        folder, again = tmp_path / str(after), tiny.model(dtype=torch.float32)
        with pytest.raises(Interrupted):
            _stopped(folder, **_stop_after(after))
        assert _stopped(folder, again).stopped_by == summary.stopped_by
        for name in ("eval_log.jsonl", "train_log.jsonl", "train_final.json"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        for name, weight in tiny.weights(again).items():
            assert torch.equal(weight, tiny.weights(model)[name]), name

    steps: list[Any] = []
    once_more = _stopped(tmp_path / "whole", on_step=steps.append)
    assert (once_more.stopped_by, once_more.steps, steps) == (summary.stopped_by, summary.steps, [])


def test_an_alarm_at_the_last_step_ends_nothing_early(tmp_path: Path) -> None:
    same = {"early_stop": SOON, "schedule": "constant", "warmup_fraction": 0.0}
    longer = _train(tmp_path / "longer", settings=same)
    assert longer.stopped_by is not None
    summary = _train(tmp_path / "exact", settings={**same, "max_steps": longer.steps})
    assert (summary.steps, summary.stopped_by) == (longer.steps, None)
    assert tiny.log(tmp_path / "exact") == tiny.log(tmp_path / "longer")
    assert (
        _train(tmp_path / "exact", settings={**same, "max_steps": longer.steps}).stopped_by is None
    )


def test_without_alarms_training_goes_to_its_end(tmp_path: Path) -> None:
    _train(tmp_path / "none")
    assert not any(row.collapse or row.diffusion or row.turn for row in _rows(tmp_path / "none"))
    calm = EarlyStopConfig(entropy_fall=1.0, mass_fall=1.0)
    summary = _train(tmp_path, settings={"early_stop": calm})
    assert (summary.steps, summary.stopped_by) == (STEPS, None)
