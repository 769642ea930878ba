"""Preference pairs to token ids: truncation, and which pairs cannot be trained on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from prefine import chat
from prefine.errors import DataError
from prefine.records import PreferencePair


@dataclass(frozen=True)
class Example:
    """A pair as the model reads it. Completions end with the stop token unless they were cut."""

    id: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    p_chosen: float = 1.0
    weight: float = 1.0

    @property
    def longest(self) -> int:
        """Input positions of the longer side; a completion's last token is predicted but never read."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids)) - 1


class ExampleSet(NamedTuple):
    """What can be trained on, and what happened to the rest, by reason."""

    examples: list[Example]
    dropped: dict[str, int]
    truncated: dict[str, int]


def make_examples(
    pairs: Iterable[PreferencePair],
    tokenizer: chat.Tokenizer,
    *,
    stop_token_id: int,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    train_on_truncated: bool = False,
) -> ExampleSet:
    """Tokenise pairs; keep the end of a long prompt and the start of a long completion.

    Args:
        pairs: Preference pairs with one prompt for both sides.
        tokenizer: The policy's.
        stop_token_id: What generation stops on, see `chat.stop_token_id`.
        max_prompt_tokens: Longer prompts lose their beginning.
        max_completion_tokens: Longer completions lose their end, and with it the stop token.
        train_on_truncated: Keep completions that were cut by the generation limit.

    Raises:
        DataError: A pair has another prompt for its rejected side, or nothing is left to train on.
    """
    tokenizer_hash = chat.tokenizer_hash(tokenizer)
    prompts: dict[str, list[int]] = {}
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    truncated: Counter[str] = Counter()
    for pair in pairs:
        if pair.rejected_prompt is not None:
            raise DataError(f"pair {pair.id}: rejected_prompt is set; only joint losses compare answers to two prompts")
        sides = (pair.chosen, pair.rejected)
        if not train_on_truncated and any(side.finish_reason == "length" for side in sides):
            dropped["cut_by_generation_limit"] += 1
            continue
        if pair.prompt.id not in prompts:
            prompts[pair.prompt.id] = chat.prompt_ids(tokenizer, pair.prompt)
        prompt = prompts[pair.prompt.id]
        chosen, rejected = (
            chat.completion_ids(
                tokenizer, pair.prompt, side, tokenizer_hash=tokenizer_hash, stop_token_id=stop_token_id
            )
            for side in sides
        )
        if chosen is None or rejected is None:
            dropped["reasoning_or_tool_calls_without_token_ids"] += 1
            continue
        if not prompt:
            dropped["empty_prompt"] += 1
            continue
        if any(ids in ([], [stop_token_id]) for ids in (chosen, rejected)):
            dropped["empty_side"] += 1
            continue
        if chosen[:max_completion_tokens] == rejected[:max_completion_tokens]:
            dropped["sides_coincide"] += 1
            continue
        truncated["prompts"] += len(prompt) > max_prompt_tokens
        truncated["completions"] += sum(len(ids) > max_completion_tokens for ids in (chosen, rejected))
        examples.append(
            Example(
                id=pair.id,
                prompt_ids=tuple(prompt[-max_prompt_tokens:]),
                chosen_ids=tuple(chosen[:max_completion_tokens]),
                rejected_ids=tuple(rejected[:max_completion_tokens]),
                # A pair that states no probability was stated as certain.
                p_chosen=1.0 if pair.p_chosen is None else pair.p_chosen,
                weight=pair.weight,
            )
        )
    if not examples:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())) or "there was none"
        raise DataError(f"no preference pair is left to train on ({reasons})")
    return ExampleSet(examples, dict(dropped), {reason: count for reason, count in truncated.items() if count})
