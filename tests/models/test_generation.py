"""Sampling: the model's own probabilities, one stream per (prompt, sample), the same bytes
whatever else is drawn.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MixtralConfig

from prefine import chat
from prefine.calls.protocol import Call, Failure
from prefine.config.sections import Decoding
from prefine.errors import NumericsError
from prefine.models.hf.backend import HfModel
from prefine.models.hf.generation import _choose, draw
from prefine.models.hf.open_rows import (
    PROMPT_BUCKET,
    WAYS,
    PaddedPrompts,
    PaddedRows,
    Way,
    padded_length,
)
from prefine.models.hf.smaller_batches import SmallerBatches
from prefine.models.protocol import SampleRequest, sample_key
from prefine.records import Completion, Prompt, content_hash

# Of very different lengths, so that most are padded and there are two buckets.
PROMPTS = [
    Prompt.from_text(text)
    for text in (
        "tea",
        "write about tea .",
        "the kettle is bright . " * 3,
        "a short answer",
        "write " * 40,
        "kettle",
    )
]
FREE = Decoding(temperature=1.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> HfModel:
    made = HfModel(path=str(tiny_model_folder), device="cpu", batch_rows=8)
    with torch.no_grad():
        # Random weights give an almost flat distribution, on which neither padding nor top_p would
        # show.
        for parameter in made.model.parameters():
            parameter.mul_(3)
        made.model.lm_head.weight.mul_(8)
    return made


def sampled(
    model: HfModel,
    prompts: list[Prompt] = PROMPTS,
    *,
    samples: int = 3,
    decoding: Decoding = FREE,
    wanted: set[tuple[str, int]] | None = None,
) -> dict[tuple[str, int], Completion]:
    requests = [SampleRequest(prompt, index) for prompt in prompts for index in range(samples)]
    shard = [
        Call(sample_key(model.fingerprint, request, decoding), request) for request in requests
    ]
    calls = [
        call
        for call in shard
        if wanted is None or (call.payload.prompt.id, call.payload.sample_index) in wanted
    ]
    found: dict[tuple[str, int], Completion] = {}
    for batch in model.sample(shard, calls, decoding):
        answers = batch.answer()
        assert answers.keys() == set(batch.keys)
        for answer in answers.values():
            assert isinstance(answer, Completion)
            found[answer.prompt_id, answer.sample_index] = answer
    assert len(found) == len(calls)
    return found


def forward(model: HfModel, prompt: Prompt, completion: Completion) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] at each of the completion's tokens, in one
    unpadded forward pass.
    """
    ids = chat.prompt_ids(model.tokenizer, prompt)
    tokens = list(completion.token_ids or ())
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([ids + tokens])).logits[0]
    return torch.log_softmax(logits.double(), dim=-1)[len(ids) - 1 : -1]


def by_id(prompts: list[Prompt]) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in prompts}


@pytest.mark.parametrize(
    "decoding", [FREE, Decoding(temperature=0.7, top_p=0.8, max_new_tokens=12)]
)
def test_sampled_logp_is_the_models_own(model: HfModel, decoding: Decoding) -> None:
    """Of temperature 1 and the whole vocabulary, however it was drawn; padding and cache change
    nothing.
    """
    found = sampled(model, decoding=decoding)
    assert len({completion.text for completion in found.values()}) > len(PROMPTS), (
        "the samples differ"
    )
    for completion in found.values():
        logps = forward(model, by_id(PROMPTS)[completion.prompt_id], completion)
        tokens = torch.tensor(completion.token_ids)
        expected = float(logps.gather(1, tokens[:, None]).sum())
        assert completion.sampled_logp == pytest.approx(expected, abs=1e-4)
        assert expected < -0.1, "a distribution without spread would prove nothing"


def test_greedy_takes_the_most_likely_token(model: HfModel) -> None:
    found = sampled(model, decoding=Decoding(temperature=0, max_new_tokens=12))
    for completion in found.values():
        best = forward(model, by_id(PROMPTS)[completion.prompt_id], completion).argmax(dim=-1)
        assert completion.token_ids == tuple(best.tolist())


