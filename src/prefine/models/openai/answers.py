"""The fields of a chat completion that are read; malformed ones are refused."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _joined(content: Any) -> Any:
    """Join a text that comes in parts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and "text" in part for part in content
    ):
        return "".join(str(part["text"]) for part in content)
    return content


class ResponseMessage(_Part):
    """The assistant's turn. Servers give reasoning under either of two names."""

    content: Annotated[str | None, BeforeValidator(_joined)] = None
    tool_calls: list[dict[str, JsonValue]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class TokenLogp(_Part):
    """A token as text, with its log-probability [nat]."""

    token: str
    logprob: float


class PositionLogps(TokenLogp):
    """The token that was written at a position, and the likeliest ones there."""

    top_logprobs: list[TokenLogp] | None = None


class TextLogps(_Part):
    """The log-probabilities of an answer, position by position."""

    content: list[PositionLogps] | None = None


class ResponseChoice(_Part):
    """One of the completions of a request."""

    message: ResponseMessage
    finish_reason: str | None = None
    logprobs: TextLogps | None = None

    @property
    def first_token(self) -> dict[str, float] | None:
        """The likeliest first tokens with their log-probabilities; None if they were not sent."""
        positions = self.logprobs.content if self.logprobs else None
        if not positions:
            return None
        return {
            item.token: item.logprob for item in (positions[0], *(positions[0].top_logprobs or ()))
        }


class TokenCounts(_Part):
    """The number of tokens that were used."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Answer(_Part):
    """A chat completion."""

    choices: list[ResponseChoice]
    usage: TokenCounts | None = None
