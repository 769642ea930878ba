"""What a run may cost at the prices that the user gave: upper estimates from the lengths of texts, before any call."""

from collections.abc import Iterable, Mapping

from prefine.config import Component, RunConfig
from prefine.judges import pairwise
from prefine.records import Completion, Prompt

CHARACTERS_PER_TOKEN = 4
"""The usual rule for English; other languages take more tokens."""

_FRAME = 1500  # tags and instructions around the texts in a judge's prompt [characters]


def estimates(
    config: RunConfig, groups: Iterable[tuple[Prompt, list[Completion]]], *, judge_calls: int
) -> list[tuple[str, str]]:
    """Lines of (what, how much) for the plan; none without prices.

    Args:
        config: The configuration; its prices have been checked.
        groups: Prompts with their completions, or with none where they are still to be sampled.
        judge_calls: The most calls of the ranking.
    """
    sampling = _prices(config.sample.model if config.sample else None)
    asked = config.rank.judge.options.get("model") if config.rank else None
    judging = _prices(Component.model_validate(dict(asked))) if isinstance(asked, Mapping) else None
    if sampling is None and judging is None:
        return []
    count, prompt_tokens, answer_tokens, answers = 0, 0.0, 0.0, 0
    for prompt, completions in groups:
        count += 1
        prompt_tokens += sum(len(message.content) for message in prompt.messages) / CHARACTERS_PER_TOKEN
        answer_tokens += sum(len(completion.text) for completion in completions) / CHARACTERS_PER_TOKEN
        answers += len(completions)
    lines = []
    if config.sample is not None and config.prompts is not None:
        answers = count * config.sample.completions_per_prompt
        answer_tokens = float(answers * config.sample.max_new_tokens)
        if sampling is not None:
            cost = sampling["prompt"] * prompt_tokens + sampling["completion"] * answer_tokens
            lines.append(("cost of sampling, about, at most", f"{cost / 1e6:,.2f}"))
    if judging is not None and config.rank is not None and count and answers:
        frame = (len(pairwise.prompt_text("rubric")) + _FRAME) / CHARACTERS_PER_TOKEN
        per_call = frame + prompt_tokens / count + 2 * answer_tokens / answers
        cost = judge_calls * (judging["prompt"] * per_call + judging["completion"])
        lines.append(("cost of judging in one token, about, at most", f"{cost / 1e6:,.2f}"))
    return lines


def _prices(model: Component | None) -> Mapping[str, float] | None:
    prices = None if model is None else model.options.get("prices")
    return prices if isinstance(prices, Mapping) else None
