"""Answers of several turns → token ids: the assistant's turns are scored, the others only read.

The ids are those of the conversation in the chat template: what the model reads before its last
turn, with its earlier turns as the template writes them there, and the last turn behind it.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from prefine import chat
from prefine.records import Completion, Message, Prompt

if TYPE_CHECKING:
    from prefine.tokenizer import Tokenizer

Runs = tuple[tuple[int, int], ...]
"""Places [start, stop) within an answer's token ids."""


class AnswerIds(NamedTuple):
    """Token ids of an answer; `scored` are those of the assistant's turns, () for all of them."""

    ids: list[int]
    scored: Runs = ()


class AssistantTurn(NamedTuple):
    """A turn of the assistant as an answer of its own, and the prompt that the model read."""

    prompt: Prompt
    completion: Completion


def assistant_turns(prompt: Prompt, completion: Completion) -> list[AssistantTurn]:
    """Return the assistant's turns of an answer, each behind all turns before it.

    Returns: None of them if the answer begins with another turn, or if two of the assistant's
        follow each other, for which no template opens a turn.
    """
    if not completion.earlier_turns:
        return [AssistantTurn(prompt, completion)]
    roles = [message.role for message in completion.messages]
    if roles[0] != "assistant" or ("assistant", "assistant") in pairwise(roles):
        return []
    # Stored ids of several turns do not say which of them are the assistant's.
    own = completion.model_copy(update={"earlier_turns": (), "token_ids": None})
    found, read = [], prompt
    for message in completion.earlier_turns:
        if message.role == "assistant":
            turn = own.model_copy(update={"message": message, "finish_reason": "stop"})
            found.append(AssistantTurn(read, turn))
        read = read.model_copy(update={"messages": _followed_by(read.messages, message)})
    return [*found, AssistantTurn(read, own)]


def _followed_by(messages: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    """Append a turn; the assistant's turn behind a prefill goes on with it."""
    *before, last = messages
    if message.role == last.role == "assistant":
        return (*before, message.model_copy(update={"content": last.content + message.content}))
    return (*messages, message)


def answer_ids(
    tokenizer: "Tokenizer",
    prompt: Prompt,
    completion: Completion,
    *,
    tokenizer_hash: str,
    stop_token_id: int,
) -> AnswerIds | None:
    """Return the token ids of an answer behind its prompt, and which of them are scored.

    Args:
        tokenizer: The policy's tokenizer.
        prompt: The prompt.
        completion: Its answer, of one turn or several.
        tokenizer_hash: Hash of `tokenizer`, computed once by the caller.
        stop_token_id: The token that generation stops on, see `chat.stop_token_id`.
    Returns: None as for `chat.completion_ids`, or if an earlier turn cannot be found in the
        conversation as the template writes it: the turn does not end with the stop token, or does
        not stand behind what the model had read.

    Raises:
        DataError: The template refuses the turns.
    """
    turns = assistant_turns(prompt, completion)
    if not turns:
        return None
    last = chat.completion_ids(
        tokenizer, *turns[-1], tokenizer_hash=tokenizer_hash, stop_token_id=stop_token_id
    )
    if last is None or len(turns) == 1:
        return None if last is None else AnswerIds(last)
    read = [chat.prompt_ids(tokenizer, turn.prompt) for turn in turns]
    begin, history = len(read[0]), read[-1]
    if history[:begin] != read[0]:
        return None
    runs: list[tuple[int, int]] = []
    for (before, after), (turn, reply) in zip(pairwise(read), pairwise(turns), strict=True):
        place = _place(history, before, stop_token_id)
        if place is None or not _ends_with_turn(
            tokenizer, turn, reply, before, after, stop_token_id
        ):
            return None
        runs.append((place[0] - begin, place[1] - begin))
    answer = [*history[begin:], *last]
    return AnswerIds(answer, (*runs, (len(history) - begin, len(answer))))


def _place(history: list[int], before: list[int], stop: int) -> tuple[int, int] | None:
    """Find the turn that was written behind `before`, through its stop token.

    A template may write turns before it otherwise by now, without their reasoning, so places are
    counted in turns: the stop tokens are as many as ever, and behind the last of them the turn is
    opened by the same tokens.
    """
    stops = [place + 1 for place, token in enumerate(history) if token == stop]
    count = before.count(stop)
    opening = before[len(before) - before[::-1].index(stop) :] if count else before
    if len(stops) <= count:
        return None
    opened = stops[count - 1] if count else 0
    start = opened + len(opening)
    return (start, stops[count]) if history[opened:start] == opening else None


def _ends_with_turn(
    tokenizer: "Tokenizer",
    turn: AssistantTurn,
    reply: AssistantTurn,
    before: list[int],
    after: list[int],
    stop: int,
) -> bool:
    """Return True if the stop token found ends this turn, and not one of those that follow it.

    Then the ids up to there are the same whatever follows.
    """
    place = _place(after, before, stop)
    if place is None:
        return False
    given = len(turn.prompt.messages) + (turn.prompt.messages[-1].role != "assistant")
    changed = tuple(
        message if number < given else message.model_copy(update={"content": f"0{message.content}"})
        for number, message in enumerate(reply.prompt.messages)
    )
    other = chat.prompt_ids(tokenizer, reply.prompt.model_copy(update={"messages": changed}))
    return other[: place[1]] == after[: place[1]]
