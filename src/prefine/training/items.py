"""Preference pairs to token ids: truncation, and which pairs cannot be trained on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from prefine import chat
from prefine.errors import DataError
from prefine.records import PreferencePair, Prompt


@dataclass(frozen=True)
class TokenizedPair:
    """A pair as the model reads it. Completions end with the stop token unless they were cut.

    `rejected_prompt_ids` is None unless the pair is joint: its rejected completion answers another
    prompt.
    """

    id: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    p_chosen: float | None = None
    weight: float = 1.0
    score_gap: float | None = None
    rejected_prompt_ids: tuple[int, ...] | None = None

    @property
    def longest(self) -> int:
        """Input positions of the longer side; a completion's last token is predicted but never read."""
        rejected_prompt = self.rejected_prompt_ids or self.prompt_ids
        return (
            max(
                len(self.prompt_ids) + len(self.chosen_ids),
                len(rejected_prompt) + len(self.rejected_ids),
            )
            - 1
        )


class TokenizedPairs(NamedTuple):
    """What can be trained on, and what happened to the rest, by reason."""

    examples: list[TokenizedPair]
    dropped: dict[str, int]
    truncated: dict[str, int]


class TokenizedOrNot(NamedTuple):
    """What became of one pair: an example or why there is none, and how much of it was shortened."""

    example: TokenizedPair | None
    dropped: str = ""
    long_prompts: int = 0
    long_completions: int = 0


class PairReader:
    """Turns pairs into token ids; keeps the end of a long prompt and the start of a long completion.

    Args:
        tokenizer: The policy's.
        stop_token_id: What generation stops on, see `chat.stop_token_id`.
        max_prompt_tokens: Longer prompts lose their beginning.
        max_completion_tokens: Longer completions lose their end, and with it the stop token.
        train_on_truncated: Keep completions that were cut by the generation limit.
        joint: Whether a pair's rejected completion may answer another prompt.
    """

    def __init__(
        self,
        tokenizer: chat.Tokenizer,
        *,
        stop_token_id: int,
        max_prompt_tokens: int,
        max_completion_tokens: int,
        train_on_truncated: bool = False,
        joint: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._tokenizer_hash = chat.tokenizer_hash(tokenizer)
        self._stop = stop_token_id
        self._max_prompt, self._max_completion = max_prompt_tokens, max_completion_tokens
        self._train_on_truncated = train_on_truncated
        self._joint = joint
        self._prompts: dict[str, list[int]] = {}

    def read(self, pair: PreferencePair) -> TokenizedOrNot:
        """One pair.

        Raises:
            DataError: It has another prompt for its rejected side, and no joint loss reads it.
        """
        if pair.rejected_prompt is not None and not self._joint:
            raise DataError(
                f"pair {pair.id}: rejected_prompt is set; only joint losses compare answers to "
                "two prompts"
            )
        sides = (pair.chosen, pair.rejected)
        if not self._train_on_truncated and any(side.finish_reason == "length" for side in sides):
            return TokenizedOrNot(None, "cut_by_generation_limit")
        prompts = (pair.prompt, pair.rejected_prompt or pair.prompt)
        prompt, other = map(self._prompt, prompts)
        chosen, rejected = (
            chat.completion_ids(
                self._tokenizer,
                whose,
                side,
                tokenizer_hash=self._tokenizer_hash,
                stop_token_id=self._stop,
            )
            for whose, side in zip(prompts, sides, strict=True)
        )
        if chosen is None or rejected is None:
            return TokenizedOrNot(None, "reasoning_or_tool_calls_without_token_ids")
        if not prompt or not other:
            return TokenizedOrNot(None, "empty_prompt")
        if any(ids in ([], [self._stop]) for ids in (chosen, rejected)):
            return TokenizedOrNot(None, "empty_side")
        kept, other_kept = (tuple(ids[-self._max_prompt :]) for ids in (prompt, other))
        if (
            kept == other_kept
            and chosen[: self._max_completion] == rejected[: self._max_completion]
        ):
            return TokenizedOrNot(None, "sides_coincide")
        example = TokenizedPair(
            id=pair.id,
            prompt_ids=kept,
            chosen_ids=tuple(chosen[: self._max_completion]),
            rejected_ids=tuple(rejected[: self._max_completion]),
            p_chosen=pair.p_chosen,
            weight=pair.weight,
            score_gap=pair.score_gap,
            rejected_prompt_ids=None if pair.rejected_prompt is None else other_kept,
        )
        read = (prompt,) if pair.rejected_prompt is None else (prompt, other)
        return TokenizedOrNot(
            example,
            long_prompts=sum(len(ids) > self._max_prompt for ids in read),
            long_completions=sum(len(ids) > self._max_completion for ids in (chosen, rejected)),
        )

    def _prompt(self, prompt: Prompt) -> list[int]:
        if prompt.id not in self._prompts:
            self._prompts[prompt.id] = chat.prompt_ids(self._tokenizer, prompt)
        return self._prompts[prompt.id]


def make_examples(pairs: Iterable[PreferencePair], reader: PairReader) -> TokenizedPairs:
    """All pairs that can be trained on, and counts of the rest.

    Raises:
        DataError: A pair that is not read jointly has another prompt for its rejected side, or no
            pair is left.
    """
    examples: list[TokenizedPair] = []
    dropped: Counter[str] = Counter()
    truncated: Counter[str] = Counter()
    for pair in pairs:
        reading = reader.read(pair)
        truncated.update(prompts=reading.long_prompts, completions=reading.long_completions)
        if reading.example is None:
            dropped[reading.dropped] += 1
        else:
            examples.append(reading.example)
    if not examples:
        reasons = (
            ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items()))
            or "there was none"
        )
        raise DataError(f"no preference pair is left ({reasons})")
    return TokenizedPairs(
        examples, dict(dropped), {reason: count for reason, count in truncated.items() if count}
    )
