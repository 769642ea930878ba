"""Self-play against its description: segments, buffer, average, reference, and resuming."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch
from scipy.stats import chisquare

from prefine.errors import ConfigError, DataError, Interrupted, LimitError
from prefine.losses import dpo, odpo
from prefine.training import loop
from prefine.training.loop import train
from prefine.training.memory import OutOfMemory
from prefine.training.relations.pairs import TokenizedPair
from prefine.training.step_sources import self_play
from prefine.training.step_sources.moving_average import Follower
from prefine.training.step_sources.replay_buffer import Entry, ReplayBuffer
from prefine.training.step_sources.self_play import (
    SelfPlay,
    draw_start,
    segment_length,
    splice,
)

SETTINGS: dict[str, Any] = {"checkpoint_every": 1}
STOP = 1


def _train(folder: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> tuple[Any, Any]:
    model = options.pop("model", None) or tiny.model(dtype=torch.float32)
    given = {
        "examples": tiny.examples(),
        "loss": dpo,
        "step_source": partial(SelfPlay, segment_tokens=3, reference_every=2),
        **options,
    }
    summary = train(
        model,
        config=tiny.config(**settings),
        regularizer=None,
        out_dir=folder,
        run_key="key",
        **given,
    )
    return model, summary


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tiny.log(folder).splitlines()]


def _greedy(model: torch.nn.Module, ids: tuple[int, ...], count: int) -> tuple[int, ...]:
    """The likeliest tokens after `ids`, each from a pass over the plain row."""
    row = list(ids)
    for _ in range(count):
        row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
    return tuple(row[len(ids) :])


def _kept(sources: list[SelfPlay], **options: Any) -> Callable[..., SelfPlay]:
    def make(*given: Any) -> SelfPlay:
        sources.append(SelfPlay(*given, **options))
        return sources[-1]

    return make


@pytest.mark.parametrize(
    ("tokens", "longest", "length", "starts"),
    [
        (20, 10, 10, range(8)),  # 20 - 3 - 10
        (14, 10, 10, range(2)),
        (13, 10, 10, range(1)),  # three tokens would not be left behind it
        (9, 10, 9, range(1)),  # the whole answer
        (9, None, 9, range(1)),
    ],
)
def test_a_segment_has_its_length_and_begins_anywhere(
    tokens: int, longest: int | None, length: int, starts: range
) -> None:
    answer, rng = tuple(range(tokens)), np.random.default_rng(0)
    assert segment_length(answer, longest) == length
    assert {draw_start(answer, length, rng) for _ in range(200)} == set(starts)


def test_a_segment_is_replaced_and_a_stop_within_it_ends_the_answer() -> None:
    answer = (10, 11, 12, 13, 14, 15, STOP)
    cases = {
        (20, 21, 22): (10, 11, 20, 21, 22, 15, STOP),
        (20, 21, 22, 23, STOP): (10, 11, 20, 21, 22, 15, STOP),  # what is behind it is cut
        (20, STOP): (10, 11, 20, STOP),
        (STOP,): (10, 11, STOP),
        (12, 13, 14): answer,
    }
    for generated, expected in cases.items():
        assert splice(answer, 2, 3, generated, stop=STOP) == expected
    whole = splice(answer, 0, 7, (2,) * 7, stop=STOP)
    assert len(whole) == len(answer) and STOP not in whole


def test_the_buffer_drops_the_oldest_and_prefers_what_was_drawn_less() -> None:
    buffer, rng = ReplayBuffer(3), np.random.default_rng(1)
    buffer.push(Entry(n, n, (n,)) for n in range(2))
    buffer.push(Entry(n, n, (n,)) for n in range(2, 5))
    assert [entry.number for entry in buffer.entries] == [2, 3, 4]
    counts = np.zeros(3)
    for _ in range(6000):
        for entry, draws in zip(buffer.entries, (0, 1, 3), strict=True):
            entry.draws = draws
        (drawn,) = buffer.draw(1, rng)
        assert drawn.draws in (1, 2, 4)
        counts[drawn.number - 2] += 1
    # 1 : 1/2 : 1/4
    assert chisquare(counts, 6000 * np.array([4, 2, 1]) / 7).pvalue > 0.01
    assert chisquare(counts, np.full(3, 2000.0)).pvalue < 1e-9


def test_counts_belong_to_entries_and_survive_a_state() -> None:
    """Counts by the identity of an object would be lost, or be another entry's."""
    first, again = ReplayBuffer(9), ReplayBuffer(9)
    first.push(Entry(n, n, (n, STOP)) for n in range(6))
    first.draw(50, np.random.default_rng(2))
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert again.entries == first.entries and sum(e.draws for e in again.entries) == 50
    rng = [np.random.default_rng(3) for _ in range(2)]
    assert first.draw(20, rng[0]) == again.draw(20, rng[1])