def test_top_k_draws_of_the_likeliest_and_is_part_of_an_answers_key(model: HfModel) -> None:
    few = Decoding(temperature=3.0, top_k=2, max_new_tokens=12)
    found = sampled(model, decoding=few)
    for completion in found.values():
        best = forward(model, by_id(PROMPTS)[completion.prompt_id], completion).topk(2).indices
        assert all(
            token in row
            for token, row in zip(completion.token_ids or (), best.tolist(), strict=True)
        )
    one = next(iter(found.values()))
    assert one.sampling == {
        "temperature": 3.0,
        "top_p": 1.0,
        "top_k": 2,
        "max_new_tokens": 12,
        "seed": 0,
    }
    request = SampleRequest(PROMPTS[0], 0)
    # As keys were before there was a top_k.
    settings = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12, "seed": 0}
    before = content_hash("completion", "model", PROMPTS[0].id, 0, settings)
    assert sample_key("model", request, FREE) == before
    assert sample_key("model", request, FREE.model_copy(update={"top_k": 2})) != before


def test_more_samples_and_more_prompts_change_nothing(model: HfModel) -> None:
    few = sampled(model, PROMPTS[:4], samples=3)
    for more in (
        sampled(model, PROMPTS[:4], samples=4),
        sampled(model, PROMPTS[:4], samples=5),
        sampled(model, PROMPTS, samples=3),
    ):
        assert len(more) > len(few)
        assert {key: more[key] for key in few} == few


def test_resuming_gives_what_a_fresh_run_gives(model: HfModel) -> None:
    fresh = sampled(model)
    keys = sorted(fresh)
    for half in (keys[::2], keys[1::2], keys[:1], keys[-1:]):
        assert sampled(model, wanted=set(half)) == {key: fresh[key] for key in half}


def test_each_sample_has_its_own_stream(model: HfModel) -> None:
    found = sampled(model, samples=4)
    other = sampled(model, samples=4, decoding=Decoding(temperature=1.0, max_new_tokens=12, seed=1))
    for prompt in PROMPTS:
        assert len({found[prompt.id, index].token_ids for index in range(4)}) > 1
    assert sum(found[key].token_ids == other[key].token_ids for key in found) < len(found) / 2


def test_the_stop_token_ends_a_completion(model: HfModel) -> None:
    stop = chat.stop_token_id(model.tokenizer, model.generation_config)
    found = sampled(model, samples=16, decoding=Decoding(temperature=4.0, max_new_tokens=60))
    reasons = [completion.finish_reason for completion in found.values()]
    assert {"stop", "length"} == set(reasons), "the test needs both"
    for completion in found.values():
        ids = completion.token_ids or ()
        stopped = completion.finish_reason == "stop"
        assert (ids[-1] == stop) == stopped
        assert stop not in ids[:-1]
        assert stopped or len(ids) == 60
        assert completion.text == model.tokenizer.decode(
            ids[:-1] if stopped else ids, skip_special_tokens=True
        )


ENDING = Decoding(temperature=4.0, max_new_tokens=60)
"""So long and flat that rows end by themselves, each after another number of tokens."""


@pytest.fixture(scope="module")
def many(model: HfModel) -> HfModel:
    """The model with large batches."""
    large = HfModel(path=model.path, device="cpu", batch_rows=64)
    large.__dict__["model"] = model.model
    large._sampler.__dict__["_stop_ids"] = frozenset(range(0, 300, 15))
    return large


