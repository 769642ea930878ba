"""What a run may cost at the prices that the user gave: upper estimates from the lengths of texts, before any call."""

from collections.abc import Iterable, Mapping

from prefine.config.sections import Component, RunConfig
from prefine.judges import prompts
from prefine.records import Completion, Prompt

CHARACTERS_PER_TOKEN = 4
"""The usual rule for English; other languages take more tokens."""

_FRAME = 1500  # tags and instructions around the texts in a judge's prompt [characters]


def estimates(
    config: RunConfig,
    groups: Iterable[tuple[Prompt, list[Completion]]],
    *,
    duels: int,
    ratings: int,
) -> list[tuple[str, str]]:
    """Lines of (what, how much) for the plan; none without prices.

    Args:
        config: The configuration; its prices have been checked.
        groups: Prompts with their completions, or with none where they are still to be sampled.
        duels: The most duels of the ranking; the judge answers them.
        ratings: The most ratings; the scorer gives them, or else the judge.
    """
    sampling = _prices(config.sample.model if config.sample else None)
    judging = _prices_of_judge(config.rank.judge) if config.rank and duels else None
    rating = (
        _prices_of_judge(config.rank.scorer or config.rank.judge)
        if config.rank and ratings
        else None
    )
    if sampling is None and judging is None and rating is None:
        return []
    count, prompt_tokens, answer_tokens, answers = 0, 0.0, 0.0, 0
    for prompt, completions in groups:
        count += 1
        prompt_tokens += (
            sum(len(message.content) for message in prompt.messages) / CHARACTERS_PER_TOKEN
        )
        answer_tokens += (
            sum(len(completion.text) for completion in completions) / CHARACTERS_PER_TOKEN
        )
        answers += len(completions)
    lines = []
    if config.sample is not None and config.prompts is not None:
        answers = count * config.sample.completions_per_prompt
        answer_tokens = float(answers * config.sample.max_new_tokens)
        if sampling is not None:
            cost = sampling["prompt"] * prompt_tokens + sampling["completion"] * answer_tokens
            lines.append(("cost of sampling, about, at most", f"{cost / 1e6:,.2f}"))
    if count and answers:
        frame = (len(prompts.prompt_text("rubric")) + _FRAME) / CHARACTERS_PER_TOKEN
        for what, prices, calls, shown in (
            ("judging", judging, duels, 2),
            ("rating", rating, ratings, 1),
        ):
            if prices is not None:
                per_call = frame + prompt_tokens / count + shown * answer_tokens / answers
                cost = calls * (prices["prompt"] * per_call + prices["completion"])
                lines.append((f"cost of {what} in one token, about, at most", f"{cost / 1e6:,.2f}"))
    return lines


def _prices_of_judge(judge: Component) -> Mapping[str, float] | None:
    """The prices of the model that a judge asks, if it asks one."""
    asked = judge.options.get("model")
    return _prices(Component.model_validate(dict(asked))) if isinstance(asked, Mapping) else None


def _prices(model: Component | None) -> Mapping[str, float] | None:
    prices = None if model is None else model.options.get("prices")
    return prices if isinstance(prices, Mapping) else None