def test_the_average_moves_as_its_closed_form_says() -> None:
    model = torch.nn.Linear(3, 2).double()
    start, frozen = model.weight.detach().clone(), model.bias
    frozen.requires_grad_(False)
    followers = {keep: Follower(model) for keep in (0.0, 0.5, 0.9, 1.0)}
    target = start + 1
    with torch.no_grad():
        model.weight.copy_(target)
    for keep, one in followers.items():
        before = one.tensors()["weight"]
        for _ in range(5):
            one.average(keep)
        expected = keep**5 * start + (1 - keep**5) * target
        torch.testing.assert_close(one.model.weight, expected, rtol=0, atol=1e-14)
        assert torch.equal(before, start), "tensors that were handed out never change"
        assert one.model.bias is frozen and list(one.tensors()) == ["weight"]
    assert torch.equal(followers[1.0].model.weight, start)
    assert torch.equal(followers[0.0].model.weight, target)


@pytest.mark.parametrize("decoding", [{"temperature": 0.0}, {"temperature": 5.0, "top_k": 1}])
def test_rewritten_answers_are_what_the_average_says_behind_the_prefix(
    tmp_path: Path, decoding: dict[str, Any]
) -> None:
    """Greedy, against plain rows: prompts of several lengths, which a batch pads on the left."""
    sources: list[SelfPlay] = []
    examples = tiny.examples()
    _train(
        tmp_path,
        {"max_steps": 1, "pairs_per_step": 7, "micro_batch_tokens": 99},
        step_source=_kept(sources, segment_tokens=2, **decoding),
    )
    initial = tiny.model(dtype=torch.float32)
    buffer = sources[0].state_dict()["buffer"]["entries"]
    assert sorted(item for item, *_ in buffer) == list(range(7))
    assert sorted(number for _, number, *_ in buffer) == list(range(7))
    inner = 0
    for item, _, _, ids in buffer:
        gold, prompt = examples[item].chosen_ids, examples[item].prompt_ids
        length = min(2, len(gold))
        possible = [
            splice(gold, start, length, _greedy(initial, prompt + gold[:start], length), stop=STOP)
            for start in range(max(len(gold) - 3 - length, 0) + 1)
        ]
        assert ids in possible
        inner += ids[:1] == gold[:1] and ids != gold
    assert inner > 0, "some segment begins behind the first token"


def test_an_answer_that_comes_back_unchanged_has_loss_ln_2_and_teaches_nothing(
    tmp_path: Path,
) -> None:
    initial = tiny.model(dtype=torch.float32)
    examples = []
    for pair in tiny.examples():
        own = _greedy(initial, pair.prompt_ids, 8)
        if STOP not in own:
            examples.append(replace(pair, chosen_ids=(*own, STOP)))
    assert len(examples) > 3
    model, _ = _train(
        tmp_path,
        examples=examples,
        step_source=partial(SelfPlay, segment_tokens=3, temperature=0.0, ema=1.0),
    )
    for row in _rows(tmp_path):
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert row["grad_norm"] < 1e-5
    assert model is not None


def test_it_learns_to_prefer_the_reference_answers(tmp_path: Path) -> None:
    """More updates of one step's items than rewritings: the buffer is read again."""
    source = partial(SelfPlay, segment_tokens=3, sample_every=3, reference="fixed")
    _, summary = _train(tmp_path, {"epochs": 6, **SETTINGS}, step_source=source)
    first, *_, last = _rows(tmp_path)
    assert abs(first["margin"]) < 1e-5 and last["margin"] > 0.1
    assert (summary.steps, summary.steps_per_epoch) == (18, 3)
    assert summary.items == 6 * 3, "of 18 steps, every third rewrites three answers"


