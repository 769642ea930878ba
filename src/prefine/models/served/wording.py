"""The body of a request: the prompt in the form that a server takes, and sampling settings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefine.models.served.engines import EngineName
from prefine.records import Prompt


class Wording(NamedTuple):
    """A prompt as it is sent: in our rendering, as token ids or text, or as messages.

    Args:
        prompt: The ids or the text; None for messages.
        messages: In the API's form.
        extra: Further fields that go with the messages.
    """

    prompt: str | Sequence[int] | None
    messages: Sequence[Mapping[str, Any]] = ()
    extra: Mapping[str, Any] = {}

    @property
    def ours(self) -> bool:
        """True if the prompt is in our rendering."""
        return self.prompt is not None

    @classmethod
    def of_messages(cls, prompt: Prompt) -> "Wording":
        """A prompt that the server renders by its template."""
        extra: dict[str, Any] = {}
        if prompt.chat_template_kwargs:
            extra["chat_template_kwargs"] = prompt.chat_template_kwargs
        if prompt.messages[-1].role == "assistant":
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        if prompt.tools:
            extra["tools"] = list(prompt.tools)
        messages = [
            message.model_dump(mode="json", exclude_none=True, exclude={"reasoning"})
            for message in prompt.messages
        ]
        return cls(None, messages, extra)


def sampling_fields(
    engine: EngineName,
    *,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    pad_id: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the OpenAI API and those that only this engine has.

    All settings are stated, since servers have defaults of their own (of the model's folder).

    Args:
        engine: The engine.
        temperature: 0 is greedy; None leaves it to the server.
        top_p: None is 1.
        top_k: None is all.
        max_new_tokens: The longest answer.
        stop_ids: Tokens that end an answer, of a prompt in our rendering.
        pad_id: The padding token, of a prompt in our rendering.
    """
    fields: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature}
    if engine in ("vllm", "sglang"):
        fields["top_p"] = 1.0 if top_p is None else top_p
        extra: dict[str, Any] = {"top_k": top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
        if stop_ids:
            extra |= {"stop_token_ids": list(stop_ids), "return_token_ids": True}
        return fields, extra
    if engine == "transformers":
        # Sampling is switched on by the folder's file, and top_k has a default of 50.
        config: dict[str, Any] = {
            "do_sample": temperature != 0,
            "top_k": top_k or 0,
            "top_p": 1.0 if top_p is None else top_p,
        }
        if stop_ids:
            config |= {"eos_token_id": list(stop_ids), "pad_token_id": pad_id}
        return fields, {"generation_config": json.dumps(config)}
    if top_p not in (None, 1):
        fields["top_p"] = top_p
    if top_k is not None:
        fields["top_k"] = top_k
    return fields, {}
