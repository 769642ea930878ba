"""The simulated judge: as accurate, as biased and as noisy as it says, and the same answer to
the same question.
"""

import math
import random
from functools import partial
from statistics import NormalDist, fmean, variance

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefine.errors import DataError
from prefine.judges.playground import GOLD_SD, LENGTH_SD, PlaygroundJudge, noise_sd
from prefine.judges.protocol import ComputedJudge
from prefine.playground.build import MODEL_DIR
from prefine.playground.pretraining import generate
from prefine.playground.world import demonstrate, draw_prompts, gold, parse
from prefine.records import Completion, Message, Prompt, content_hash

PAIRS = 8_000
texts = st.text(max_size=8)


def completion(prompt: Prompt, text: str, index: int = 0) -> Completion:
    message = Message(role="assistant", content=text)
    return Completion(
        id=content_hash(prompt.id, text, index),
        prompt_id=prompt.id,
        sample_index=index,
        message=message,
    )


def normal_pairs(
    judge: PlaygroundJudge, *, gap_sd: float = math.sqrt(2)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quality gaps of random pairs, the judge's p_first on them, and on the same pairs swapped."""
    gaps = np.random.default_rng(0).normal(scale=gap_sd, size=PAIRS)
    one = np.array([judge.p_first(f"prompt-{n}", "one", "two", gap) for n, gap in enumerate(gaps)])
    swapped = np.array(
        [judge.p_first(f"prompt-{n}", "two", "one", -gap) for n, gap in enumerate(gaps)]
    )
    return gaps, one, swapped


def near(value: float) -> object:
    """Three standard errors of a share."""
    return pytest.approx(value, abs=3 * math.sqrt(value * (1 - value) / PAIRS) + 1e-12)


@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.9, 1.0])
def test_accuracy_on_normal_qualities_without_bias_is_the_one_asked_for(accuracy):
    gaps, one, swapped = normal_pairs(PlaygroundJudge(accuracy=accuracy, first_slot_bias=0.0))
    assert np.mean((one == 1) == (gaps > 0)) == near(accuracy)
    assert np.mean((swapped == 0) == (gaps > 0)) == near(accuracy)


def test_noise_follows_from_accuracy():
    assert noise_sd(0.75) == pytest.approx(math.sqrt(2))
    assert noise_sd(1) == 0
    assert 0.5 + math.atan(math.sqrt(2) / noise_sd(0.6)) / math.pi == pytest.approx(0.6)


@pytest.mark.parametrize("accuracy", [0.5, 0.0, 1.01, float("nan")])
def test_an_accuracy_that_no_noise_gives_is_refused(accuracy):
    with pytest.raises(ValueError, match="accuracy must be in"):
        PlaygroundJudge(accuracy=accuracy)


@pytest.mark.parametrize("bias", [0.5, -1.0])
def test_first_slot_rate_between_equals_is_phi_of_the_bias(bias):
    judge = PlaygroundJudge(first_slot_bias=bias)
    _, one, swapped = normal_pairs(judge, gap_sd=0)
    expected = NormalDist().cdf(bias)
    assert one.mean() == near(expected)
    assert swapped.mean() == near(expected)
    assert judge.first_slot_bias == pytest.approx(math.log(expected / (1 - expected)))


def test_first_slot_bias_of_soft_verdicts_is_their_mean_logit():
    judge = PlaygroundJudge(first_slot_bias=0.4, verdict="soft", accuracy=0.6)
    _, one, swapped = normal_pairs(judge, gap_sd=0)
    logits = np.log(np.r_[one, swapped] / (1 - np.r_[one, swapped]))
    assert judge.first_slot_bias == pytest.approx(1.2)
    assert logits.mean() == pytest.approx(1.2, abs=3 * 3 / math.sqrt(PAIRS))
    assert logits.std() == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("bias", [0.0, 60.0, -60.0])
def test_first_slot_bias_is_finite_and_has_its_sign(bias):
    for verdict in ("hard", "soft"):
        known = PlaygroundJudge(first_slot_bias=bias, verdict=verdict).first_slot_bias
        assert math.isfinite(known)
        assert np.sign(known) == np.sign(bias)
    assert PlaygroundJudge(first_slot_bias=bias, accuracy=1).first_slot_bias == 0


def test_swap_consistency_is_that_of_the_ranking_simulations():
    _, one, swapped = normal_pairs(PlaygroundJudge(accuracy=0.75, first_slot_bias=0.5))
    assert np.mean(one != swapped) == pytest.approx(0.68, abs=0.02)


@pytest.mark.parametrize("verdict", ["hard", "soft"])
@given(first=texts, second=texts, gap=st.floats(-5, 5), seed=st.integers(0, 99))
def test_without_order_noise_and_bias_both_orders_agree_exactly(verdict, first, second, gap, seed):
    judge = PlaygroundJudge(
        first_slot_bias=0.0, order_noise=0.0, length_bias=0.3, verdict=verdict, seed=seed
    )
    p = judge.p_first("prompt", first, second, gap)
    assert judge.p_first("prompt", second, first, -gap) == pytest.approx(1 - p, abs=1e-12)


def test_order_noise_alone_is_independent_in_both_orders():
    _, one, swapped = normal_pairs(PlaygroundJudge(first_slot_bias=0.0, order_noise=1.0), gap_sd=0)
    assert np.mean(one != swapped) == near(0.5)


