"""Metrics of a run's texts: diversity of samples, overlap with training, suspicious answers."""

from typing import Annotated

from pydantic import Field

from prefine.metrics.protocol import Evidence, metric
from prefine.metrics.texts import overlap, screens
from prefine.metrics.texts.diversity import Grams, adjusted_distinct
from prefine.metrics.texts.diversity import diversity as over_prompts
from prefine.records import MetricValue


@metric("completions")
def diversity(
    evidence: Evidence,
    *,
    n: Annotated[int, Field(gt=0)] = 2,
    grams: Grams = "words",
    vocabulary: Annotated[int, Field(gt=1)] = 32_000,
) -> list[MetricValue]:
    """Diversity of the completions within and across prompts, and the share of distinct n-grams.

    Args:
        evidence: Of the run.
        n: Length of an n-gram.
        grams: Of words or characters.
        vocabulary: Possible n-grams, for the share that is adjusted to what chance gives.
    """
    samples_of = {
        prompt.id: [one.text for one in completions]
        for prompt, completions in evidence.completions
        if len(completions) > 1
    }
    return [
        *over_prompts(samples_of, n=n, grams=grams, **evidence.bootstrap),
        adjusted_distinct(samples_of, vocabulary=vocabulary, grams=grams),
    ]


@metric("answers")
def answer_diversity(
    evidence: Evidence,
    *,
    grams: Grams = "words",
    vocabulary: Annotated[int, Field(gt=1)] = 32_000,
) -> list[MetricValue]:
    """Diversity across the evaluation's answers, of the model and of the baseline, by n-grams.

    Args:
        evidence: Of the run.
        grams: Of words or characters.
        vocabulary: Possible n-grams, for the share that is adjusted to what chance gives.
    """
    found = []
    for side, texts in (
        ("model", {prompt.id: [after.text] for prompt, _, after in evidence.answers}),
        ("baseline", {prompt.id: [before.text] for prompt, before, _ in evidence.answers}),
    ):
        value = adjusted_distinct(texts, vocabulary=vocabulary, grams=grams)
        found.append(value.model_copy(update={"name": f"{side}_{value.name}"}))
    return found


@metric("training_prompts", "answers")
def exact_overlap(evidence: Evidence) -> list[MetricValue]:
    """The share of evaluation prompts that were trained on, but for case and white space."""
    return [overlap.exact_overlap(*_prompts(evidence)).rate]


@metric("training_prompts", "answers")
def near_overlap(
    evidence: Evidence,
    *,
    threshold: Annotated[float, Field(ge=0.3, le=1)] = 0.7,
    n: Annotated[int, Field(gt=0)] = 3,
) -> list[MetricValue]:
    """The share of evaluation prompts with nearly the word n-grams of one that was trained on.

    Args:
        evidence: Of the run.
        threshold: Least Jaccard similarity that counts.
        n: Words in an n-gram.
    """
    train, test = _prompts(evidence)
    return [overlap.near_overlap(train, test, threshold=threshold, n=n, seed=evidence.seed).rate]


@metric("answers")
def output_screens(evidence: Evidence) -> list[MetricValue]:
    """The shares of the model's answers that are empty, cut, repeated, or read like a verdict."""
    outputs = {prompt.id: after.text for prompt, _, after in evidence.answers}
    cut = screens.truncated_outputs(
        {prompt.id: after.finish_reason for prompt, _, after in evidence.answers}
    ).truncated
    found = [
        screens.empty_outputs(outputs),
        screens.identical_outputs(outputs),
        screens.verdict_like_outputs(outputs),
        *([] if cut is None else [cut]),
    ]
    return [screen.rate for screen in found]


def _prompts(evidence: Evidence) -> tuple[dict[str, str], dict[str, str]]:
    train = {prompt.id: prompt.text for prompt in evidence.training_prompts}
    return train, {prompt.id: prompt.text for prompt, _, _ in evidence.answers}
