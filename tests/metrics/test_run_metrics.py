"""The metrics that a configuration can name: right values by hand, on evidence made by hand."""

import math
from typing import Any

import numpy as np
import pytest

from prefine.config.components import TABLES, bind
from prefine.errors import ConfigError
from prefine.metrics.protocol import AnswerPair, Evidence, HeldOutPairs, needs_of
from prefine.records import Comparison, Completion, Judgment, Message, MetricValue, Prompt

PROMPTS = [Prompt.from_text(text) for text in ("one", "two", "three", "four")]


def completion(prompt: Prompt, name: str, text: str, finish: Any = "stop") -> Completion:
    return Completion(
        id=f"{prompt.text} {name}",
        prompt_id=prompt.id,
        sample_index=0,
        message=Message(role="assistant", content=text),
        finish_reason=finish,
    )


def judgment(prompt: Prompt, first: str, second: str, p_first: float | None) -> Judgment:
    return Judgment(
        comparison=Comparison(
            prompt_id=prompt.id, first=f"{prompt.text} {first}", second=f"{prompt.text} {second}"
        ),
        judge="j",
        p_first=p_first,
        error=None if p_first is not None else "no verdict",
    )


def figures(name: str, evidence: Evidence, **options: Any) -> dict[str, MetricValue]:
    metric = bind("metric", name, options, where="metric")
    return {value.name: value for value in metric(evidence)}


def values(name: str, evidence: Evidence, **options: Any) -> dict[str, float]:
    return {key: value.value for key, value in figures(name, evidence, **options).items()}


# Log-ratios of the chosen answers: -1, +1, -6, 0; margins 1, 3, -4, 0.
PAIRS = HeldOutPairs(
    prompt_ids=[prompt.id for prompt in PROMPTS],
    chosen=np.array([-11.0, -9.0, -16.0, -10.0]),
    rejected=np.array([-14.0, -14.0, -12.0, -12.0]),
    ref_chosen=np.array([-10.0, -10.0, -10.0, -10.0]),
    ref_rejected=np.array([-12.0, -12.0, -10.5, -12.0]),
    chosen_tokens=np.array([10.0, 2.0, 4.0, 5.0]),
    rejected_tokens=np.array([7.0, 7.0, 2.0, 7.0]),
    p_chosen=np.array([0.9, np.nan, 0.6, 0.8]),
)


def test_displacement_is_that_of_log_ratios_to_the_reference() -> None:
    found = values("displacement", Evidence(held_out_pairs=PAIRS), delta=5.0)
    assert found["chosen_log_ratio_mean"] == pytest.approx(-1.5)
    assert found["rejected_log_ratio_mean"] == pytest.approx((-2 - 2 - 1.5 + 0) / 4)
    assert found["margin_mean"] == pytest.approx(-1.5 + 5.5 / 4)
    assert (found["chosen_fell"], found["chosen_fell_beyond_budget"]) == (50.0, 25.0)
    assert values("displacement", Evidence(held_out_pairs=PAIRS), delta=6.0)[
        "chosen_fell_beyond_budget"
    ] == (0.0)


def test_rankings_by_likelihood_before_and_after() -> None:
    evidence = Evidence(held_out_pairs=PAIRS)
    assert values("ranking_accuracy", evidence) == {
        "reference_ranking_accuracy": 100.0,
        "ranking_accuracy": 75.0,
        # Per token: -1.1 > -2, -4.5 < -2, -4 > -6, -2 < -1.7.
        "length_normalised_ranking_accuracy": 50.0,
    }
    flips = values("ranking_flips", evidence)
    assert (flips["rankings_became_wrong"], flips["rankings_stayed_right"]) == (25.0, 75.0)
    # At every beta the optimum ranks right: rw - rl > 0 and logit(p) > 0. Three pairs state p.
    ideal = figures("idealised_ranking_accuracy", evidence, betas=[0.1, 1.0])
    assert {value.value for value in ideal.values()} == {100.0}
    assert {value.n for value in ideal.values()} == {3}
    nothing = PAIRS._replace(p_chosen=np.full(4, np.nan))
    with pytest.raises(ValueError, match="no held-out pair states"):
        values("idealised_ranking_accuracy", Evidence(held_out_pairs=nothing))


def test_a_list_is_ranked_right_as_a_whole() -> None:
    lists = [np.array([-1.0, -2.0, -3.0]), np.array([-1.0, -3.0, -2.0]), np.array([-5.0, -5.0])]
    found = values("list_ranking_accuracy", Evidence(held_out_lists=lists))
    assert found == {"list_ranking_accuracy": pytest.approx(100 / 3)}


def test_alarms_are_counted_over_the_evaluations() -> None:
    log = [
        {"top_entropy_renormalised": entropy, "top_mass": mass, "margin": margin}
        for entropy, mass, margin in ((2.0, 0.9, 0.0), (1.0, 0.9, 1.0), (1.0, 0.5, 2.0))
    ]
    options = {"keep": 0.0, "entropy_fall": 0.2, "mass_fall": 0.05}
    found = values("likelihood_alarms", Evidence(evaluation_log=log), **options)
    assert found == {"collapse_alarms": 2, "diffusion_alarms": 1, "turn_alarms": 0}


def judged() -> Evidence:
    """Judge and gold agree on one, disagree on two, tie on three; four has no verdict."""
    answers = [
        AnswerPair(prompt, completion(prompt, "a", "before"), completion(prompt, "b", "after!"))
        for prompt in PROMPTS
    ]
    said = [(0.9, 0.3), (0.2, 0.8), (0.5, 0.5), (None, 0.9)]
    verdicts = [
        judgment(prompt, *order, p)
        for prompt, both in zip(PROMPTS, said, strict=True)
        for order, p in zip((("b", "a"), ("a", "b")), both, strict=True)
    ]
    gaps = dict(zip([prompt.id for prompt in PROMPTS], (0.5, 0.25, 0.0, 1.0), strict=True))
    return Evidence(answers=answers, verdicts=verdicts, gold=gaps)