@given(first=texts, second=texts, gap=st.floats(-5, 5))
def test_the_same_question_gets_the_same_answer(first, second, gap):
    ask = partial(PlaygroundJudge(verdict="soft", seed=3).p_first, "prompt", first, second, gap)
    assert (
        ask()
        == ask()
        == PlaygroundJudge(verdict="soft", seed=3).p_first("prompt", first, second, gap)
    )
    assert 0 <= ask() <= 1


def test_seed_prompt_and_texts_all_draw_other_noise():
    def p(seed=0, prompt="p", first="a", second="b"):
        return PlaygroundJudge(verdict="soft", seed=seed).p_first(prompt, first, second, 0.0)

    assert len({p(), p(seed=1), p(prompt="q"), p(first="c"), p(second="c")}) == 5


def test_length_bias_prefers_the_longer():
    short, long = "x", "x" * (1 + round(2 * LENGTH_SD))
    judge = PlaygroundJudge(accuracy=1, length_bias=0.5)
    assert (
        judge.p_first("prompt", long, short, -0.9) == 1
    )  # 2 * 0.5 sd for length against 0.9 sd of quality
    assert judge.p_first("prompt", long, short, -1.1) == 0
    assert judge.p_first("prompt", short, long, 0.9) == 0


@pytest.mark.parametrize("verdict", ["hard", "soft"])
def test_without_noise_a_tie_in_gold_is_one_half_and_nothing_else_is(verdict):
    judge = PlaygroundJudge(accuracy=1, first_slot_bias=5.0, verdict=verdict)
    assert [judge.p_first("p", "a", "b", gap) for gap in (0.0, 1e-9, -1e-9)] == [0.5, 1.0, 0.0]


def test_it_compares_by_the_gold_score():
    (text,) = draw_prompts(1, split="train", seed=0)
    prompt, task = Prompt.from_text(text), parse(text)
    good = completion(
        prompt, demonstrate(task, random.Random(0), flaw_rates=dict.fromkeys(FLAWS, 0.0))
    )
    bad = completion(prompt, "")
    judge = PlaygroundJudge(accuracy=1)
    assert isinstance(judge, ComputedJudge)
    judge.check(prompt, [good, bad])
    assert judge.compare(prompt, good, bad).p_first == 1
    assert judge.compare(prompt, bad, good).p_first == 0
    assert judge.compare(prompt, bad, bad).p_first == 0.5


FLAWS = ("count", "topic", "required", "forbidden", "tone", "order", "form")


def test_the_units_are_those_of_the_embedded_models_samples():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    prompts = draw_prompts(60, split="test", seed=2)
    samples = generate(model, tokenizer, prompts, samples=6, temperature=1.0)
    texts = {
        prompt: [text for text, _ in answers]
        for prompt, answers in zip(prompts, samples, strict=True)
    }
    gold_variances = [
        variance(gold(prompt, text) for text in of_one) for prompt, of_one in texts.items()
    ]
    length_variances = [variance(len(text) for text in of_one) for of_one in texts.values()]
    assert math.sqrt(fmean(gold_variances)) == pytest.approx(GOLD_SD, rel=0.15)
    assert math.sqrt(fmean(length_variances)) == pytest.approx(LENGTH_SD, rel=0.15)


def test_a_foreign_prompt_is_named():
    prompt = Prompt.from_text("What is the capital of France?")
    with pytest.raises(
        DataError, match=f"prompt {prompt.id}: .*capital of France.*rank.judge.name"
    ):
        PlaygroundJudge().check(prompt, [])


def test_fingerprint_depends_on_every_setting():
    other = {
        "accuracy": 0.8,
        "first_slot_bias": 0.1,
        "length_bias": 0.2,
        "order_noise": 0.3,
        "verdict": "soft",
        "seed": 4,
    }
    judges = [
        PlaygroundJudge(),
        *(PlaygroundJudge(**{name: value}) for name, value in other.items()),
    ]
    assert len({judge.fingerprint for judge in judges}) == 7
    assert PlaygroundJudge().fingerprint == PlaygroundJudge().fingerprint


def test_ratings_are_quality_with_half_of_the_noise_variance_of_a_verdict():
    judge = PlaygroundJudge(accuracy=0.75, length_bias=0.2)
    prompts = [Prompt.from_text(text) for text in draw_prompts(400, split="train", seed=3)]
    answers = [completion(prompt, text) for prompt in prompts for text in ("tea is warm .", "no")]
    noise = [
        judge.score(p, a) - gold(p.text, a.text) / GOLD_SD - 0.2 * len(a.text) / LENGTH_SD
        for p, a in zip([prompt for prompt in prompts for _ in range(2)], answers, strict=True)
    ]
    assert np.mean(noise) == pytest.approx(0, abs=3 / math.sqrt(len(noise)))
    assert np.var(noise) == pytest.approx(judge.sigma**2 / 2, rel=3 * math.sqrt(2 / len(noise)))
    assert judge.score(prompts[0], answers[0]) == judge.score(prompts[0], answers[0])
    assert (
        PlaygroundJudge(accuracy=1.0).score(prompts[0], answers[0])
        == gold(prompts[0].text, answers[0].text) / GOLD_SD
    )
