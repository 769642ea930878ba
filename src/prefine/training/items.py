"""Preference pairs to token ids: truncation, and reasons to drop a pair."""

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
        """Input positions of the longer side; a completion's last token is never an input."""
        rejected_prompt = self.rejected_prompt_ids or self.prompt_ids
        return (
            max(
                len(self.prompt_ids) + len(self.chosen_ids),
                len(rejected_prompt) + len(self.rejected_ids),
            )
            - 1
        )


class TokenizedPairs(NamedTuple):
    """The pairs that can be trained on, and counts of dropped and shortened ones, by reason."""

    examples: list[TokenizedPair]
    dropped: dict[str, int]
    truncated: dict[str, int]


class TokenizedOrNot(NamedTuple):
    """One tokenized pair, or the reason to drop it, and how many of its texts are shortened."""

    example: TokenizedPair | None
    dropped: str = ""
    long_prompts: int = 0
    long_completions: int = 0


class PairReader:
    """Tokenizes pairs; keeps the end of a long prompt and the start of a long completion.

    Args:
        tokenizer: The policy's.
        stop_token_id: The token on which generation stops, see `chat.stop_token_id`.
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
        self._tokenizer, self._stop = tokenizer, stop_token_id
        self._tokenizer_hash = chat.tokenizer_hash(tokenizer)
        self._max_prompt, self._max_completion = max_prompt_tokens, max_completion_tokens
        self._train_on_truncated, self._joint = train_on_truncated, joint
        self._prompts: dict[str, list[int]] = {}

    def read(self, pair: PreferencePair) -> TokenizedOrNot:
        """Tokenize one pair.

        Raises:
            DataError: It has another prompt for its rejected side, and the loss is not joint.
        """
        if pair.rejected_prompt is not None and not self._joint:
            raise DataError(
                f"pair {pair.id}: rejected_prompt is set; only joint losses compare answers to "
                "two prompts"
            )
        if not self._train_on_truncated and "length" in (
            pair.chosen.finish_reason,
            pair.rejected.finish_reason,
        ):
            return TokenizedOrNot(None, "cut_by_generation_limit")
        other = pair.rejected_prompt or pair.prompt
        prompt_ids, other_ids = self._prompt_ids(pair.prompt), self._prompt_ids(other)
        chosen_ids, rejected_ids = (
            chat.completion_ids(
                self._tokenizer,
                prompt,
                side,
                tokenizer_hash=self._tokenizer_hash,
                stop_token_id=self._stop,
            )
            for prompt, side in ((pair.prompt, pair.chosen), (other, pair.rejected))
        )
        if chosen_ids is None or rejected_ids is None:
            return TokenizedOrNot(None, "reasoning_or_tool_calls_without_token_ids")
        if not prompt_ids or not other_ids:
            return TokenizedOrNot(None, "empty_prompt")
        if any(ids in ([], [self._stop]) for ids in (chosen_ids, rejected_ids)):
            return TokenizedOrNot(None, "empty_side")
        prompt, rejected_prompt = (
            tuple(ids[-self._max_prompt :]) for ids in (prompt_ids, other_ids)
        )
        chosen, rejected = (
            tuple(ids[: self._max_completion]) for ids in (chosen_ids, rejected_ids)
        )
        if (prompt, chosen) == (rejected_prompt, rejected):
            return TokenizedOrNot(None, "sides_coincide")
        joint = pair.rejected_prompt is not None
        example = TokenizedPair(
            id=pair.id,
            prompt_ids=prompt,
            chosen_ids=chosen,
            rejected_ids=rejected,
            p_chosen=pair.p_chosen,
            weight=pair.weight,
            score_gap=pair.score_gap,
            rejected_prompt_ids=rejected_prompt if joint else None,
        )
        prompts = (prompt_ids, other_ids) if joint else (prompt_ids,)
        return TokenizedOrNot(
            example,
            long_prompts=sum(len(ids) > self._max_prompt for ids in prompts),
            long_completions=sum(
                len(ids) > self._max_completion for ids in (chosen_ids, rejected_ids)
            ),
        )

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if prompt.id not in self._prompts:
            self._prompts[prompt.id] = chat.prompt_ids(self._tokenizer, prompt)
        return self._prompts[prompt.id]


def make_examples(pairs: Iterable[PreferencePair], reader: PairReader) -> TokenizedPairs:
    """Tokenize all pairs that can be trained on, and count the rest.

    Raises:
        DataError: A pair has another prompt for its rejected side and the loss is not joint, or no
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
        reasons = [f"{reason}: {count}" for reason, count in sorted(dropped.items())]
        raise DataError(f"no preference pair is left ({', '.join(reasons) or 'there was none'})")
    # Unary plus drops zero counts.
    return TokenizedPairs(examples, dict(dropped), dict(+truncated))