def test_the_judge_is_held_against_gold() -> None:
    agreement = figures("judge_agreement", judged())
    assert agreement["agreement"].value == pytest.approx(200 / 3)
    assert agreement["agreement"].n == 3
    # P(after) by both orders: .8, .2, .5; gold says 1, 1, .5.
    found = values("judge_calibration", judged())
    assert found["brier_score"] == pytest.approx((0.04 + 0.64 + 0.0) / 3)
    assert found["expected_calibration_error"] == pytest.approx(100 * (0.2 + 0.8 + 0.0) / 3)


def test_the_judgments_of_a_ranking() -> None:
    one, two = PROMPTS[:2]
    judgments = [
        judgment(one, "a", "b", 0.9),
        judgment(one, "b", "a", 0.3),
        judgment(one, "b", "c", 0.8),
        judgment(one, "c", "a", 0.7),
        judgment(two, "a", "b", 0.5),
        judgment(two, "a", "b", None),
    ]
    rates = values("verdict_rates", Evidence(judgments=judgments))
    assert rates["tie_rate"] == pytest.approx(20) and rates["failure_rate"] == pytest.approx(
        100 / 6
    )
    assert rates["ranking_first_slot_rate"] == pytest.approx(100 * (1 + 0 + 1 + 1 + 0.5) / 5)
    # a beats b (the mean of .9 and .7), b beats c, c beats a.
    assert values("cyclic_triads", Evidence(judgments=judgments)) == {"cyclic_triads": 100.0}
    with pytest.raises(ValueError, match="no three answers"):
        values("cyclic_triads", Evidence(judgments=judgments[:3]))
    texts = {"a": "long answer", "b": "short", "c": "middling"}
    groups = [
        (prompt, [completion(prompt, name, text) for name, text in texts.items()])
        for prompt in (one, two)
    ]
    # The longer one wins in the duels a-b, b-a and c-a not, b-c not, a tie counts half.
    preference = values("length_preference", Evidence(completions=groups, judgments=judgments))
    assert preference == {"length_preference": pytest.approx(100 * (1 + 1 + 0 + 0 + 0.5) / 5)}


def test_texts() -> None:
    one, two = PROMPTS[:2]
    groups = [
        (one, [completion(one, "a", "x y z"), completion(one, "b", "x y z")]),
        (two, [completion(two, "a", "p q r"), completion(two, "b", "s t u")]),
        (PROMPTS[2], [completion(PROMPTS[2], "a", "alone")]),
    ]
    found = values("diversity", Evidence(completions=groups))
    assert found["diversity_within_prompts_2_words"] == pytest.approx(0.5)
    assert found["distinct_2_words"] == pytest.approx((2 / 4 + 1) / 2)
    assert "distinct_1_characters" in values(
        "diversity", Evidence(completions=groups), n=1, grams="characters"
    )
    answers = [
        AnswerPair(prompt, completion(prompt, "a", "b"), completion(prompt, "b", text, finish))
        for prompt, text, finish in zip(
            PROMPTS,
            ("", "same", "same", "cut off"),
            ("stop", "stop", "stop", "length"),
            strict=True,
        )
    ]
    screens = values("output_screens", Evidence(answers=answers))
    assert screens == {
        "empty_outputs": 25.0,
        "identical_outputs": 50.0,
        "verdict_like_outputs": 0.0,
        "truncated_outputs": 25.0,
    }
    # Of two possible n-grams, C of them have 2 - 2 / 2^C different ones by chance: 4 texts of one
    # gram 1.875; "", "same", "same" and "cut off" are 5 grams of one word.
    assert values("answer_diversity", Evidence(answers=answers), vocabulary=2) == {
        "model_adjusted_distinct_5_words": pytest.approx((4 / 1.9375 + 4 * 3 / 1.875) / 5),
        "baseline_adjusted_distinct_5_words": pytest.approx(1 / 1.875),
    }
    trained = [Prompt.from_text(" ONE "), Prompt.from_text("five")]
    evidence = Evidence(answers=answers, training_prompts=trained)
    assert values("exact_overlap", evidence) == {"exact_overlap": 25.0}


def test_near_overlap_finds_a_prompt_in_nearly_the_same_words() -> None:
    pytest.importorskip("rensa")
    words = [f"word{n}" for n in range(20)]
    near = Prompt.from_text(" ".join([*words[:-1], "other"]))
    answers = [
        AnswerPair(prompt, completion(prompt, "a", "b"), completion(prompt, "b", "c"))
        for prompt in (near, PROMPTS[0])
    ]
    trained = [Prompt.from_text(" ".join(words))]
    evidence = Evidence(answers=answers, training_prompts=trained)
    assert values("near_overlap", evidence) == {"near_overlap": 50.0}
    assert values("near_overlap", evidence, threshold=0.95) == {"near_overlap": 0.0}


@pytest.mark.parametrize("name", sorted(TABLES["metric"]))
def test_every_metric_says_what_it_needs(name: str) -> None:
    function = bind("metric", name, {}, where="x").func  # type: ignore[attr-defined]
    assert needs_of(function, where="x") <= set(Evidence.__dataclass_fields__)


def test_a_function_that_declares_nothing_is_no_metric() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.metrics\.0\.name: .* does not say what it"):
        needs_of(math.fsum, where="evaluate.metrics.0.name")