@pytest.mark.parametrize("mode", ["fixed", "ema", "policy"])
def test_the_reference_is_fixed_or_moves_at_its_steps(tmp_path: Path, mode: str) -> None:
    """Where it has just taken over the policy, the policy is its own reference: margin 0."""
    source = partial(SelfPlay, segment_tokens=3, reference=mode, reference_every=4, ema=0.5)
    _train(tmp_path, step_source=source)
    margins = [row["margin"] for row in _rows(tmp_path)]
    assert len(margins) == 9
    zero = {"fixed": [0], "ema": [0], "policy": [0, 4, 8]}[mode]
    assert [step for step, margin in enumerate(margins) if abs(margin) < 1e-5] == zero
    tensors = tmp_path / "checkpoints/step-00009/step_source.safetensors"
    assert (b"reference." in tensors.read_bytes()) == (mode != "fixed")


@pytest.mark.parametrize("mode", ["fixed", "ema", "policy"])
def test_a_stopped_training_goes_on_to_the_same_bytes(tmp_path: Path, mode: str) -> None:
    source = partial(
        SelfPlay, segment_tokens=3, buffer_size=5, reference=mode, reference_every=2, sample_every=2
    )
    whole, _ = _train(tmp_path / "whole", step_source=source)
    rows: list[Any] = []
    for stop in (1, 4, 5, 99):

        def should_stop(stop: int = stop) -> bool:
            return len(rows) >= stop

        try:
            parts, _ = _train(
                tmp_path / "parts", step_source=source, on_step=rows.append, should_stop=should_stop
            )
        except Interrupted:
            continue
    for name in (
        "train_log.jsonl",
        "train_final.json",
        *(
            f"checkpoints/step-00009/{name}"
            for name in ("model.safetensors", "step_source.safetensors", "state.json")
        ),
    ):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name, weight in tiny.weights(whole).items():
        assert torch.equal(weight, tiny.weights(parts)[name])


def test_a_checkpoint_within_a_step_has_the_state_from_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is short in the third step, whose average and answers are made again later."""
    whole, _ = _train(tmp_path / "whole")
    calls = 0
    accumulate = loop.accumulate_gradients

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OutOfMemory("not now")
        if calls == 4:
            raise LimitError("the power is gone")
        return accumulate(*args, **options)

    monkeypatch.setattr(loop, "accumulate_gradients", failing)
    with pytest.raises(LimitError, match="the power is gone"):
        _train(tmp_path / "parts")
    monkeypatch.undo()
    parts, _ = _train(tmp_path / "parts")
    for name, weight in tiny.weights(whole).items():
        torch.testing.assert_close(weight, tiny.weights(parts)[name], rtol=1e-5, atol=1e-6)


def test_an_adapter_is_averaged_alone(tmp_path: Path) -> None:
    settings = {"adapter": {"name": "lora", "rank": 2}, "epochs": 1, **SETTINGS}
    _train(tmp_path, settings)
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "checkpoints/step-00003/step_source.safetensors")
    assert tensors and all("lora" in name for name in tensors)


def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny.examples()[0]
    several = replace(pair, chosen_turns=((0, 1), (2, 3)))
    cut = [
        replace(one, chosen_ids=(*one.chosen_ids[:-1], 9 + n)) for n, one in enumerate([pair] * 4)
    ]
    cases: list[tuple[list[TokenizedPair], dict[str, Any], type[Exception], str]] = [
        ([several], {}, DataError, "pair pair-0 has 2"),
        (cut, {}, DataError, "no token ends more than 1 of 4"),
        ([pair], {"settings": {"reference": {"name": "hf", "path": "x"}}}, ConfigError, "own"),
        (tiny.examples(), {"loss": odpo}, DataError, "score_gap"),
    ]
    for number, (examples, options, error, says) in enumerate(cases):
        with pytest.raises(error, match=says):
            _train(tmp_path / str(number), examples=examples, **options)
    monkeypatch.setattr(self_play.processes, "together", lambda: True)
    with pytest.raises(ConfigError, match="self_play trains in one process"):
        SelfPlay([pair], lambda *_, **__: None, tiny.config()).follow(None)  # type: ignore[arg-type]