def fed_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are continued from here on."""
    sizes: list[int] = []
    feed = PaddedRows.feed

    def counted(self: PaddedRows, tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens))
        return feed(self, tokens)

    monkeypatch.setattr(PaddedRows, "feed", counted)
    return sizes


def test_rows_that_have_ended_leave_the_batch_and_no_bit_changes(
    many: HfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [Prompt.from_text(f"write {n} words about tea") for n in range(32)]
    found = sampled(many, prompts, samples=4, decoding=ENDING)
    monkeypatch.setattr(SmallerBatches, "smallest", lambda self, rows, alive: rows)
    sizes = fed_rows(monkeypatch)
    assert sampled(many, prompts, samples=4, decoding=ENDING) == found
    assert set(sizes) == {64}


@pytest.mark.parametrize("place", ["alone", "last"])
def test_no_batch_becomes_smaller_where_a_rows_place_changes_its_bits(
    model: HfModel, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    feed = PaddedRows.feed

    def by_place(self: PaddedRows, tokens: torch.Tensor) -> torch.Tensor:
        logits = feed(self, tokens)
        length = self._mask.shape[1]
        if length % 8 == 5 and (place == "last" or len(tokens) == 8):
            logits[-1] += 1e-3
        return logits

    monkeypatch.setattr(PaddedRows, "feed", by_place)
    with torch.inference_mode():
        size = SmallerBatches(model.model, pad_id=0).smallest(64, 8)
        assert size in {"alone": (16, 64), "last": (64,)}[place]
        assert SmallerBatches(model.model, pad_id=0).smallest(8, 1) == 8


def test_a_batch_has_sizes_that_were_tried_and_found_equal(
    many: HfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [Prompt.from_text(f"write {n} words about tea") for n in range(32)]
    expected = sampled(many, prompts, samples=2, decoding=ENDING)
    monkeypatch.setattr(SmallerBatches, "_try", lambda self, rows, size: size % 16 == 0)
    many._sampler.__dict__.pop("_way")
    sizes = fed_rows(monkeypatch)
    found = sampled(many, prompts, samples=2, decoding=ENDING)
    many._sampler.__dict__.pop("_way")
    at = sizes.index(64)  # before it the way was found
    assert sizes[at:] == sorted(sizes[at:], reverse=True)
    assert set(sizes[at:]) == {64, 48, 32, 16}
    # Whatever sizes this machine takes the products of 16 rows by.
    assert {key: one.token_ids for key, one in found.items()} == {
        key: one.token_ids for key, one in expected.items()
    }
    assert [one.sampled_logp for one in found.values()] == pytest.approx(
        [one.sampled_logp for one in expected.values()], abs=1e-4
    )


def test_a_size_that_gives_other_bits_is_not_used(model: HfModel) -> None:
    class Sized(torch.nn.Module):
        """Logits that depend on the size of the batch below eight rows."""

        device = torch.device("cpu")
        config = model.model.config
        get_input_embeddings = model.model.get_input_embeddings

        def forward(self, **inputs: Any) -> Any:
            out = model.model(**inputs)
            out.logits += 1e-3 * (len(inputs["input_ids"]) < 8)
            return out

    smaller = SmallerBatches(Sized(), 0)
    assert smaller.smallest(64, 1) >= 8
    assert smaller.smallest(64, 64) == 64
    routed = Sized()
    routed.config = MixtralConfig(num_local_experts=4)
    assert SmallerBatches(routed, 0).smallest(64, 1) == 64


@pytest.mark.parametrize("way", WAYS, ids=["padded", "separate", "whole"])
def test_a_row_has_the_same_bits_whichever_are_wanted(model: HfModel, way: Way) -> None:
    model._sampler.__dict__["_way"] = way
    try:
        fresh = sampled(model, decoding=ENDING)
        keys = sorted(fresh)
        for some in (keys[::2], keys[:1]):
            assert sampled(model, decoding=ENDING, wanted=set(some)) == {
                key: fresh[key] for key in some
            }
    finally:
        model._sampler.__dict__.pop("_way")


def choices(
    probs: list[float],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    draws: int = 4000,
) -> list[float]:
    """Count how often each token is chosen over evenly spread numbers."""
    numbers = torch.arange(draws, dtype=torch.float64) / draws
    logps = torch.tensor(probs).log().expand(draws, -1)
    return (
        _choose(logps, numbers, temperature, top_p, top_k).bincount(minlength=len(probs)) / draws
    ).tolist()


def test_choice_follows_the_probabilities() -> None:
    probs = [0.1, 0.0, 0.5, 0.4]
    assert choices(probs) == pytest.approx(probs, abs=1e-3)
    colder = np.array(probs) ** 2 / sum(p**2 for p in probs)
    assert choices(probs, temperature=0.5) == pytest.approx(colder, abs=1e-3)
    assert choices(probs, temperature=0) == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.4, [0, 0, 1, 0]),
        (0.6, [0, 0, 5 / 9, 4 / 9]),
        (0.95, [0.1, 0, 0.5, 0.4]),
        (1e-9, [0, 0, 1, 0]),
    ],
)
def test_top_p_keeps_the_most_likely_tokens(top_p: float, expected: list[float]) -> None:
    """Up to and including the one that reaches the mass; the rest shares it out."""
    assert choices([0.1, 0.0, 0.5, 0.4], top_p=top_p) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (1, 1.0, [0, 0, 1, 0]),
        (2, 1.0, [0, 0, 5 / 9, 4 / 9]),
        (9, 1.0, [0.1, 0, 0.5, 0.4]),
        # The mass is that of the kept ones: .5 is 5 / 9 of it, more than .52.
        (2, 0.52, [0, 0, 1, 0]),
        (2, 0.6, [0, 0, 5 / 9, 4 / 9]),
    ],
)
def test_top_k_keeps_so_many_tokens_before_top_p(
    top_k: int, top_p: float, expected: list[float]
) -> None:
    found = choices([0.1, 0.0, 0.5, 0.4], top_p=top_p, top_k=top_k)
    assert found == pytest.approx(expected, abs=1e-3)
    assert choices([0.25] * 4, top_k=2) == [0.5, 0.5, 0, 0], "of equal ones the first"


def test_a_number_next_to_one_stays_in_the_vocabulary() -> None:
    number = torch.tensor([np.nextafter(1, 0)], dtype=torch.float64)
    for probs in ([0.3, 0.7, 0.0], [0.1] * 10):
        logps = torch.tensor([probs]).log()
        for top_p, top_k in ((1.0, None), (0.7, None), (1.0, 2), (0.7, 3)):
            assert probs[int(_choose(logps, number, 1.0, top_p, top_k))] > 0


class Broken(torch.nn.Module):
    """A model whose logits for some rows are no numbers."""

    device = torch.device("cpu")

    def __init__(self, model: Any, rows: list[int], *, from_step: int) -> None:
        super().__init__()
        self.model, self.rows, self.step, self.from_step = model, rows, -1, from_step

    def forward(self, **inputs: Any) -> Any:
        self.step += 1
        out = self.model(**inputs)
        if self.step >= self.from_step:
            out.logits[self.rows] = float("nan")
        return out


@pytest.mark.parametrize("from_step", [0, 3])
def test_numbers_that_are_none_fail_their_row_alone(model: HfModel, from_step: int) -> None:
    whole = sampled(model, PROMPTS[:2], samples=2)
    # Row 0 of the first forward is a prompt, later it is the first sample of the first prompt.
    broken = HfModel(path=model.path, device="cpu", batch_rows=8)
    broken.__dict__["model"] = Broken(model.model, [0], from_step=from_step)
    broken.model.config = model.model.config
    # Its passes are counted, and the way is found by some.
    broken._sampler.__dict__["_way"] = PaddedPrompts
    requests = [SampleRequest(prompt, index) for prompt in PROMPTS[:2] for index in range(2)]
    calls = [Call(sample_key(model.fingerprint, request, FREE), request) for request in requests]
    (batch,) = broken.sample(calls, calls, FREE)
    answers = batch.answer()
    failed = [call.payload for call in calls if isinstance(answers[call.key], Failure)]
    assert next((request.prompt.id, request.sample_index) for request in failed) == (
        PROMPTS[0].id,
        0,
    )
    assert all(request.prompt == PROMPTS[0] for request in failed)
    for call in calls[2:]:
        assert answers[call.key] == whole[call.payload.prompt.id, call.payload.sample_index]


def test_a_model_without_numbers_stops_the_run(model: HfModel) -> None:
    with pytest.raises(NumericsError, match="its weights are damaged"):
        draw(
            PaddedPrompts(
                Broken(model.model, [0, 1], from_step=0), [[5], [6, 7]], pad_id=0, fed=True
            ),
            group=1,
            streams=np.zeros((2, 3)),
            wanted=[True, True],
            temperature=1.0,
            top_p=1.0,
            stop_ids=frozenset([1]),
        )


def test_short_prompts_are_padded_to_32_tokens_and_others_to_multiples_of_64() -> None:
    lengths = {1: 32, 32: 32, 33: 64, 64: 64, 65: 128, 300: 320}
    assert {tokens: padded_length(tokens) for tokens in lengths} == lengths


def test_the_prompts_are_of_two_buckets(model: HfModel) -> None:
    lengths = [len(chat.prompt_ids(model.tokenizer, prompt)) for prompt in PROMPTS]
    assert min(lengths) <= PROMPT_BUCKET < max(lengths)
